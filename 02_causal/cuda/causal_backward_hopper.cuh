/*
 * The pieces of Hopper's backward that work on one tile: 64 keys (of a warpgroup) against M queries
 * (see causal_backward_hopper.cu). All matrices in shared memory lie in blocks of 64 columns, 128
 * bytes a row, swizzled; with D = 96 half of the last block is zeros, which no product reads.
 */
#ifndef CAUSAL_BACKWARD_HOPPER_CUH
#define CAUSAL_BACKWARD_HOPPER_CUH

#include "02_causal/cuda/causal_common.cuh"
#include "common/cuda/hopper.cuh"

enum { KEYS = 128 }; /* of a block: 64 for each of the two warpgroups */

/*
 * Queries of a tile, by the width of q and k. Up to 96, dK and dV leave the registers for a larger
 * score tile. Then each warpgroup computes 64 rows of the tile's dQ, else half of the columns.
 */
template <int DK> struct Queries {
    enum { COUNT = DK <= 96 ? 128 : 64, DQ_COLUMNS = DK <= 96 ? DK : DK / 2 };
    enum { DQ_TILE = 64 * DQ_COLUMNS }; /* what one warpgroup computes of dQ in a step */
};

#if HOPPER_CODE

/* ---- the five products ---- */

/* S^T or dP^T [64 keys, M queries] = first + rows [64, D] tile^T [D, M], where first [M] is the
 * same for all keys: what is subtracted from the scores of a query costs nothing here. */
template <int D, int M>
__device__ __forceinline__ void product_scores(float (&d)[M / 2], const float *first,
                                               const bf16 *rows, const bf16 *tile) {
#pragma unroll
    for (int i = 0; i < M / 4; i++) {
        float2 f = *(const float2 *)(first + i / 2 * 8 + threadIdx.x % 4 * 2);
        d[2 * i] = f.x, d[2 * i + 1] = f.y;
    }
    wgmma_fence(d);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint64_t a = wgmma_k_major(rows + k / 4 * KEYS * 64);
        uint64_t b = wgmma_k_major(tile + k / 4 * M * 64);
        int step = k % 4 * WGMMA_K_STEP;
        Wgmma<M>::template shared<0, 0>(d, a + step, b + step, 1);
    }
}

/* dV or dK [64 keys, D] += scores [64, M] (registers) tile [M, D]. */
template <int D, int M>
__device__ __forceinline__ void product_keys(float (&d)[D / 2], const uint32_t (&a)[M / 4],
                                             const bf16 *tile) {
    uint64_t b = wgmma_mn_major(tile, M * 128);
#pragma unroll
    for (int k = 0; k < M / 16; k++)
        Wgmma<D>::template registers<1>(d, a + 4 * k, b + k * WGMMA_MN_STEP, 1);
}

/* A warpgroup's part of dQ = dS [M, 128 keys] K [128, DK]: 64 of the rows or of the columns. */
template <int DK, int M>
__device__ __forceinline__ void product_dq(float (&d)[Queries<DK>::DQ_COLUMNS / 2], const bf16 *ds,
                                           const bf16 *k, int group) {
    const bf16 *rows = ds + (M == 128 ? group * 64 * 64 : 0);
    uint64_t b = wgmma_mn_major(k + (M == 64 ? group * KEYS * 64 : 0), KEYS * 128);
#pragma unroll
    for (int c = 0; c < KEYS / 64; c++) {
        uint64_t a = wgmma_k_major(rows + c * M * 64);
#pragma unroll
        for (int i = 0; i < 4; i++)
            Wgmma<Queries<DK>::DQ_COLUMNS>::template shared<0, 1>(
                d, a + i * WGMMA_K_STEP, b + (c * 4 + i) * WGMMA_MN_STEP, c + i);
    }
}

/* ---- what happens to the scores between them; a thread's registers are laid out as hopper.cuh
 * says ---- */

/* Scores that no query may use: of keys from `end` on, and, when causal, of keys behind the query.
 * Query 0 of the tile sees the keys up to `seen`, each next query one more. */
template <int M>
__device__ __forceinline__ void mask_scores(float (&s)[M / 2], int key, int end, int seen,
                                            int causal) {
    int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < M / 2; i++) {
        int row = key + (i & 2) * 4, query = column + i / 4 * 8 + (i & 1);
        if (row >= end || (causal && row > seen + query)) s[i] = -INFINITY;
    }
}

/* p = P = 2^(s scale), rounded to BF16: an A operand. */
template <int M>
__device__ __forceinline__ void probabilities(uint32_t (&p)[M / 4], const float (&s)[M / 2],
                                              float scale) {
#pragma unroll
    for (int i = 0; i < M / 4; i++)
        p[i] = pack_bf16(exp2_fast(s[2 * i] * scale), exp2_fast(s[2 * i + 1] * scale));
}

/*
 * ds = P dP', dP' = dP - delta, as BF16. P is taken from its BF16 form, the upper half of an F32:
 * its F32 registers are then free for the next tile's scores. The rounding is as large as that of
 * dS itself, and dV uses the same P.
 */
template <int M>
__device__ __forceinline__ void score_gradients(uint32_t (&ds)[M / 4], const uint32_t (&p)[M / 4],
                                                const float (&dp)[M / 2]) {
#pragma unroll
    for (int i = 0; i < M / 4; i++) {
        float low = __uint_as_float(p[i] << 16), high = __uint_as_float(p[i] & 0xFFFF0000u);
        ds[i] = pack_bf16(low * dp[2 * i], high * dp[2 * i + 1]);
    }
}

