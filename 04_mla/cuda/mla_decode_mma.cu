/*
 * Rung (d) of absorbed decoding: tensor cores, on every GPU since Ampere (BF16).
 *
 * Against the rung below: all rows that share a page share its loads. A block of eight warps holds
 * 16 M rows (heads times queries), so what comes from memory serves 16 M rows, and both products
 * go to the tensor cores. A tile of 32 tokens lies in shared memory once and is read twice: as the
 * keys Z, and its first columns, transposed by ldmatrix, as the values C.
 *
 *   S = Q Z^T     576 columns are a long sum: four warps take a quarter of it each, times two
 *                 halves of the tile's tokens. A warp's part of Q stays in its registers.
 *   P = softmax   the quarters are added up in shared memory; a warp does 2 M rows. P goes back
 *                 to shared memory as BF16.
 *   O += P C      a warp owns an eighth of the columns, and all rows; O stays in its registers.
 *
 * The next tiles are on their way (cp.async) while one is worked on: STAGES tiles in all.
 *
 * Bytes: latents once for every 16 M rows. Shared memory for a tile: 36 KB written, 36 + 32 KB
 * read, whatever M is, and 16 M KB for the quarters.
 * What limits it: three barriers a tile, between which one kind of unit works and the others wait,
 * and with 16 rows the shared memory itself, where every byte passes three times. The rung above
 * lets memory, products and softmax run side by side.
 *
 * Two tiles of 32 tokens are 74 KB, so that the kernel fits into the 99 KB of sm_86 and sm_89.
 */
#include "04_mla/cuda/mla_decode_mma.cuh"

/* Column `c` of a tile is column actual_column(c) of a row in memory, or -1: zero. Eight
 * neighbouring columns have the same answer: kv_lora_rank and rope_dim are multiples of 8. */
template <int KV> __device__ __forceinline__ int actual_column(int c, const MlaDecodeShape &s) {
    if (c < KV) return c < s.kv_lora_rank ? c : -1;
    return c - KV < s.rope_dim ? c - KV + s.kv_lora_rank : -1;
}

/*
 * Tokens first .. first + KEYS - 1, all of this page; zeros from `length` on. A row lies in pieces
 * of 16 bytes, piece c of row r at c ^ r % 8: the eight rows that ldmatrix reads at once are then
 * in eight different groups of banks. A thread copies the same piece of each 64 columns of a row:
 * its addresses are a constant apart.
 */
template <int KV>
__device__ __forceinline__ void load_tile(bf16 *tile, const bf16 *latent, int page, int first,
                                          int length, const MlaDecodeShape &s) {
    static_assert(KEYS * 8 == THREADS && ROPE == 64, "eight threads to a row");
    int row = threadIdx.x / 8, c = threadIdx.x % 8 * 8, width = s.kv_lora_rank + s.rope_dim;
    int64_t token = (int64_t)page * PAGE_TOKENS + first % PAGE_TOKENS + row;
    const bf16 *from = latent + token * width + c;
    bf16 *to = tile + row * (KV + ROPE) + (c ^ (row % 8 * 8));
    bool valid = first + row < length;
#pragma unroll
    for (int block = 0; block < KV; block += 64)
        cp_async_16(to + block, from + block, valid && block + c < s.kv_lora_rank);
    cp_async_16(to + KV, from + s.kv_lora_rank, valid && c < s.rope_dim);
}

/* The warp's quarter of the columns of rows first .. first + 16 M - 1; zeros past `rows`. */
template <int KV, int M>
__device__ __forceinline__ void load_queries(Warp<KV, M> &w, const bf16 *q, int first,
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
                int c = actual_column<KV>((step * QUARTERS + quarter) * 16 + i / 2 * 8, s);
                w.q[m][step][i] =
                    row < mla_rows(s) && c >= 0
                        ? *(const uint32_t *)(q + (int64_t)row * width + c + lane % 4 * 2)
                        : 0;
            }
}

