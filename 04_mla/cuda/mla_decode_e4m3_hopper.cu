/*
 * Absorbed decoding from rows of eight bits with Hopper's wgmma.
 *
 * The rung e4m3 converts a page again for every 32 rows of queries, and the rung hopper wants its
 * operands in shared memory as numbers of 16 bits: pages that were converted there would be written
 * once more and read twice, at 64 rows more than shared memory can give. But wgmma takes its first
 * operand from registers, too, where codes become numbers for nothing but instructions. So both
 * products are turned over, that the page comes first:
 *
 *     scorer     S^T = Z Q^T    64 tokens x 576 times 576 x N rows of queries
 *     weighers   O^T += C^T P^T     512 columns x 64 tokens times 64 tokens x N rows
 *
 * N is 16, 32 or 64: few rows cost less, where the rung hopper multiplies 64 in any case. A page
 * lies in shared memory as it does in the cache, 41 KB instead of the 72 of BF16, and is fetched by
 * one copy without a map; Q and P stay there as operands that wgmma reads.
 *
 *     Z     A lane has rows lane / 4 and + 8 of its warp's 16 tokens. A sum does not mind its
 *           columns' order: so a lane takes 32 in a row of each group, and Q's are written in the
 *           order that follows.
 *     C^T   ldmatrix transposes blocks of 16 bits: two columns of a token. Its registers hold two
 *           tokens of two neighbouring columns; the even one becomes row r, the odd one r + 8.
 *
 * Numbers are those of half precision: a code times its scale is exact for every power of two from
 * 2^-15 to 2^7 (latent_row.h's begin at 2^-13), that is for latents up to 57344. Q is divided by
 * 2^8, and P is multiplied by 2^8, which base takes care of (mla_decode_e4m3.cu says why). NaN
 * stays NaN.
 *
 * The softmax runs down the columns of S^T, over all four warps: each adds its maximum to what
 * shared memory has of every row of queries (an atomic one of whole numbers), and after a barrier
 * all read it. The steps are those of the rung hopper: page i is weighed while the scorer makes P
 * of page i + 1, and after it has made its S.
 *
 * With 16 rows all of them mostly wait, and registers are left: so there are two scorers, who take
 * pages in turn. Their softmax has one base, which goes from page to page: a page's is the larger
 * of the base before, which the other scorer leaves in shared memory, and of its own scores.
 *
 * What limits: the scorer, whose codes become numbers in its own time. On an NVIDIA H200 a page
 * with 64 rows takes it 4700 clocks, half of them for S^T, half for the softmax; the tensor cores
 * need 2176 (08_quant/PERFORMANCE.md).
 */
#include "04_mla/cuda/mla_decode_e4m3_scorer.cuh"

/* Pages are asked for by a warp of its own, where there are registers for one; lists' rows by the
 * weighers. */
template <int N, bool LISTS> static constexpr bool fetcher = N < 64 && !LISTS;
template <int N, bool LISTS>
static constexpr int threads_of = Tiles<N>::WORKERS + (fetcher<N, LISTS> ? 32 : 0);

#if HOPPER_CODE

/* ---- the weighers ---- */

enum { COLUMNS = RANK / 2 }; /* of O, a weigher's */

template <int N>
__device__ __forceinline__ void rescale(float (&o)[4][N / 2], const float *factor) {
#pragma unroll
    for (int n = 0; n < N / 4; n += 2) {
        float2 f = *(const float2 *)(factor + column_of(n));
#pragma unroll
        for (int i = 0; i < 4; i++) {
            o[i][2 * n] *= f.x, o[i][2 * n + 1] *= f.y;
            o[i][2 * n + 2] *= f.x, o[i][2 * n + 3] *= f.y;
        }
    }
}

/* Scales of tokens 8 i + 2 (lane % 4), + 1 for a group of columns. */
__device__ __forceinline__ void scales_of(uint32_t (&scale)[8], const unsigned char *page,
                                          int group) {
    const unsigned char *at = page + lane_of() % 4 * 2 * ROW_BYTES + RANK + group * 4;
#pragma unroll
    for (int i = 0; i < 8; i++)
        scale[i] = pack_f16(*(const float *)(at + 8 * i * ROW_BYTES),
                            *(const float *)(at + (8 * i + 1) * ROW_BYTES));
}

