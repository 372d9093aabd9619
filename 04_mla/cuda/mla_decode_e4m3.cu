/*
 * Absorbed decoding from rows of eight bits (latent_row.h), with tensor cores since Ampere.
 *
 * The rung mma with another kind of row: 656 bytes a token instead of 1152, if the codes become
 * numbers on the way without getting in it. A tile of numbers in shared memory would be written and
 * read twice; so codes stay codes up to the registers, and each is converted twice, as a key and as
 * a value. That must cost little: E4M3 becomes half precision, exactly, two numbers by one
 * instruction; the products are those of halves; and scales are not multiplied into numbers at all:
 *
 *   S = Q Z^T     a block is four warps, and each has a quarter of the columns, which is one group
 *                 of scales: the quarter's sum, times the token's scale; then the rope part, whose
 *                 numbers are BF16. A sum does not mind its columns' order: a lane has 32 in a row
 *                 of its token, two loads.
 *   softmax       the quarters meet in shared memory, as they lie in registers, and every warp adds
 *                 them up for itself: so P stays in its registers.
 *   O += P C      of the same columns. The scale goes to P, where it is exact: a power of two
 *                 (others are rounded). ldmatrix transposes blocks of 16 bits, two columns of a
 *                 token: its registers are two operands, one for even columns, one for odd ones.
 *
 * Halves have a smaller range than BF16. So Q is multiplied by 2^-8, and P by 2^8: then numbers of
 * a query up to 2^24 fit, and scales up to 2^8, latents of 2^16; what is larger becomes an infinity
 * and, with its logits, is found. Small numbers lose no more than 2^-16 of the largest.
 *
 * A row lies in shared memory as it does in the cache of V3's sizes, so that a tile is one copy; of
 * other sizes its three parts have the same places, and what they leave free is zero. 656 bytes are
 * an odd number of 16s: eight rows that are read at once meet all banks.
 *
 * Three small blocks on a processor, for 16 rows of queries: one computes while another waits. What
 * limits is not memory but the latencies of instructions (08_quant/PERFORMANCE.md).
 */
#include "04_mla/cuda/mla_decode.cuh"
#include "common/cuda/codes.cuh"
#include "common/cuda/few_rows_launch.cuh"
#include "common/cuda/mma.cuh"

#include <string.h>

enum { WARPS = 4, THREADS = 32 * WARPS };
enum { KEYS = 32 }; /* tokens in a tile */
enum { ROPE = 64 }; /* columns of k_rope in a tile; unused ones are zero */

/* A row in shared memory: codes, scales, key. */
template <int KV> struct Row {
    static constexpr int SCALES = KV, KEY = KV + 16, BYTES = KEY + 2 * ROPE, TILE = KEYS * BYTES;
    static constexpr int QUARTER = KV / WARPS; /* columns that a warp has of S's sum */
    static constexpr int LANE = QUARTER / 4;   /* and a lane */
    static constexpr int WORDS = LANE / 4;
    static constexpr int STEPS = WORDS + 1;     /* of 16 columns, the last of them rope */
    static constexpr int BLOCKS = QUARTER / 16; /* of the warp's columns of O */
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
        const int there = (length - first) * R::BYTES;
#pragma unroll
        for (int i = 0; i < R::TILE; i += THREADS * 16)
            if (i + THREADS * 16 <= R::TILE || i + mine < R::TILE)
                cp_async_16(tile + mine + i, from + i, i + mine < there);
        return;
    }
    int row = threadIdx.x / 4, key = (int)latent_row_key(s.kv_lora_rank);
    int bytes = (int)latent_row_bytes(s.kv_lora_rank, s.rope_dim);
    const unsigned char *from = latent + (token + row) * bytes;
    unsigned char *to = tile + row * R::BYTES;
#pragma unroll 4
    for (int i = threadIdx.x % 4 * 4; i < bytes; i += 16) {
        int at = i < s.kv_lora_rank ? i
                 : i < key          ? i - s.kv_lora_rank + R::SCALES
                                    : i - key + R::KEY;
        cp_async_4(to + at, from + i, first + row < length);
    }
}

/* By what P is multiplied and Q is divided. */
static constexpr float TIMES = 256;

