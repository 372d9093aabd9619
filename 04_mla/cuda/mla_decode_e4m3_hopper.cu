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
 * What limits: the scorer, whose codes become numbers in its own time. On an NVIDIA H200 a page
 * with 64 rows takes it 4700 clocks, half of them for S^T, half for the softmax; the tensor cores
 * need 2176 (08_quant/PERFORMANCE.md).
 */
#include "04_mla/cuda/mla_decode_e4m3_hopper.cuh"

#if HOPPER_CODE

/* ---- the scorer ---- */

/* A half of a group of the warp's 16 tokens, as it is: codes of two rows and their scales. */
struct Codes {
    uint4 word[2];
    float scale[2];
};
__device__ __forceinline__ Codes codes_of(const unsigned char *page, int half) {
    const unsigned char *row = page + (warp_of() * 16 + lane_of() / 4) * ROW_BYTES;
    Codes c;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        c.scale[r] = *(const float *)(row + 8 * r * ROW_BYTES + RANK + half / 2 * 4);
        c.word[r] = *(const uint4 *)(row + 8 * r * ROW_BYTES + half / 2 * 128 + lane_of() % 4 * 32 +
                                     half % 2 * 16);
    }
    return c;
}

/* As A fragments of four steps of 16 columns. */
__device__ __forceinline__ void keys_of(uint32_t (&z)[4][4], const Codes &c) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        uint32_t scale = pack_f16(c.scale[r], c.scale[r]);
        const uint32_t word[4] = {c.word[r].x, c.word[r].y, c.word[r].z, c.word[r].w};
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t two[2];
            e4m3_halves(two, word[k]);
            z[k][r] = f16_pair_times(two[0], scale);
            z[k][2 + r] = f16_pair_times(two[1], scale);
        }
    }
}

/* S^T = Z Q^T, in units of 2^8. Codes of the next half group become numbers while the tensor cores
 * have this one's. */
template <int N>
__device__ __forceinline__ void multiply_scores(float (&x)[N / 2], Tiles<N> &s, int stage) {
    const unsigned char *page = s.ring[stage];
    uint64_t q = wgmma_k_major(s.q[0]);
    uint32_t z[2][4][4];
    Codes next = codes_of(page, 0);
#pragma unroll
    for (int half = 0; half < BOXES; half++) {
        uint32_t(&mine)[4][4] = z[half % 2];
        if (half < BOXES - 1) {
            Codes now = next;
            if (half < BOXES - 2) next = codes_of(page, half + 1); /* ahead: it takes its time */
            keys_of(mine, now);
        } else {
#pragma unroll
            for (int k = 0; k < 4; k++) /* rope */
                ldmatrix_x4(mine[k], page + (warp_of() * 16 + lane_of() % 16) * ROW_BYTES + KEY +
                                         k * 32 + lane_of() / 16 * 16);
        }
        if (half == 0)
            wgmma_fence(x, mine[0], mine[1], mine[2], mine[3]);
        else
            wgmma_fence(mine[0], mine[1], mine[2], mine[3]);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint64_t columns = q + half * (Tiles<N>::BOX_BYTES >> 4) + k * WGMMA_K_STEP;
            if (half < BOXES - 1)
                Wgmma<N>::template halves<0>(x, mine[k], columns, half + k > 0);
            else
                Wgmma<N>::template registers<0>(x, mine[k], columns, 1);
        }
        wgmma_commit();
        if (half < BOXES - 1) {
            uint32_t(&other)[4][4] = z[1 - half % 2];
            wgmma_wait<1>(other[0], other[1], other[2], other[3]);
        }
    }
}

/* The rows of queries of S^T's columns that a thread has: 8 j + 2 (lane % 4) + e, as number
 * 2 j + e. What it knows of each. */
template <int N> struct Softmax {
    float base[N / 4]; /* of the exponents: about the maximum, a whole number */
    float sum[N / 4];  /* of this thread's tokens, until finish() */
};
__device__ __forceinline__ int column_of(int n) { return n / 2 * 8 + lane_of() % 4 * 2 + n % 2; }