/* The warp's quarter of the sum for its half of the tokens. Steps of 16 columns are dealt out in
 * turn (step i of quarter w is step 4 i + w of the row), so that the swizzle is the same for all of
 * a lane's steps, and their addresses a constant apart. */
template <int KV, int M>
__device__ __forceinline__ void multiply_qk(Scores<KV, M> &x, const Warp<KV, M> &w,
                                            const bf16 *tile) {
    int lane = lane_now(), quarter = threadIdx.x / 32 % QUARTERS, half = threadIdx.x / 128;
    const bf16 *row = tile + (half * 16 + lane / 16 * 8 + lane % 8) * (KV + ROPE) +
                      ((quarter * 16) ^ (((lane / 8 % 2) ^ (lane % 8)) * 8));
    memset(x.sum, 0, sizeof(x.sum));
#pragma unroll
    for (int step = 0; step < Warp<KV, M>::STEPS; step++) {
        uint32_t z[4]; /* tokens 0-7, then 8-15, each with both halves of the 16 columns */
        ldmatrix_x4(z, row + step * 64);
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma_bf16(x.sum[step % Scores<KV, M>::CHAINS][m][0], w.q[m][step], z);
            mma_bf16(x.sum[step % Scores<KV, M>::CHAINS][m][1], w.q[m][step], z + 2);
        }
    }
}

/* Blocks of 16 columns are dealt out to the warps in turn; see multiply_qk. */
template <int KV, int M>
__device__ __forceinline__ void multiply_pc(Warp<KV, M> &w, const Shared<KV, M> &shared,
                                            const bf16 *tile) {
    int lane = lane_now(), warp = threadIdx.x / 32;
    const bf16 *row = tile + lane % 16 * (KV + ROPE) + warp / 4 * 64 +
                      ((warp % 4 * 16) ^ (((lane / 16) ^ (lane % 8)) * 8));
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
        uint32_t p[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
            ldmatrix_x4(p[m], &shared.p[16 * m + lane % 16][step * 16 + lane / 16 * 8]);
#pragma unroll
        for (int c = 0; c < Warp<KV, M>::COLUMNS; c++) {
            uint32_t v[4]; /* the tokens are outermost, mma wants them innermost: transposed */
            ldmatrix_x4_transposed(v, row + step * 16 * (KV + ROPE) + c * 128);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(w.o[m][c][0], p[m], v);
                mma_bf16(w.o[m][c][1], p[m], v + 2);
            }
        }
    }
}

/* What multiply_pc leaves where. */
struct InTurn {
    static __device__ __forceinline__ int at(int c, int j) {
        return (c * WARPS + threadIdx.x / 32) * 16 + j * 8 + threadIdx.x % 4 * 2;
    }
    static __device__ __forceinline__ void pair(float &x, float &y, const float (&o)[2][4], int j,
                                                int r) {
        x = o[j][2 * r], y = o[j][2 * r + 1];
    }
};

/* Blocks on a processor: narrow rows leave room for a second one, which works while the first
 * waits. */
template <int KV> constexpr int blocks_each() { return KV <= 128 ? 2 : 1; }

/* gridDim.x blocks share all pages; see mla_decode.cuh. */
template <int KV, int M, int STAGES>
__global__ __launch_bounds__(THREADS, blocks_each<KV>()) void mla_decode_mma_kernel(
    bf16 *o, float *scratch, const bf16 *q, const bf16 *latent, const int32_t *block_table,
    const int32_t *lengths, const MlaDecodeShape s) {
    extern __shared__ __align__(128) unsigned char memory[];
    Shared<KV, M> &shared = *(Shared<KV, M> *)memory;
    bf16 *tiles = (bf16 *)(memory + sizeof(Shared<KV, M>));
    const int TILE = Shared<KV, M>::TILE, rows = mla_rows(s),
              groups = (rows + 16 * M - 1) / (16 * M);
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
        int stage = 0, last = STAGES - 1; /* where this tile is; where the last one was */
        for (int token = first; token < end; token += KEYS) {
            int later = token + (STAGES - 1) * KEYS, page = 0;
            if (later < end) page = pages[later / PAGE_TOKENS]; /* early: it takes its time */
            cp_async_wait<STAGES - 2>();
            __syncthreads(); /* the tile is here, and all warps are done with the one before it */
            Scores<KV, M> scores;
            multiply_qk(scores, w, tiles + stage * TILE);
            if (later < end) load_tile<KV>(tiles + last * TILE, latent, page, later, end, s);
            cp_async_commit(); /* empty at the end: the groups must be counted */
            store_scores(shared, scores);
            __syncthreads();
            softmax<AsBf16>(w, shared, seen - token, scale);
            __syncthreads();
            rescale(w, shared);
            multiply_pc(w, shared, tiles + stage * TILE);
            last = stage;
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        write<InTurn, AsBf16>(w, shared, o, scratch, walk, s);
    }
    wait(); /* a block that had nothing to do has not waited yet */
}

