/*
 * Absorbed decoding from rows of eight bits (latent_row.h), with tensor cores since Ampere.
 *
 * The rung mma with another kind of row: 656 bytes a token instead of 1152, if the codes become
 * numbers on the way without getting in it. A tile of them in shared memory, as numbers, would be
 * written and read twice; its bandwidth would be the limit.
 * So codes stay codes up to the registers, and each is converted twice, once as a key and once as a
 * value. That must cost next to nothing: E4M3 becomes half precision, exactly, two numbers by one
 * instruction; the products are those of halves; and scales are not multiplied into numbers at all:
 *
 *   S = Q Z^T     a warp has a quarter of the columns, which is one group of scales: the quarter's
 *                 sum, times the token's scale; then the rope part, whose numbers are BF16. A sum
 *                 does not mind its columns' order: a lane has 32 in a row of its token, two loads.
 *   O += P C      the scale goes to P, where it is exact: it is a power of two. (Others, which only
 *                 another program's rows could have, are rounded.) ldmatrix transposes blocks of 16
 *                 bits, here two columns of a token: its registers hold two tokens of two columns,
 *                 and are two operands, one for all even columns, one for the odd ones.
 *
 * Halves have a smaller range than BF16. So Q is multiplied by 2^-8, and P by 2^8: then numbers of
 * a query up to 2^24 fit, and scales up to 2^8, latents of 2^16; what is larger becomes an infinity
 * and, with its logits, is found. Small numbers lose no more than 2^-16 of the largest.
 *
 * A row lies in shared memory as it does in the cache of V3's sizes, so that a tile is one copy; of
 * other sizes its three parts have the same places, and what they leave free is zero. 656 bytes are
 * an odd number of 16s: eight rows that are read at once meet all banks.
 *
 * With 16 rows of queries two blocks fit on a processor: one computes while the other waits at a
 * barrier. What limits all the same is not memory but instructions and barriers: on an NVIDIA H200
 * a batch of 128 with 16 heads and 8192 tokens takes 290 us, 55 % of the copy's bandwidth, and the
 * rung hopper 303 us (93 %) with BF16 rows (08_quant/bench_decode). With 32 rows and more a page is
 * converted again for every 32: 442 us for 32 heads, 1.6 ms for 128, where hopper takes 304 and
 * 439. There, rows of eight bits save memory, and no time.
 */
#include "04_mla/cuda/mla_decode_mma.cuh"
#include "common/cuda/codes.cuh"

/* A row in shared memory: codes, scales, key. */
template <int KV> struct Row {
    static constexpr int SCALES = KV, KEY = KV + 16, BYTES = KEY + 2 * ROPE, TILE = KEYS * BYTES;
    static constexpr int QUARTER = KV / QUARTERS; /* columns that a warp has of S's sum */
    static constexpr int LANE = QUARTER / 4;      /* and a lane */
    static constexpr int WORDS = LANE / 4;
    static constexpr int EIGHTH = KV / WARPS; /* columns that a warp has of O */
};

/* Is a row in memory what it is in shared memory? */
template <int KV>
static __host__ __device__ __forceinline__ bool whole_rows(const MlaDecodeShape &s) {
    return s.kv_lora_rank == KV && s.rope_dim == ROPE && latent_row_key(KV) == Row<KV>::KEY;
}

/* Tokens first .. first + KEYS - 1, all of this page; zeros from `length` on, scales too. */
template <int KV>
static __device__ __forceinline__ void load_tile(unsigned char *tile, const unsigned char *latent,
                                                 int page, int first, int length,
                                                 const MlaDecodeShape &s) {
    typedef Row<KV> R;
    int64_t token = (int64_t)page * PAGE_TOKENS + first % PAGE_TOKENS;
    if (whole_rows<KV>(s)) {
        const int mine = threadIdx.x * 16;
        const unsigned char *from = latent + token * R::BYTES + mine;
        if (first + KEYS <= length) {
#pragma unroll
            for (int i = 0; i < R::TILE; i += THREADS * 16)
                if (i + THREADS * 16 <= R::TILE || i + mine < R::TILE)
                    cp_async_16(tile + mine + i, from + i, true);
        } else {
#pragma unroll 1
            for (int i = 0; i + mine < R::TILE; i += THREADS * 16)
                cp_async_16(tile + mine + i, from + i, first + (i + mine) / R::BYTES < length);
        }
        return;
    }
    int row = threadIdx.x / 8, key = (int)latent_row_key(s.kv_lora_rank);
    int bytes = (int)latent_row_bytes(s.kv_lora_rank, s.rope_dim);
    const unsigned char *from = latent + (token + row) * bytes;
    unsigned char *to = tile + row * R::BYTES;
#pragma unroll 4
    for (int i = threadIdx.x % 8 * 4; i < bytes; i += 32) {
        int at = i < s.kv_lora_rank ? i
                 : i < key          ? i - s.kv_lora_rank + R::SCALES
                                    : i - key + R::KEY;
        cp_async_4(to + at, from + i, first + row < length);
    }
}