/* Token t of the page is seen by row r of queries if t < seen. */
template <int N>
__device__ __forceinline__ void mask(float (&x)[N / 2], const Arguments &a, int first_row, int page,
                                     int length) {
    int last = mla_rows(a.shape) - 1, token = page * PAGE_TOKENS + warp_of() * 16 + lane_of() / 4;
#pragma unroll 1
    for (int j = 0; j < N / 8; j++)
        for (int e = 0; e < 2; e++) {
            int row = min(first_row + 8 * j + lane_of() % 4 * 2 + e, last);
            int seen = mla_keys_seen(&a.shape, length, row);
#pragma unroll
            for (int i = 0; i < N / 8; i++) /* a constant index, or x would go to memory */
                if (i == j) {
                    if (token >= seen) (e ? x[4 * i + 1] : x[4 * i]) = -INFINITY;
                    if (token + 8 >= seen) (e ? x[4 * i + 3] : x[4 * i + 2]) = -INFINITY;
                }
        }
}

/* Of COUNT numbers that lanes have whose numbers differ by LANES, each keeps the larger ones: of
 * half of them, as long as there are more than two. Returns the first it has. */
template <int COUNT, int LANES> __device__ __forceinline__ int spread_maxima(float *x) {
    if constexpr (LANES < 4) {
        return 0;
    } else if constexpr (COUNT > 2) {
        bool upper = lane_of() & LANES;
#pragma unroll
        for (int i = 0; i < COUNT / 2; i++) {
            float keep = upper ? x[i + COUNT / 2] : x[i], send = upper ? x[i] : x[i + COUNT / 2];
            x[i] = fmaxf(keep, __shfl_xor_sync(~0u, send, LANES));
        }
        return upper * (COUNT / 2) + spread_maxima<COUNT / 2, LANES / 2>(x);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; i++) x[i] = fmaxf(x[i], __shfl_xor_sync(~0u, x[i], LANES));
        return spread_maxima<COUNT, LANES / 2>(x);
    }
}

/* Whole numbers around 0 as positive floats, which are in order as integers are. */
static constexpr float ZERO = 4194304.0f; /* 2^22 */

/* In shared memory, each row's maximum so far of what all warps know; see column_of(). */
template <int N>
__device__ __forceinline__ void raise(uint32_t *top, const float (&x)[N / 2], float c) {
    float most[N / 4];
#pragma unroll
    for (int n = 0; n < N / 4; n++) most[n] = fmaxf(x[n / 2 * 4 + n % 2], x[n / 2 * 4 + 2 + n % 2]);
    int n = spread_maxima<N / 4, 16>(most);
#pragma unroll
    for (int e = 0; e < 2; e++) /* 2^8 for the units of P: half precision has few below 1 */
        atomicMax(top + column_of(n + e),
                  __float_as_uint(fmaxf(rintf(most[e] * c) - 8 + ZERO, 0.0f)));
}

/* x becomes 2^(c x - base). */
template <int N>
__device__ __forceinline__ void softmax_step(float (&x)[N / 2], Softmax<N> &m, Tiles<N> &s,
                                             int stage, const uint32_t *top, float c) {
    float base[N / 4];
    bool changed = false;
#pragma unroll
    for (int n = 0; n < N / 4; n += 2) {
        uint2 two = *(const uint2 *)(top + column_of(n));
        base[n] = fmaxf(m.base[n], __uint_as_float(two.x) - ZERO);
        base[n + 1] = fmaxf(m.base[n + 1], __uint_as_float(two.y) - ZERO);
        changed |= base[n] != m.base[n] || base[n + 1] != m.base[n + 1];
    }
    changed = __any_sync(~0u, changed);
    if (changed) {
#pragma unroll
        for (int n = 0; n < N / 4; n++) {
            float factor = exp2_fast(m.base[n] - base[n]);
            m.sum[n] *= factor;
            m.base[n] = base[n];
            if (threadIdx.x < 4) s.factor[stage][column_of(n)] = factor;
        }
    }
    if (threadIdx.x == 0) s.changed[stage] = changed;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        int n = i / 4 * 2 + i % 2;
        x[i] = exp2_fast(x[i] * c - m.base[n]);
        m.sum[n] += x[i];
    }
}

template <int N>
__device__ __forceinline__ void store_probabilities(char *p, const float (&x)[N / 2]) {
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        uint32_t packed[4];
#pragma unroll
        for (int i = 0; i < 4; i++) packed[i] = pack_f16(x[8 * k + 2 * i], x[8 * k + 2 * i + 1]);
        stmatrix_x4_transposed(p + swizzle_128(k * 16 + lane_of() / 16 * 8 + lane_of() % 8,
                                               warp_of() * 16 + lane_of() / 8 % 2 * 8),
                               packed);
    }
}

/* What lies behind the last token becomes zeros: their probabilities are 0, but 0 * NaN is NaN. The
 * warp's own 16 rows, which it has read. */