/* Two of BF16, times a factor. */
static __device__ __forceinline__ uint32_t halves_of(uint32_t two, float factor) {
    return pack_f16(__uint_as_float(two << 16) * factor,
                    __uint_as_float(two & 0xffff0000u) * factor);
}

/* The lane, as a number that may differ each time: or else the addresses of all loads would be
 * computed before the loop and held in registers. */
static __device__ __forceinline__ int lane_now() {
    int lane = threadIdx.x % 32;
    asm volatile("" : "+r"(lane));
    return lane;
}

/* What a warp keeps in registers, in mma's layouts (common/cuda/mma.cuh): of rows lane / 4 + 8 i
 * its columns of Q and O, and of the softmax, which all four warps do, the maximum and the sum of
 * the tokens that this lane has. */
template <int KV, int M> struct Warp {
    uint32_t q[M][Row<KV>::STEPS][4];
    float o[M][Row<KV>::BLOCKS][2][4]; /* of 16 columns the even ones, then the odd ones */
    float m[2 * M], l[2 * M];
};

/* The warps' parts of a tile's scores, as mma leaves them: a lane reads what the same lane of each
 * warp has written. */
template <int M> struct Parts { float4 sum[WARPS][M][KEYS / 8][32]; };

/* The warp's columns of rows first .. first + 16 M - 1, in multiply_qk's order; zeros past
 * mla_rows(). */
template <int KV, int M>
static __device__ __forceinline__ void load_queries(Warp<KV, M> &w, const bf16 *q, int first,
                                                    const MlaDecodeShape &s) {
    typedef Row<KV> R;
    int lane = threadIdx.x % 32, quarter = threadIdx.x / 32, width = s.kv_lora_rank + s.rope_dim;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int step = 0; step < R::STEPS; step++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                bool rope = step == R::STEPS - 1;
                int row = first + 16 * m + lane / 4 + i % 2 * 8;
                int c = rope ? quarter * 16 + i / 2 * 8 + lane % 4 * 2 /* as mma.cuh has it */
                             : quarter * R::QUARTER + lane % 4 * R::LANE + 4 * step + i / 2 * 2;
                bool there = row < mla_rows(s) && c < (rope ? s.rope_dim : s.kv_lora_rank);
                if (rope) c += s.kv_lora_rank;
                uint32_t two = there ? *(const uint32_t *)(q + (int64_t)row * width + c) : 0;
                w.q[m][step][i] = rope ? two : halves_of(two, 1 / TIMES);
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

/* The scales of tokens 8 j + 2 (lane % 4), + 1 for the warp's columns, in units of 1 / TIMES. */
template <int KV>
static __device__ __forceinline__ float2 scale_pair(const unsigned char *tile, int j) {
    typedef Row<KV> R;
    const unsigned char *at = tile + (8 * j + threadIdx.x % 4 * 2) * R::BYTES + R::SCALES +
                              threadIdx.x / 32 * R::QUARTER / LATENT_GROUP * 4;
    return make_float2(*(const float *)at * TIMES, *(const float *)(at + R::BYTES) * TIMES);
}

/* The scores' sum over the warp's columns, into shared memory. */
template <int KV, int M>
static __device__ __forceinline__ void multiply_qk(Parts<M> &parts, const Warp<KV, M> &w,
                                                   const unsigned char *tile) {
    typedef Row<KV> R;
    constexpr int CHAINS = 3 - M; /* an mma must wait for the one before it in its chain */
    int lane = lane_now(), quarter = threadIdx.x / 32;
    const unsigned char *row =
        tile + lane / 4 * R::BYTES + quarter * R::QUARTER + lane % 4 * R::LANE;
    const unsigned char *key = tile + (lane / 16 * 8 + lane % 8) * R::BYTES + R::KEY +
                               (quarter * 16 + lane / 8 % 2 * 8) * 2;
#pragma unroll
    for (int pair = 0; pair < KEYS / 16; pair++) { /* of eight tokens twice */
        float sum[2][CHAINS][M][4] = {};
        uint32_t word[2][R::WORDS], z[4]; /* z: rope, both halves of the 16 columns for each */
        load_words(word[0], row + 16 * pair * R::BYTES);
        load_words(word[1], row + (16 * pair + 8) * R::BYTES);
        ldmatrix_x4(z, key + 16 * pair * R::BYTES);
#pragma unroll
        for (int step = 0; step < R::WORDS; step++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                uint32_t c[2];
                e4m3_halves(c, word[j][step]);
#pragma unroll
                for (int m = 0; m < M; m++) mma_f16(sum[j][step % CHAINS][m], w.q[m][step], c);
            }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float2 s = scale_pair<KV>(tile, 2 * pair + j);
#pragma unroll
            for (int m = 0; m < M; m++) {
                float(&d)[4] = sum[j][0][m];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    d[i] =
                        (CHAINS > 1 ? d[i] + sum[j][CHAINS - 1][m][i] : d[i]) * (i % 2 ? s.y : s.x);
                mma_bf16(d, w.q[m][R::STEPS - 1], z + 2 * j);
                parts.sum[quarter][m][2 * pair + j][threadIdx.x % 32] =
                    make_float4(d[0], d[1], d[2], d[3]);
            }
        }
    }
}