/* The warp's 16 columns from `column` on of 32 tokens, as they are. */
__device__ __forceinline__ void codes_of(uint32_t (&v)[4], const unsigned char *page, int column,
                                         int half) {
    ldmatrix_x4_transposed(v, page + (half * 32 + lane_of()) * ROW_BYTES + column);
}

/* As A fragments of two steps. */
__device__ __forceinline__ void values_of(uint32_t (&c)[2][4], const uint32_t (&v)[4], int half,
                                          const uint32_t (&scale)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t two[2];
        e4m3_halves(two, choose_bytes<0x3120>(v[i]));
        c[i / 2][i % 2 * 2] = f16_pair_times(two[0], scale[half * 4 + i]);
        c[i / 2][i % 2 * 2 + 1] = f16_pair_times(two[1], scale[half * 4 + i]);
    }
}

/* O^T += C^T P^T, of the weigher's columns. The next 32 tokens become numbers while the tensor
 * cores have these. */
template <int N>
__device__ __forceinline__ void multiply_values(float (&o)[COLUMNS / 64][N / 2], Tiles<N> &s,
                                                int stage, int part, bool first) {
    constexpr int STEPS = COLUMNS / 32; /* 64 columns, 32 tokens */
    constexpr bool AHEAD = N == 16;
    const unsigned char *page = s.ring[stage];
    const int column = part * COLUMNS + warp_of() * 16;
    uint64_t p = wgmma_k_major(s.p[stage]);
    uint32_t c[2][2][4], next[4], scale[8];
    if (AHEAD) codes_of(next, page, column, 0);
#pragma unroll
    for (int i = 0; i < COLUMNS / 64; i++) wgmma_touch(o[i]);
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        if (i % 4 == 0) scales_of(scale, page, part * (COLUMNS / 128) + i / 4);
        if (!AHEAD) codes_of(next, page, column + i / 2 * 64, i % 2);
        values_of(c[i % 2], next, i % 2, scale);
        if (AHEAD && i < STEPS - 1) codes_of(next, page, column + (i + 1) / 2 * 64, (i + 1) % 2);
        wgmma_fence(c[i % 2][0], c[i % 2][1]);
#pragma unroll
        for (int k = 0; k < 2; k++)
            Wgmma<N>::template halves<0>(o[i / 2], c[i % 2][k], p + (i % 2 * 2 + k) * WGMMA_K_STEP,
                                         i % 2 + k > 0 || !first);
        wgmma_commit();
        wgmma_wait<1>(c[1 - i % 2][0], c[1 - i % 2][1]);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < COLUMNS / 64; i++) wgmma_touch(o[i]);
}

/* This thread's part of O: divided by the sums; or as it is, for the join. */
template <int N>
__device__ __forceinline__ void write(const float (&o)[4][N / 2], const Tiles<N> &s,
                                      const Arguments &a, int first_row, int half) {
    const Piece &piece = s.piece;
    int group_rows = a.team * N, column = half * 256 + warp_of() * 16 + lane_of() / 4 * 2;
#pragma unroll
    for (int n = 0; n < N / 4; n++) {
        int r = column_of(n), row = first_row + r;
        if (row >= mla_rows(a.shape)) continue;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < 4 * s.SCORERS; i++) sum += s.sum[i][r];
        float inverse = 1.0f / sum;
        float *state = piece.slot < 0 ? nullptr
                                      : mla_state(a.scratch, piece.slot, group_rows,
                                                  row - piece.group * group_rows, a.shape);
        if (state && half == 0 && warp_of() == 0 && lane_of() < 4)
            state[0] = s.last[r], state[1] = sum;
        bf16 *out = a.o + ((int64_t)piece.b * mla_rows(a.shape) + row) * RANK + column;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = o[i][n / 2 * 4 + n % 2], y = o[i][n / 2 * 4 + n % 2 + 2];
            if (state)
                *(float2 *)(state + 2 + column + i * 64) = make_float2(x, y);
            else
                *(uint32_t *)(out + i * 64) = pack_bf16(x * inverse, y * inverse);
        }
    }
}