__device__ __forceinline__ void clear_rows(unsigned char *page, int there) {
    __syncwarp();
    for (int r = max(there - warp_of() * 16, 0); r < 16; r++)
        for (int i = lane_of(); i < KEY / 16; i += 32)
            *(uint4 *)(page + (warp_of() * 16 + r) * ROW_BYTES + i * 16) = make_uint4(0, 0, 0, 0);
}

/* Sums of the warp's tokens. */
template <int N> __device__ __forceinline__ void finish(Softmax<N> &m, Tiles<N> &s) {
#pragma unroll
    for (int n = 0; n < N / 4; n++) {
        for (int lanes = 4; lanes < 32; lanes *= 2)
            m.sum[n] += __shfl_xor_sync(~0u, m.sum[n], lanes);
        if (lane_of() < 4) s.sum[warp_of()][column_of(n)] = m.sum[n];
        if (threadIdx.x < 4) s.base[column_of(n)] = m.base[n];
    }
}

template <int N> static __device__ void score(Tiles<N> &s, const Arguments &a) {
    Ring<Tiles<N>::STAGES> ring;
    const float c = a.scale_log2 * 256;
    for (int first_row; (first_row = begin_piece(s, a)) >= 0;) {
        Softmax<N> m;
#pragma unroll
        for (int n = 0; n < N / 4; n++) m.base[n] = -ZERO, m.sum[n] = 0.0f;
        int length = s.piece.length, first = s.piece.first, end = first + s.piece.count;
        for (int page = first; page < end; page++) {
            float x[N / 2];
            int stage = __shfl_sync(~0u, ring.stage, 0);
            mbarrier_wait(&s.full[stage], ring.parity);
            multiply_scores(x, s, stage);
            wgmma_wait<0>(x);
            /* for the page before: it is weighed during this one's softmax */
            if (page > first) mbarrier_arrive_warp(&s.turn[stage ? stage - 1 : s.STAGES - 1]);
            int there = length - page * PAGE_TOKENS;
            if (there - PAGE_TOKENS < a.shape.q_len - 1) mask<N>(x, a, first_row, page, length);
            uint32_t *top = s.top[page % 2];
            raise<N>(top, x, c);
            named_barrier_sync(SCORER_BARRIER, 128);
            softmax_step(x, m, s, stage, top, c);
            store_probabilities<N>(s.p[stage], x);
            if (there < PAGE_TOKENS) clear_rows(s.ring[stage], there);
            async_proxy_fence();
            mbarrier_arrive_warp(&s.scored[stage]);
            ring.advance();
        }
        mbarrier_arrive_warp(&s.turn[ring.stage ? ring.stage - 1 : s.STAGES - 1]);
        finish(m, s);
        __syncthreads(); /* the weighers read the sums */
        __syncthreads();
    }
}

/* ---- the weighers ---- */

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

/* The warp's 16 columns from `column` on of 32 tokens, as A fragments of two steps. */
__device__ __forceinline__ void values_of(uint32_t (&c)[2][4], const unsigned char *page,
                                          int column, int half, const uint32_t (&scale)[8]) {
    uint32_t v[4];
    ldmatrix_x4_transposed(v, page + (half * 32 + lane_of()) * ROW_BYTES + column);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t two[2];
        e4m3_halves(two, choose_bytes<0x3120>(v[i]));
        c[i / 2][i % 2 * 2] = f16_pair_times(two[0], scale[half * 4 + i]);
        c[i / 2][i % 2 * 2 + 1] = f16_pair_times(two[1], scale[half * 4 + i]);
    }
}