/* x = the parts' sum, in the same order in every warp: they must agree on the maximum. Tokens from
 * seen[row] on, counted from the tile's first, are masked if `some` are. */
template <int KV, int M>
static __device__ __forceinline__ void softmax(Warp<KV, M> &w, uint32_t (&p)[KEYS / 16][4],
                                               float (&factor)[2], const Parts<M> &parts, int m,
                                               const unsigned char *tile, const int (&seen)[2],
                                               float scale) {
    float x[KEYS / 8][4];
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
        float4 a = parts.sum[0][m][j][lane];
#pragma unroll
        for (int i = 1; i < WARPS; i++) {
            float4 b = parts.sum[i][m][j][lane];
            a.x += b.x, a.y += b.y, a.z += b.z, a.w += b.w;
        }
        x[j][0] = a.x, x[j][1] = a.y, x[j][2] = a.z, x[j][3] = a.w;
    }
    if (__any_sync(~0u, min(seen[0], seen[1]) < KEYS)) {
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (8 * j + lane % 4 * 2 + i % 2 >= seen[i / 2]) x[j][i] = -INFINITY;
    }
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = fmaxf(x[0][2 * r], x[0][2 * r + 1]);
#pragma unroll
        for (int j = 1; j < KEYS / 8; j++) top = fmaxf(top, fmaxf(x[j][2 * r], x[j][2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
        top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
        top = fmaxf(w.m[2 * m + r], top * scale);
        base[r] = top == -INFINITY ? 0.0f : top; /* no token so far: avoid inf - inf */
        factor[r] = exp2_fast(w.m[2 * m + r] - base[r]);
        w.m[2 * m + r] = top;
        w.l[2 * m + r] *= factor[r];
    }
#pragma unroll
    for (int j = 0; j < KEYS / 8; j++) {
        float2 s = scale_pair<KV>(tile, j);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float a = exp2_fast(x[j][2 * r] * scale - base[r]);
            float b = exp2_fast(x[j][2 * r + 1] * scale - base[r]);
            w.l[2 * m + r] += a + b;
            p[j / 2][j % 2 * 2 + r] = pack_f16(a * s.x, b * s.y);
        }
    }
}

/* Multiplies rows of O, unless no row of the tile has a new maximum, which is usual. */
template <int BLOCKS>
static __device__ __forceinline__ void rescale(float (&o)[BLOCKS][2][4], const float (&factor)[2]) {
    if (!__any_sync(~0u, factor[0] != 1.0f || factor[1] != 1.0f)) return;
#pragma unroll
    for (int c = 0; c < BLOCKS; c++)
#pragma unroll
        for (int i = 0; i < 8; i++) o[c][i / 4][i % 4] *= factor[i / 2 % 2];
}

template <int KV, int M>
static __device__ __forceinline__ void multiply_pc(Warp<KV, M> &w,
                                                   const uint32_t (&p)[M][KEYS / 16][4],
                                                   const unsigned char *tile) {
    typedef Row<KV> R;
    static_assert(KEYS == 32, "a lane gives ldmatrix the address of a token");
    const unsigned char *row = tile + lane_now() * R::BYTES + threadIdx.x / 32 * R::QUARTER;
#pragma unroll
    for (int c = 0; c < R::BLOCKS; c++) {
        uint32_t v[4]; /* tokens 8 i + 2 (lane % 4), + 1: two columns of each */
        ldmatrix_x4_transposed(v, row + c * 16);
#pragma unroll
        for (int step = 0; step < KEYS / 16; step++) {
            uint32_t apart[2][2]; /* [8 tokens][even or odd columns] */
#pragma unroll
            for (int i = 0; i < 2; i++) { /* 8 tokens; the even columns' bytes first */
                e4m3_halves(apart[i], choose_bytes<0x3120>(v[2 * step + i]));
            }
            const uint32_t even[2] = {apart[0][0], apart[1][0]};
            const uint32_t odd[2] = {apart[0][1], apart[1][1]};
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_f16(w.o[m][c][0], p[m][step], even);
                mma_f16(w.o[m][c][1], p[m][step], odd);
            }
        }
    }
}