/* ---- host ---- */

static int blocks_for(const Gpu *gpu, const MlaDecodeShape &s) {
    return blocks_for(gpu, s, s.kv_lora_rank <= 128 ? blocks_each<128>() : blocks_each<512>());
}

template <int KV, int M, int STAGES>
static void launch(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                   const int32_t *block_table, const int32_t *lengths, const MlaDecodeShape &s) {
    const int bytes = Shared<KV, M>::bytes(STAGES);
    few_rows_launch(gpu, mla_decode_mma_kernel<KV, M, STAGES>, dim3(blocks_for(gpu, s)), THREADS,
                    (size_t)bytes, (bf16 *)o, scratch, (const bf16 *)q, (const bf16 *)latent,
                    block_table, lengths, s);
}

/* As many tiles as the shared memory holds: 4 on Hopper, 2 on sm_86 and sm_89. */
template <int KV, int M>
static void choose_stages(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                          const int32_t *block_table, const int32_t *lengths,
                          const MlaDecodeShape &s) {
    if (Shared<KV, M>::bytes(4) <= gpu->shared_memory_max)
        launch<KV, M, 4>(gpu, o, scratch, q, latent, block_table, lengths, s);
    else if (Shared<KV, M>::bytes(3) <= gpu->shared_memory_max)
        launch<KV, M, 3>(gpu, o, scratch, q, latent, block_table, lengths, s);
    else
        launch<KV, M, 2>(gpu, o, scratch, q, latent, block_table, lengths, s);
}

int mla_decode_mma_supports(const Gpu *gpu, DType dtype, MlaDecodeShape s) {
    int smallest = Shared<512, 2>::bytes(2);
    return gpu->compute_capability >= 80 && gpu->shared_memory_max >= smallest && dtype == BF16 &&
           !s.e4m3 && s.kv_lora_rank % 8 == 0 && s.kv_lora_rank <= 512 && s.rope_dim % 8 == 0 &&
           s.rope_dim <= ROPE;
}

size_t mla_decode_mma_scratch(Gpu *gpu, MlaDecodeShape s) {
    return mla_states_bytes(blocks_for(gpu, s), 16 * row_tiles(s), s);
}

void mla_decode_mma_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                         const void *latent, const int32_t *block_table, const int32_t *lengths,
                         MlaDecodeShape s) {
    mla_decode_check("mla_decode_mma_cuda", &s);
    CHECK(mla_decode_mma_supports(gpu, dtype, s) &&
              ((uintptr_t)o | (uintptr_t)q | (uintptr_t)latent) % 16 == 0,
          "these sizes (kv_lora_rank %d, rope_dim %d), dtype, addresses or GPU are not for the "
          "kernel with mma.sync",
          s.kv_lora_rank, s.rope_dim);
    MlaPieces pieces = mla_decode_mma_pieces(gpu, o, scratch, q, latent, block_table, lengths, s);
    mla_decode_join(gpu, BF16, o, scratch, lengths, s, pieces.group_rows, pieces.blocks);
}

MlaPieces mla_decode_mma_pieces(Gpu *gpu, void *o, float *scratch, const void *q,
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