/* By what P is multiplied and Q is divided. */
static constexpr float TIMES = 256;

/* Two of half precision, the first in the lower half. */
static __device__ __forceinline__ uint32_t pack_f16(float a, float b) {
    __half2 h = __floats2half2_rn(a, b);
    return *(uint32_t *)&h;
}
/* Two of BF16, times a factor. */
static __device__ __forceinline__ uint32_t halves_of(uint32_t two, float factor) {
    return pack_f16(__uint_as_float(two << 16) * factor,
                    __uint_as_float(two & 0xffff0000u) * factor);
}
static __device__ __forceinline__ uint32_t half_times(uint32_t a, uint32_t b) {
    __half2 d = __hmul2(*(__half2 *)&a, *(__half2 *)&b);
    return *(uint32_t *)&d;
}

struct AsF16 {
    static constexpr float TIMES = ::TIMES;
    static __device__ __forceinline__ uint32_t pack(float a, float b) {
        return pack_f16(a * TIMES, b * TIMES);
    }
};

/* The warp's quarter of the columns of rows first .. first + 16 M - 1, in multiply_qk's order;
 * zeros past `rows`. */
template <int KV, int M>
static __device__ __forceinline__ void load_queries(Warp<KV, M> &w, const bf16 *q, int first,
                                                    const MlaDecodeShape &s) {
    int lane = threadIdx.x % 32, quarter = threadIdx.x / 32 % QUARTERS;
    int width = s.kv_lora_rank + s.rope_dim;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int step = 0; step < Warp<KV, M>::STEPS; step++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = first + 16 * m + lane / 4 + i % 2 * 8;
                int c =
                    quarter * Row<KV>::QUARTER + lane % 4 * Row<KV>::LANE + 4 * step + i / 2 * 2;
                bool there = c < s.kv_lora_rank;
                if (step == Warp<KV, M>::STEPS - 1) { /* the rope part, as mma.cuh has it */
                    c = quarter * 16 + i / 2 * 8 + lane % 4 * 2;
                    there = c < s.rope_dim;
                    c += s.kv_lora_rank;
                }
                uint32_t two = row < mla_rows(s) && there
                                   ? *(const uint32_t *)(q + (int64_t)row * width + c)
                                   : 0;
                w.q[m][step][i] = step == Warp<KV, M>::STEPS - 1 ? two : halves_of(two, 1 / TIMES);
            }
}

/* The lane's codes of a token, as words. */
template <int WORDS>
static __device__ __forceinline__ void load_words(uint32_t (&w)[WORDS], const unsigned char *from) {
    static_assert(WORDS == 2 || WORDS % 4 == 0, "loads of 8 or of 16 bytes");
    if (WORDS == 2) {
        uint2 v = *(const uint2 *)from;
        w[0] = v.x, w[WORDS - 1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i + 3 < WORDS; i += 4) {
            uint4 v = *(const uint4 *)(from + 4 * i);
            w[i] = v.x, w[i + 1] = v.y, w[i + 2] = v.z, w[i + 3] = v.w;
        }
    }
}

static __device__ __forceinline__ float scale_of(const unsigned char *row, int at) {
    return *(const float *)(row + at);
}