template <int N> static __device__ void fetch(Tiles<N> &s, const Arguments &a) {
    if (lane_of()) return;
    int id = begin_pages<N, false>(s, a);
    while (!s.feed.done) refill(s, a, id);
}

template <int N, bool LISTS>
static __device__ void weigh(Tiles<N> &s, const Arguments &a, int half) {
    const bool asks = !fetcher<N, LISTS> && threadIdx.x == s.FIRST;
    int id = 0;
    if (LISTS || asks) id = begin_pages<N, LISTS>(s, a);
    __syncwarp();
    Ring<Tiles<N>::STAGES> ring;
    for (int first_row; (first_row = begin_piece(s, a)) >= 0;) {
        float o[COLUMNS / 64][N / 2];
        for (int i = 0, count = s.piece.count; i < count; i++) {
            int stage = __shfl_sync(~0u, ring.stage, 0);
            mbarrier_wait(&s.scored[stage], ring.parity);
            if (i > 0 && s.changed[stage]) rescale<N>(o, s.factor[stage]);
            if (s.SCORERS == 1) mbarrier_wait(&s.turn[stage], ring.parity);
            multiply_values(o, s, stage, half, i == 0);
            if (LISTS) {
                ring.advance();
                refill_rows(s, a, stage, id);
                continue;
            }
            async_proxy_fence(); /* the copy engine will write there */
            mbarrier_arrive_warp(&s.empty[stage]);
            ring.advance();
            if (asks) refill(s, a, id);
            __syncwarp();
        }
        mbarrier_wait(&s.summed, s.piece.parity);
        write(o, s, a, first_row, half);
    }
}

#endif /* HOPPER_CODE */

template <int N, bool LISTS>
__global__ void __launch_bounds__(threads_of<N, LISTS>, 1)
    mla_decode_e4m3_hopper_kernel(const __grid_constant__ Arguments a) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char memory[];
    Tiles<N> &s = *(Tiles<N> *)memory;
    int kind = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) {
        for (int i = 0; i < s.STAGES; i++) {
            mbarrier_init(&s.full[i], LISTS ? 256 : 1); /* one that asks, or all that fetch */
            mbarrier_init(&s.scored[i], 4 * WARP_ARRIVALS);
            mbarrier_init(&s.turn[i], 4 * WARP_ARRIVALS);
            mbarrier_init(&s.empty[i], 8 * WARP_ARRIVALS);
            mbarrier_init(&s.based[i], WARP_ARRIVALS);
        }
        mbarrier_init(&s.summed, 4 * s.SCORERS * WARP_ARRIVALS);
        mbarrier_init(&s.met, s.WORKERS / 32 * WARP_ARRIVALS);
        mbarrier_init_fence();
    }
    if (threadIdx.x < 32) {
        MlaWalk walk;
        walk.begin(a.lengths, a.shape, a.groups, blockIdx.x / a.team, gridDim.x / a.team);
        if (threadIdx.x == 0) s.walk = s.feed.walk = walk, s.piece.parity = 1;
    }
    __syncthreads();
    if (fetcher<N, LISTS> && threadIdx.x >= s.WORKERS) {
        fetch(s, a);
    } else if (kind < s.SCORERS) {
        if (N == 64) registers_release<136>();
        score(s, a, kind);
    } else {
        if (N == 64) registers_take<184>();
        weigh<N, LISTS>(s, a, kind - s.SCORERS);
    }
#else
    __trap(); /* mla_decode_e4m3_hopper_supports() keeps other GPUs away */
#endif
}

/* ---- host ---- */

/* Rows of queries of a block, and how many blocks share the pages. */
static int rows_of(const MlaDecodeShape &s) {
    int rows = s.as_single ? s.heads : mla_rows(s);
    return rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
}
static int team_of(const MlaDecodeShape &s) {
    return (s.as_single ? s.heads : mla_rows(s)) > 64 ? 2 : 1;
}