/* O^T += C^T P^T. The next 32 tokens become numbers while the tensor cores have these. */
template <int N>
__device__ __forceinline__ void multiply_values(float (&o)[4][N / 2], Tiles<N> &s, int stage,
                                                int half, bool first) {
    const unsigned char *page = s.ring[stage];
    uint64_t p = wgmma_k_major(s.p[stage]);
    uint32_t c[2][2][4], scale[8];
    wgmma_fence(o[0], o[1], o[2], o[3]);
#pragma unroll
    for (int i = 0; i < 8; i++) { /* 64 columns, 32 tokens */
        if (i % 4 == 0) scales_of(scale, page, half * 2 + i / 4);
        values_of(c[i % 2], page, half * 256 + i / 2 * 64 + warp_of() * 16, i % 2, scale);
        wgmma_fence(c[i % 2][0], c[i % 2][1]);
#pragma unroll
        for (int k = 0; k < 2; k++)
            Wgmma<N>::halves<0>(o[i / 2], c[i % 2][k], p + (i % 2 * 2 + k) * WGMMA_K_STEP,
                                i % 2 + k > 0 || !first);
        wgmma_commit();
        wgmma_wait<1>(c[1 - i % 2][0], c[1 - i % 2][1]);
    }
    wgmma_wait<0>(o[0], o[1], o[2], o[3]);
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
        float sum = s.sum[0][r] + s.sum[1][r] + s.sum[2][r] + s.sum[3][r], inverse = 1.0f / sum;
        float *state = piece.slot < 0 ? nullptr
                                      : mla_state(a.scratch, piece.slot, group_rows,
                                                  row - piece.group * group_rows, a.shape);
        if (state && half == 0 && warp_of() == 0 && lane_of() < 4)
            state[0] = s.base[r], state[1] = sum;
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

template <int N> static __device__ void weigh(Tiles<N> &s, const Arguments &a, int half) {
    int id = threadIdx.x == 128 ? begin_pages(s, a) : 0;
    __syncwarp();
    Ring<Tiles<N>::STAGES> ring;
    for (int first_row; (first_row = begin_piece(s, a)) >= 0;) {
        float o[4][N / 2];
        for (int i = 0, count = s.piece.count; i < count; i++) {
            int stage = __shfl_sync(~0u, ring.stage, 0);
            mbarrier_wait(&s.scored[stage], ring.parity);
            if (i > 0 && s.changed[stage]) rescale<N>(o, s.factor[stage]);
            mbarrier_wait(&s.turn[stage], ring.parity);
            multiply_values(o, s, stage, half, i == 0);
            async_proxy_fence(); /* the copy engine will write there */
            mbarrier_arrive_warp(&s.empty[stage]);
            ring.advance();
            if (threadIdx.x == 128) refill(s, a, id);
            __syncwarp();
        }
        __syncthreads(); /* the sums are here */
        write(o, s, a, first_row, half);
        __syncthreads();
    }
}

#endif /* HOPPER_CODE */

template <int N>
__global__ void __launch_bounds__(THREADS, 1)
    mla_decode_e4m3_hopper_kernel(const __grid_constant__ Arguments a) {
#if HOPPER_CODE
    extern __shared__ __align__(1024) unsigned char memory[];
    Tiles<N> &s = *(Tiles<N> *)memory;
    int kind = __shfl_sync(~0u, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) {
        for (int i = 0; i < s.STAGES; i++) {
            mbarrier_init(&s.full[i], 1);
            mbarrier_init(&s.scored[i], 4 * WARP_ARRIVALS);
            mbarrier_init(&s.turn[i], 4 * WARP_ARRIVALS);
            mbarrier_init(&s.empty[i], 8 * WARP_ARRIVALS);
        }
        mbarrier_init_fence();
    }
    if (threadIdx.x < 32) {
        MlaWalk walk;
        walk.begin(a.lengths, a.shape, a.groups, blockIdx.x / a.team, gridDim.x / a.team);
        if (threadIdx.x == 0) s.walk = s.feed.walk = walk;
    }
    __syncthreads();
    if (kind == 0) {
        if (N == 64) registers_release<136>();
        score(s, a);
    } else {
        if (N == 64) registers_take<184>();
        weigh(s, a, kind - 1);
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

MlaPieces mla_decode_e4m3_hopper_pieces(Gpu *gpu, void *o, float *scratch, const void *q,
                                        const void *latent, const int32_t *block_table,
                                        const int32_t *lengths, const MlaDecodeShape &s) {
    int team = team_of(s), teams = gpu->sm_count / team, n = rows_of(s);
    Arguments a = {s,
                   (const bf16 *)q,
                   (const unsigned char *)latent,
                   block_table,
                   lengths,
                   (bf16 *)o,
                   scratch,
                   team,
                   (int)ceil_div(mla_rows(s), team * n),
                   s.scale * 1.44269504f};
    auto kernel = n == 16   ? mla_decode_e4m3_hopper_kernel<16>
                  : n == 32 ? mla_decode_e4m3_hopper_kernel<32>
                            : mla_decode_e4m3_hopper_kernel<64>;
    size_t bytes = n == 16 ? sizeof(Tiles<16>) : n == 32 ? sizeof(Tiles<32>) : sizeof(Tiles<64>);
    gpu_launch(gpu, kernel, teams * team, THREADS, bytes, a);
    return {team * n, teams};
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