/* Writes the group's O: the output itself, or the state that join_kernel wants. A lane has four
 * neighbouring columns of each block. */
template <int KV, int M>
static __device__ __forceinline__ void write(Warp<KV, M> &w, bf16 *o, float *scratch,
                                             const MlaWalk &walk, const MlaDecodeShape &s) {
    bool whole = walk.slot < 0;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int in_group = 16 * m + 8 * r + threadIdx.x % 32 / 4;
            int row = walk.group * 16 * M + in_group;
            float l = w.l[2 * m + r];
            l += __shfl_xor_sync(~0u, l, 1);
            l += __shfl_xor_sync(~0u, l, 2);
            if (row >= mla_rows(s)) continue;
            float factor = (whole ? 1.0f / l : 1.0f) / TIMES;
            float *state = whole ? nullptr : mla_state(scratch, walk.slot, 16 * M, in_group, s);
            if (!whole && threadIdx.x < 32 && threadIdx.x % 4 == 0)
                state[0] = w.m[2 * m + r], state[1] = l;
            bf16 *out = o + ((int64_t)walk.b * mla_rows(s) + row) * s.kv_lora_rank;
#pragma unroll
            for (int c = 0; c < Row<KV>::BLOCKS; c++) {
                int column = threadIdx.x / 32 * Row<KV>::QUARTER + c * 16 + threadIdx.x % 4 * 4;
                if (column >= s.kv_lora_rank) continue;
                const float(&d)[2][4] = w.o[m][c];
                float x[4] = {d[0][2 * r] * factor, d[1][2 * r] * factor, d[0][2 * r + 1] * factor,
                              d[1][2 * r + 1] * factor};
                if (whole)
                    *(uint2 *)(out + column) =
                        make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
                else
                    for (int i = 0; i < 4; i += 2)
                        *(float2 *)(state + 2 + column + i) = make_float2(x[i], x[i + 1]);
            }
        }
}

/* Blocks on a processor. */
template <int KV, int M> constexpr int blocks_each() { return KV <= 128 ? 4 : M == 1 ? 3 : 2; }

template <int KV, int M, int STAGES> static constexpr int shared_bytes() {
    return (int)sizeof(Parts<M>) + STAGES * Row<KV>::TILE;
}

