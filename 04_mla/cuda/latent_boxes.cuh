/*
 * Attention over latents on Hopper, by pages (mla_decode_hopper.cu) and over listed rows
 * (selection_forward_hopper.cu): what a block of either does with 64 rows of queries and 64
 * latents.
 *
 *     scorer     S = Q Z^T, then P = 2^(c S - base)
 *     weighers   O += P C, after O *= factor
 *
 * Latents, and queries on their way to the registers, lie in shared memory as nine boxes, 64 rows
 * of 128 bytes each, in wgmma's swizzle. mla_decode_hopper.cu says why the work is split so. How
 * rows come there, in which order items are taken and where results go is each kernel's own, and so
 * is the softmax, whose sums are added up in another order. Each has a struct Tiles for what its
 * block keeps, with LatentBoxes ring[], q_rope and q_step.
 */
#ifndef LATENT_BOXES_CUH
#define LATENT_BOXES_CUH

#include "common/cuda/hopper.cuh"

enum {
    RANK = 512,  /* kv_lora_rank: a value */
    WIDTH = 576, /* and the rope part: a key */
    BOXES = WIDTH / 64,
    ROPE_BOX = BOXES - 1,
    TILE = 64, /* rows of queries of a block: (query, head) */
    BOX_BYTES = 64 * 128,
    Q_STEPS = 31, /* of 36 steps of 16 columns: what of Q fits into registers */
    SCORER_BARRIER = 1
};

/* 64 rows; box b has columns 64 b .. 64 b + 63. */
struct LatentBoxes {
    bf16 box[BOXES][64 * 64];
};

#if HOPPER_CODE

/* Of a thread in its warpgroup: the first of the two rows that wgmma's layout gives it; the other
 * is 8 rows below. */
__device__ __forceinline__ int my_row() {
    return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
}

/* ---- the scorer ---- */

/* Queries from a stage to their places: wgmma's A fragments of the first 31 steps of 16 columns,
 * the rest in shared memory. */
template <typename Tiles>
__device__ __forceinline__ void take_queries(uint32_t (&q)[Q_STEPS][4], Tiles &s, int stage) {
    int t = threadIdx.x % 128, lane = t % 32, warp = t / 32;
    const char *box = (const char *)s.ring[stage].box[0];
#pragma unroll
    for (int k = 0; k < Q_STEPS; k++)
        ldmatrix_x4(q[k], box + k / 4 * BOX_BYTES +
                              swizzle_128(warp * 16 + lane % 16, k % 4 * 16 + lane / 16 * 8));
    /* One step alone has rows of 32 bytes, too short for the swizzle: blocks of 8 rows x 16 bytes,
     * the two of the same rows side by side. */
    *(uint4 *)((char *)s.q_step + t / 16 * 256 + t % 2 * 128 + t / 2 % 8 * 16) =
        *(const uint4 *)(box + Q_STEPS / 4 * BOX_BYTES +
                         swizzle_128(t / 2, Q_STEPS % 4 * 16 + t % 2 * 8));
    for (int i = t; i < TILE * 8; i += 128)
        ((uint4 *)s.q_rope)[i] = ((const uint4 *)s.ring[stage].box[ROPE_BOX])[i];
    async_proxy_fence();
    named_barrier_sync(SCORER_BARRIER, 128);
}

/* S = Q Z^T: 64 rows x 64 keys, 36 steps of 16 columns. Starts it, does not wait. */
template <typename Tiles>
__device__ __forceinline__ void multiply_scores(float (&x)[32], const uint32_t (&q)[Q_STEPS][4],
                                                Tiles &s, int stage) {
    uint64_t z = wgmma_k_major(s.ring[stage].box[0]), q_rope = wgmma_k_major(s.q_rope);
    uint64_t q_step = wgmma_descriptor(s.q_step, 128, 256) & ~((uint64_t)3 << 62); /* no swizzle */
    wgmma_fence(x);
#pragma unroll
    for (int k = 0; k < 4 * BOXES; k++) {
        uint64_t keys = z + k / 4 * (BOX_BYTES >> 4) + k % 4 * WGMMA_K_STEP;
        if (k < Q_STEPS)
            Wgmma<64>::registers<0>(x, q[k], keys, k > 0);
        else
            Wgmma<64>::shared<0, 0>(x, k == Q_STEPS ? q_step : q_rope + k % 4 * WGMMA_K_STEP, keys,
                                    1);
    }
    wgmma_commit();
}

/* What the scorer knows of a thread's two rows. */
struct Softmax {
    float base[2]; /* of the exponents: about the row's maximum */
    float sum[2];  /* of this thread's columns, until finish() */
};

/* The nearest whole number: between 2^23 and 2^24 floats have no fraction. */
__device__ __forceinline__ float nearest(float x) { return x + 12582912.0f - 12582912.0f; }

/* x [8 COUNT], rounded, to a box: of 16 COUNT columns from `column` on, what this thread has. */
template <int COUNT>
__device__ __forceinline__ void store_columns(bf16 *box, const float (&x)[8 * COUNT], int column) {
    int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
#pragma unroll
    for (int k = 0; k < COUNT; k++) {
        uint32_t packed[4];
#pragma unroll
        for (int i = 0; i < 4; i++) packed[i] = pack_bf16(x[8 * k + 2 * i], x[8 * k + 2 * i + 1]);
        stmatrix_x4((char *)box +
                        swizzle_128(warp * 16 + lane % 16, column + k * 16 + lane / 16 * 8),
                    packed);
    }
}

/* P, rounded, to where the rope keys were. */
__device__ __forceinline__ void store_probabilities(LatentBoxes &rows, const float (&x)[32]) {
    store_columns<4>(rows.box[ROPE_BOX], x, 0);
}

/* ---- the weighers ---- */

__device__ __forceinline__ void rescale(float (&o)[128], const bf16 *factor) {
    float f0 = to_float(factor[my_row()]), f1 = to_float(factor[my_row() + 8]);
    if (!__any_sync(~0u, f0 != 1.0f || f1 != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < 128; i++) o[i] *= i / 2 % 2 ? f1 : f0;
}

#endif /* HOPPER_CODE */
#endif