/* The warp's quarter of the sum for its half of the tile's tokens, into shared memory. */
template <int KV, int M>
static __device__ __forceinline__ void multiply_qk(Shared<KV, M> &shared, const Warp<KV, M> &w,
                                                   const unsigned char *tile) {
    typedef Row<KV> R;
    constexpr int LAST = Warp<KV, M>::STEPS - 1;
    static_assert(LAST == R::WORDS, "a word for each step");
    int lane = lane_now(), quarter = threadIdx.x / 32 % QUARTERS, half = threadIdx.x / 128;
    const unsigned char *row = tile + (half * 16 + lane / 4) * R::BYTES;
    const int columns = quarter * R::QUARTER + lane % 4 * R::LANE;
    const int scale = R::SCALES + quarter * R::QUARTER / LATENT_GROUP * 4;
    uint32_t z[4]; /* rope: tokens 0-7, then 8-15, each with both halves of the 16 columns */
    ldmatrix_x4(z, tile + (half * 16 + lane / 16 * 8 + lane % 8) * R::BYTES + R::KEY +
                       (quarter * 16 + lane / 8 % 2 * 8) * 2);
#pragma unroll
    for (int j = 0; j < 2; j++) { /* eight tokens */
        float sum[2][M][4] = {};  /* two chains */
        uint32_t word[R::WORDS];
        load_words(word, row + 8 * j * R::BYTES + columns);
        const unsigned char *token = tile + (half * 16 + 8 * j + lane % 4 * 2) * R::BYTES;
        const float s[2] = {scale_of(token, scale) * TIMES,
                            scale_of(token + R::BYTES, scale) * TIMES};
#pragma unroll
        for (int step = 0; step < LAST; step++) {
            const uint32_t c[2] = {e4m3_half_pair<0>(word[step]), e4m3_half_pair<1>(word[step])};
#pragma unroll
            for (int m = 0; m < M; m++) mma_f16(sum[step % 2][m], w.q[m][step], c);
        }
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) sum[0][m][i] = (sum[0][m][i] + sum[1][m][i]) * s[i % 2];
            mma_bf16(sum[0][m], w.q[m][LAST], z + 2 * j);
#pragma unroll
            for (int r = 0; r < 2; r++)
                *(float2 *)&shared
                     .part[quarter][16 * m + 8 * r + lane / 4][half * 16 + j * 8 + lane % 4 * 2] =
                    make_float2(sum[0][m][2 * r], sum[0][m][2 * r + 1]);
        }
    }
}

/* rescale(), unless no row of the tile has a new maximum, which is usual. */
template <int KV, int M>
static __device__ __forceinline__ void rescale_some(Warp<KV, M> &w, const Shared<KV, M> &shared) {
    bool any = false;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            any |= shared.factor[16 * m + 8 * r + threadIdx.x % 32 / 4] != 1.0f;
    if (__any_sync(~0u, any)) rescale(w, shared);
}

/* The scales of two tokens. */
static __device__ __forceinline__ uint32_t scale_pair(const unsigned char *row, int bytes, int at) {
    return pack_f16(scale_of(row, at), scale_of(row + bytes, at));
}

/* A warp has EIGHTH columns in a row, in blocks of 16. */
template <int KV, int M>
static __device__ __forceinline__ void multiply_pc(Warp<KV, M> &w, const Shared<KV, M> &shared,
                                                   const unsigned char *tile) {
    typedef Row<KV> R;
    static_assert(KEYS == 32, "a lane gives ldmatrix the address of a token");
    int lane = lane_now(), columns = threadIdx.x / 32 * R::EIGHTH;
    uint32_t p[2][M][4]; /* of 16 tokens each */
#pragma unroll
    for (int step = 0; step < 2; step++) {
        const unsigned char *row = tile + (step * 16 + lane % 4 * 2) * R::BYTES;
        const int at = R::SCALES + columns / LATENT_GROUP * 4;
        const uint32_t s[2] = {scale_pair(row, R::BYTES, at),
                               scale_pair(row + 8 * R::BYTES, R::BYTES, at)};
#pragma unroll
        for (int m = 0; m < M; m++) {
            ldmatrix_x4(p[step][m], &shared.p[16 * m + lane % 16][step * 16 + lane / 16 * 8]);
#pragma unroll
            for (int i = 0; i < 4; i++) p[step][m][i] = half_times(p[step][m][i], s[i / 2]);
        }
    }
#pragma unroll
    for (int c = 0; c < Warp<KV, M>::COLUMNS; c++) {
        uint32_t v[4]; /* tokens 8 i + 2 (lane % 4), + 1: two columns of each */
        ldmatrix_x4_transposed(v, tile + lane * R::BYTES + columns + c * 16);
#pragma unroll
        for (int step = 0; step < 2; step++) {
            uint32_t even[2], odd[2];
#pragma unroll
            for (int i = 0; i < 2; i++) { /* 8 tokens; the even columns' bytes first */
                uint32_t apart = choose_bytes<0x3120>(v[2 * step + i]);
                even[i] = e4m3_half_pair<0>(apart), odd[i] = e4m3_half_pair<1>(apart);
            }
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_f16(w.o[m][c][0], p[step][m], even);
                mma_f16(w.o[m][c][1], p[step][m], odd);
            }
        }
    }
}