/* gridDim.x blocks share all pages; see mla_decode.cuh. */
template <int KV, int M, int STAGES>
__global__ __launch_bounds__(THREADS, blocks_each<KV, M>()) void mla_decode_e4m3_kernel(
    bf16 *o, float *scratch, const bf16 *q, const unsigned char *latent, const int32_t *block_table,
    const int32_t *lengths, const MlaDecodeShape s) {
    extern __shared__ __align__(128) unsigned char memory[];
    Parts<M> &parts = *(Parts<M> *)memory;
    unsigned char *tiles = memory + sizeof parts;
    const int TILE = Row<KV>::TILE, rows = mla_rows(s), groups = (rows + 16 * M - 1) / (16 * M);
    const float scale = s.scale * 1.44269504f; /* exp(scale * x) = 2^(scale' * x) */

    /* Lengths, pages and all tokens but the new ones are there before the queries
     * (few_rows_launch.cuh). */
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
    }
    MlaWalk walk;
    walk.begin(lengths, s, groups);
    while (walk.next(lengths, groups)) {
        int length = lengths[walk.b], first = walk.first * PAGE_TOKENS;
        int end = min(first + walk.count * PAGE_TOKENS, length);
        const int32_t *pages = block_table + (int64_t)walk.b * s.max_pages;
        Warp<KV, M> w;
        memset(w.o, 0, sizeof(w.o));
#pragma unroll
        for (int i = 0; i < 2 * M; i++) w.m[i] = -INFINITY, w.l[i] = 0.0f;
        __syncthreads(); /* all warps are done with the piece before */
        for (int i = 0, token = first; i < STAGES - 1; i++, token += KEYS) {
            if (token < end && token + KEYS > length - s.q_len) wait();
            if (token < end)
                load_tile<KV>(tiles + i * TILE, latent, pages[token / PAGE_TOKENS], token, end, s);
            cp_async_commit();
        }
        wait();
        load_queries(w, q + (int64_t)walk.b * rows * (s.kv_lora_rank + s.rope_dim),
                     walk.group * 16 * M, s);
        cp_async_wait<STAGES - 2>();
        __syncthreads();                  /* the first tile is here */
        int stage = 0, last = STAGES - 1; /* where this tile is; where the one before it was */
        for (int token = first; token < end; token += KEYS) {
            int later = token + (STAGES - 1) * KEYS, page = 0;
            if (later < end) page = pages[later / PAGE_TOKENS]; /* early: it takes its time */
            unsigned char *tile = tiles + stage * TILE;
            multiply_qk<KV, M>(parts, w, tile);
            __syncthreads(); /* the scores are here, and all warps are done with the last tile */
            if (later < end) load_tile<KV>(tiles + last * TILE, latent, page, later, end, s);
            cp_async_commit(); /* empty at the end: the groups must be counted */
            uint32_t p[M][KEYS / 16][4];
#pragma unroll
            for (int m = 0; m < M; m++) {
                float factor[2];
                int seen[2] = {KEYS, KEYS}; /* of the tile's tokens */
                if (token + KEYS > length - s.q_len + 1)
                    for (int r = 0; r < 2; r++) {
                        int row = walk.group * 16 * M + 16 * m + 8 * r + threadIdx.x % 32 / 4;
                        seen[r] = mla_keys_seen(&s, length, min(row, rows - 1)) - token;
                    }
                softmax(w, p[m], factor, parts, m, tile, seen, scale);
                rescale(w.o[m], factor);
            }
            cp_async_wait<STAGES - 2>();
            __syncthreads(); /* the next tile is here, and all warps have the scores */
            multiply_pc<KV, M>(w, p, tile);
            last = stage;
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        write<KV, M>(w, o, scratch, walk, s);
    }
    wait(); /* a block that had nothing to do has not waited yet */
}

/* ---- host ---- */

/* Rows of a block: 16 or 32. */
static int row_tiles(const MlaDecodeShape &s) {
    return (s.as_single ? s.heads : mla_rows(s)) <= 16 ? 1 : 2;
}

/* As many as there can be work for. */
static int blocks_for(const Gpu *gpu, const MlaDecodeShape &s) {
    int M = row_tiles(s), each = s.kv_lora_rank <= 128 ? blocks_each<128, 1>()
                                 : M == 1              ? blocks_each<512, 1>()
                                                       : blocks_each<512, 2>();
    int64_t pages = s.batch * ceil_div(mla_rows(s), 16 * M) * ceil_div(s.max_length, PAGE_TOKENS);
    return pages < gpu->sm_count * each ? (int)pages : gpu->sm_count * each;
}

template <int KV, int M, int STAGES>
static void launch(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                   const int32_t *block_table, const int32_t *lengths, const MlaDecodeShape &s) {
    few_rows_launch(gpu, mla_decode_e4m3_kernel<KV, M, STAGES>, dim3(blocks_for(gpu, s)), THREADS,
                    (size_t)shared_bytes<KV, M, STAGES>(), (bf16 *)o, scratch, (const bf16 *)q,
                    (const unsigned char *)latent, block_table, lengths, s);
}

/* As many tiles as the shared memory holds: 3 or 4 on Hopper. */
template <int KV, int M>
static void choose_stages(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                          const int32_t *block_table, const int32_t *lengths,
                          const MlaDecodeShape &s) {
    constexpr int MOST = M == 1 ? 3 : 4;
    if (blocks_each<KV, M>() * (shared_bytes<KV, M, MOST>() + 1024) > gpu->shared_memory_max + 1024)
        launch<KV, M, 2>(gpu, o, scratch, q, latent, block_table, lengths, s);
    else
        launch<KV, M, MOST>(gpu, o, scratch, q, latent, block_table, lengths, s);
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