/* ---- from registers to shared memory, for readers of the asynchronous proxy ---- */

/* dS^T as [query][key]: stmatrix turns each 8 x 8 block. */
template <int M>
__device__ __forceinline__ void share_gradients(bf16 *tile, const uint32_t (&ds)[M / 4]) {
    int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    int query = lane % 8 + lane / 16 * 8, key = warp * 16 + (lane / 8 & 1) * 8;
    char *row = (char *)tile + swizzle_128(query, key);
#pragma unroll
    for (int k = 0; k < M / 16; k++) stmatrix_x4_transposed(row + k * 16 * 128, ds + 4 * k);
    async_proxy_fence();
}

/* A warpgroup's part of dQ in F32, in the order of the registers: 16 bytes a thread side by side.
 */
template <int N> __device__ __forceinline__ void share_dq(float *tile, const float (&dq)[N]) {
#pragma unroll
    for (int i = 0; i < N / 4; i++)
        ((float4 *)tile)[i * 128 + threadIdx.x % 128] =
            make_float4(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
}

/* dK or dV times scale, as BF16, in the rows of this warpgroup. */
template <int D>
__device__ __forceinline__ void share_keys(bf16 *tile, const float (&d)[D / 2], float scale) {
    int row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 16;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            r[i] = pack_bf16(d[8 * k + 2 * i] * scale, d[8 * k + 2 * i + 1] * scale);
        int column = k * 16 + threadIdx.x % 32 / 16 * 8;
        stmatrix_x4((char *)(tile + column / 64 * KEYS * 64) + swizzle_128(row, column % 64), r);
    }
    async_proxy_fence();
}

#endif

/* ---- before and after ---- */

/*
 * What the scores begin with: -delta = -rowsum(dO O) for dP, -lse / scale for S, padded to whole
 * tiles: a query past the end has -inf, so its probabilities are 0 and no later code need ask.
 * DV / 8 threads a row, 16 bytes each.
 */
template <int DV>
__global__ void backward_prepare(float *first_s, float *first_dp, int *turns, int turn_count,
                                 const bf16 *d_o, const bf16 *o, const float *lse,
                                 AttentionShape shape, int q_padded) {
    int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = thread / (DV / 8);
    if (thread < turn_count) turns[thread] = 0;
    int pair = row / q_padded, t = row % q_padded, head = pair % shape.heads;
    int column = thread % (DV / 8) * 8;
    float sum = 0;
    if (t < shape.q_len && column < shape.v_dim) {
        int batch = pair / shape.heads;
        uint4 a = *(const uint4 *)(head_row(d_o, shape.o, batch, t, head) + column);
        uint4 b = *(const uint4 *)(head_row(o, shape.o, batch, t, head) + column);
#pragma unroll
        for (int i = 0; i < 8; i++)
            sum = fmaf(to_float(((const bf16 *)&a)[i]), to_float(((const bf16 *)&b)[i]), sum);
    }
    for (int offset = DV / 16; offset; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (thread % (DV / 8)) return;
    first_dp[row] = -sum;
    first_s[row] = -INFINITY;
    if (t < shape.q_len) first_s[row] = -lse[(int64_t)pair * shape.q_len + t] / shape.scale;
}

/*
 * dQ from the F32 tiles to its tensor, a block for each. A tile lies in the order of wgmma's
 * registers: float4 i of thread t holds columns 8 i + 2 (t % 4), + 1 of rows t / 4 and t / 4 + 8.
 * One thread here takes four of those: 8 columns of two rows.
 */
template <int DK>
__global__ void backward_finish(bf16 *dq, int add, const float *tiles, AttentionShape shape,
                                int q_padded) {
    constexpr int M = Queries<DK>::COUNT, EIGHTS = Queries<DK>::DQ_COLUMNS / 8;
    int tile = blockIdx.x / 2, per_head = q_padded / M, pair = tile / per_head;
    int half = blockIdx.x % 2, i = threadIdx.x % EIGHTS, quad = threadIdx.x / EIGHTS;
    const float4 *from = (const float4 *)(tiles + (int64_t)blockIdx.x * Queries<DK>::DQ_TILE);
    float x[2][8];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float4 f = from[i * 128 + quad * 4 + j];
        x[0][2 * j] = f.x, x[0][2 * j + 1] = f.y, x[1][2 * j] = f.z, x[1][2 * j + 1] = f.w;
    }
    int column = i * 8 + (M == 64 ? half * 64 : 0);
    if (column >= shape.qk_dim) return;
    int first = tile % per_head * M + (M == 128 ? half * 64 : 0) + quad / 8 * 16 + quad % 8;
    for (int r = 0; r < 2; r++) {
        int t = first + r * 8;
        if (t >= shape.q_len) continue;
        bf16 *row = head_row(dq, shape.q, pair / shape.heads, t, pair % shape.heads);
        uint4 *to = (uint4 *)(row + column);
        uint4 old = add ? *to : make_uint4(0, 0, 0, 0), sum;
#pragma unroll
        for (int c = 0; c < 8; c++)
            ((bf16 *)&sum)[c] =
                from_float<bf16>(x[r][c] * shape.scale + to_float(((const bf16 *)&old)[c]));
        *to = sum;
    }
}

#endif