int mla_decode_e4m3_hopper_supports(const Gpu *gpu, DType dtype, MlaDecodeShape s) {
    return gpu->compute_capability == 90 && dtype == BF16 && s.e4m3 && s.kv_lora_rank == RANK &&
           s.rope_dim == ROPE;
}

size_t mla_decode_e4m3_hopper_scratch(Gpu *gpu, MlaDecodeShape s) {
    int team = team_of(s);
    return mla_states_bytes(gpu->sm_count / team, team * rows_of(s), s);
}

template <bool LISTS> static MlaPieces run(Gpu *gpu, Arguments a) {
    const MlaDecodeShape &s = a.shape;
    int team = team_of(s), teams = gpu->sm_count / team, n = rows_of(s);
    a.team = team, a.groups = (int)ceil_div(mla_rows(s), team * n);
    a.scale_log2 = s.scale * 1.44269504f;
    if (LISTS) { /* most are of one length: whole ones need no join, where that idles few blocks */
        int items = s.batch * a.groups, each = (int)ceil_div(items, teams);
        int whole = (int)ceil_div(items, each);
        if (whole * 16 >= teams * 15) teams = whole;
    }
    auto launch = [&](auto kernel, size_t bytes, int threads) {
        gpu_launch(gpu, kernel, teams * team, threads, bytes, a);
    };
#define LAUNCH(N) \
    launch(mla_decode_e4m3_hopper_kernel<N, LISTS>, sizeof(Tiles<N>), threads_of<N, LISTS>)
    n == 16 ? LAUNCH(16) : n == 32 ? LAUNCH(32) : LAUNCH(64);
#undef LAUNCH
    return {team * n, teams};
}

MlaPieces mla_decode_e4m3_hopper_pieces(Gpu *gpu, void *o, float *scratch, const void *q,
                                        const void *latent, const int32_t *block_table,
                                        const int32_t *lengths, const MlaDecodeShape &s) {
    return run<false>(gpu, {.shape = s,
                            .q = (const bf16 *)q,
                            .latent = (const unsigned char *)latent,
                            .block_table = block_table,
                            .lengths = lengths,
                            .o = (bf16 *)o,
                            .scratch = scratch});
}

void selected_e4m3_hopper(Gpu *gpu, void *o, float *scratch, const void *q, const void *latent,
                          SelectedRows lists, const MlaDecodeShape &s) {
    MlaPieces pieces = run<true>(gpu, {.shape = s,
                                       .q = (const bf16 *)q,
                                       .latent = (const unsigned char *)latent,
                                       .lengths = lists.lengths,
                                       .o = (bf16 *)o,
                                       .scratch = scratch,
                                       .rows = lists.rows,
                                       .zeros = (const unsigned char *)lists.zeros});
    mla_decode_join(gpu, BF16, o, scratch, lists.lengths, s, pieces.group_rows, pieces.blocks);
}

void mla_decode_e4m3_hopper_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                                 const void *latent, const int32_t *block_table,
                                 const int32_t *lengths, MlaDecodeShape s) {
    mla_decode_check("mla_decode_e4m3_hopper_cuda", &s);
    CHECK(mla_decode_e4m3_hopper_supports(gpu, dtype, s) &&
              ((uintptr_t)o | (uintptr_t)q | (uintptr_t)latent) % 16 == 0,
          "rows of eight bits with wgmma are for sm_90, BF16, kv_lora_rank 512, rope_dim 64 and "
          "addresses that are multiples of 16: this is sm_%d, %s, %d and %d",
          gpu->compute_capability, dtype_name(dtype), s.kv_lora_rank, s.rope_dim);
    MlaPieces pieces =
        mla_decode_e4m3_hopper_pieces(gpu, o, scratch, q, latent, block_table, lengths, s);
    mla_decode_join(gpu, BF16, o, scratch, lengths, s, pieces.group_rows, pieces.blocks);
}