/* So a lane has four neighbouring columns of each block. */
template <int KV> struct InARow {
    static __device__ __forceinline__ int at(int c, int j) {
        return threadIdx.x / 32 * Row<KV>::EIGHTH + c * 16 + threadIdx.x % 4 * 4 + 2 * j;
    }
    static __device__ __forceinline__ void pair(float &x, float &y, const float (&o)[2][4], int j,
                                                int r) {
        x = o[0][2 * r + j], y = o[1][2 * r + j];
    }
};

template <int KV, int M> constexpr int blocks_each() { return KV <= 128 || M == 1 ? 2 : 1; }

/* As mla_decode_mma_kernel. */
template <int KV, int M, int STAGES>
__global__ __launch_bounds__(THREADS, blocks_each<KV, M>()) void mla_decode_e4m3_kernel(
    bf16 *o, float *scratch, const bf16 *q, const unsigned char *latent, const int32_t *block_table,
    const int32_t *lengths, const MlaDecodeShape s) {
    extern __shared__ __align__(128) unsigned char memory[];
    static_assert(sizeof(Shared<KV, M>) % 16 == 0, "tiles are read 16 bytes at a time");
    Shared<KV, M> &shared = *(Shared<KV, M> *)memory;
    unsigned char *tiles = memory + sizeof(Shared<KV, M>);
    const int TILE = Row<KV>::TILE, rows = mla_rows(s), groups = (rows + 16 * M - 1) / (16 * M);
    const float scale = s.scale * 1.44269504f;
    bool waited = false;
    auto wait = [&] {
        if (!waited) {
            few_rows_wait();
            few_rows_go();
        }
        waited = true;
    };
    if (!whole_rows<KV>(s)) {
        for (int i = threadIdx.x * 16; i < STAGES * TILE; i += THREADS * 16)
            *(uint4 *)(tiles + i) = uint4{0, 0, 0, 0};
        __syncthreads();
    }
    MlaWalk walk;
    walk.begin(lengths, s, groups);
    while (walk.next(lengths, groups)) {
        int length = lengths[walk.b], first = walk.first * PAGE_TOKENS;
        int end = min(first + walk.count * PAGE_TOKENS, length);
        int my_row = min(walk.group * 16 * M + softmax_row<M>(), rows - 1);
        int seen = mla_keys_seen(&s, length, my_row);
        const int32_t *pages = block_table + (int64_t)walk.b * s.max_pages;
        Warp<KV, M> w;
        memset(w.o, 0, sizeof(w.o));
        w.m = -INFINITY;
        w.l = 0.0f;
        for (int i = 0, token = first; i < STAGES - 1; i++, token += KEYS) {
            if (token < end && token + KEYS > length - s.q_len) wait();
            if (token < end)
                load_tile<KV>(tiles + i * TILE, latent, pages[token / PAGE_TOKENS], token, end, s);
            cp_async_commit();
        }
        wait();
        load_queries(w, q + (int64_t)walk.b * rows * (s.kv_lora_rank + s.rope_dim),
                     walk.group * 16 * M, s);
        int stage = 0, last = STAGES - 1;
        for (int token = first; token < end; token += KEYS) {
            int later = token + (STAGES - 1) * KEYS, page = 0;
            if (later < end) page = pages[later / PAGE_TOKENS];
            cp_async_wait<STAGES - 2>();
            __syncthreads();
            multiply_qk(shared, w, tiles + stage * TILE);
            if (later < end) load_tile<KV>(tiles + last * TILE, latent, page, later, end, s);
            cp_async_commit();
            __syncthreads();
            softmax<AsF16>(w, shared, seen - token, scale);
            __syncthreads();
            rescale_some(w, shared);
            multiply_pc(w, shared, tiles + stage * TILE);
            last = stage;
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        write<InARow<KV>, AsF16>(w, shared, o, scratch, walk, s);
    }
    wait();
}

/* ---- host ---- */

static int blocks_for(const Gpu *gpu, const MlaDecodeShape &s) {
    bool two = s.kv_lora_rank <= 128 || row_tiles(s) == 1;
    return blocks_for(gpu, s, two ? blocks_each<128, 1>() : blocks_each<512, 2>());
}

template <int KV, int M, int STAGES> static constexpr int shared_bytes() {
    return (int)sizeof(Shared<KV, M>) + STAGES * Row<KV>::TILE;
}

template <int KV, int M, int STAGES>
static void launch(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                   const int32_t *block_table, const int32_t *lengths, const MlaDecodeShape &s) {
    few_rows_launch(gpu, mla_decode_e4m3_kernel<KV, M, STAGES>, dim3(blocks_for(gpu, s)), THREADS,
                    (size_t)shared_bytes<KV, M, STAGES>(), (bf16 *)o, scratch, (const bf16 *)q,
                    (const unsigned char *)latent, block_table, lengths, s);
}

/* As many tiles as the shared memory holds, where two blocks share it: 4 on Hopper. */
template <int KV, int M>
static void choose_stages(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                          const int32_t *block_table, const int32_t *lengths,
                          const MlaDecodeShape &s) {
    if (blocks_each<KV, M>() * (shared_bytes<KV, M, 4>() + 1024) <= gpu->shared_memory_max + 1024)
        launch<KV, M, 4>(gpu, o, scratch, q, latent, block_table, lengths, s);
    else
        launch<KV, M, 2>(gpu, o, scratch, q, latent, block_table, lengths, s);
}

int mla_decode_e4m3_supports(const Gpu *gpu, DType dtype, MlaDecodeShape s) {
    return s.e4m3 && dtype == BF16 && gpu->compute_capability >= 80 &&
           gpu->shared_memory_max >= shared_bytes<512, 2, 2>() && s.kv_lora_rank % 4 == 0 &&
           s.kv_lora_rank <= 512 && s.rope_dim % 2 == 0 && s.rope_dim <= ROPE;
}

size_t mla_decode_e4m3_scratch(Gpu *gpu, MlaDecodeShape s) {
    return mla_states_bytes(blocks_for(gpu, s), 16 * row_tiles(s), s);
}

void mla_decode_e4m3_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                          const void *latent, const int32_t *block_table, const int32_t *lengths,
                          MlaDecodeShape s) {
    mla_decode_check("mla_decode_e4m3_cuda", &s);
    CHECK(mla_decode_e4m3_supports(gpu, dtype, s) &&
              ((uintptr_t)o | (uintptr_t)q | (uintptr_t)latent) % 16 == 0,
          "these sizes (kv_lora_rank %d, rope_dim %d), rows, dtype, addresses or GPU are not for "
          "the kernel with mma.sync and rows of eight bits",
          s.kv_lora_rank, s.rope_dim);
    MlaPieces pieces = mla_decode_e4m3_pieces(gpu, o, scratch, q, latent, block_table, lengths, s);
    mla_decode_join(gpu, BF16, o, scratch, lengths, s, pieces.group_rows, pieces.blocks);
}

MlaPieces mla_decode_e4m3_pieces(Gpu *gpu, void *o, float *scratch, const void *q,
                                 const void *latent, const int32_t *block_table,
                                 const int32_t *lengths, const MlaDecodeShape &s) {
    int M = row_tiles(s);
    if (s.kv_lora_rank <= 128)
        M == 1 ? choose_stages<128, 1>(gpu, o, scratch, q, latent, block_table, lengths, s)
               : choose_stages<128, 2>(gpu, o, scratch, q, latent, block_table, lengths, s);
    else
        M == 1 ? choose_stages<512, 1>(gpu, o, scratch, q, latent, block_table, lengths, s)
               : choose_stages<512, 2>(gpu, o, scratch, q, latent, block_table, lengths, s);
    return {16 * M, blocks_for(gpu, s)};
}
