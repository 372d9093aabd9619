/*
 * What the grouped product's two Hopper kernels share: the ring of shared memory between the copy
 * engine and the tensor cores, and the shape of a block.
 *
 *     block      one producer warpgroup, which gives its registers away, and two consumers with 64
 *                rows of the output tile each, its sums in registers
 *     ring       4 stages of 48 KiB: 128 x 64 numbers of the operand that a consumer halves, 64 x
 *                256 of the one that both read
 *     cluster    two blocks need the same tile of the second operand: each fetches half of it for
 *                both (multicast)
 *
 * Two barriers guard a stage. full: its bytes have come. empty: the consumers of both blocks are
 * done with it, for both producers write into both blocks. Stage and parity follow from a counter
 * that every role runs by itself.
 */
#ifndef GROUPED_HOPPER_CUH
#define GROUPED_HOPPER_CUH

#include "05_moe/cuda/turns.cuh"
#include "05_moe/grouped_rungs.h"

enum { STAGES = 4, THREADS = 384, CLUSTER = 2, STEP_K = 64 };
enum { HALF_TILE = 128, WIDE_TILE = 256 }; /* of the operand a consumer halves, of the shared one */
enum {
    BLOCK_BYTES = 64 * 128, /* 64 rows of 128 bytes: a swizzled block */
    HALF_BYTES = 2 * BLOCK_BYTES,
    STAGE_BYTES = HALF_BYTES + 4 * BLOCK_BYTES,
    OUT_BYTES = 2 * BLOCK_BYTES, /* each consumer's, to store its sums from */
    RING_BYTES = STAGES * STAGE_BYTES
};

struct Barriers {
    uint64_t full[STAGES], empty[STAGES];
    Turns turns;
};
enum { TURN_READERS = CLUSTER * 9 }; /* warps: the producer and eight of consumers in each block */

#if HOPPER_CODE

/* By one thread; cluster_sync() follows. */
static __device__ __forceinline__ void barriers_init(Barriers *barriers) {
    for (int i = 0; i < STAGES; i++) {
        mbarrier_init(&barriers->full[i], 1);            /* the producer, and the bytes */
        mbarrier_init(&barriers->empty[i], 2 * CLUSTER); /* two consumers in each block */
    }
    turns_init(&barriers->turns, TURN_READERS);
    mbarrier_init_fence();
}

/* The stage that step `count` uses, once both blocks' consumers have left it. */
static __device__ __forceinline__ int stage_to_fill(Barriers *barriers, int count) {
    mbarrier_wait(&barriers->empty[count % STAGES], count / STAGES % 2 ^ 1);
    return count % STAGES;
}

/* Step `count` is read: tells the producers of both blocks. */
static __device__ __forceinline__ void stage_leave(Barriers *barriers, int count) {
    int t = threadIdx.x % 128;
    if (t < CLUSTER) mbarrier_arrive_cluster(&barriers->empty[count % STAGES], t);
}

/* Step `count` of sum += A B, or of sum = A B. */
template <int N, int A_MN, int B_MN>
static __device__ __forceinline__ void multiply_stage(float (&sum)[N / 2], char *ring,
                                                      Barriers *barriers, int count, int consumer,
                                                      bool add) {
    char *stage = ring + count % STAGES * STAGE_BYTES;
    char *a = stage + consumer * BLOCK_BYTES, *b = stage + HALF_BYTES;
    mbarrier_wait(&barriers->full[count % STAGES], count / STAGES % 2);
    uint64_t desc_a = A_MN ? wgmma_mn_major(a, BLOCK_BYTES) : wgmma_k_major(a);
    uint64_t desc_b = B_MN ? wgmma_mn_major(b, BLOCK_BYTES) : wgmma_k_major(b);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < STEP_K / 16; k++)
        Wgmma<N>::template shared<A_MN, B_MN>(
            sum, desc_a + k * (A_MN ? WGMMA_MN_STEP : WGMMA_K_STEP),
            desc_b + k * (B_MN ? WGMMA_MN_STEP : WGMMA_K_STEP), add || k > 0);
    wgmma_commit();
}

/*
 * Zeros to rows `rows` .. 63 of the stage's blocks, for this consumer: its own of the first operand
 * and all of the second's. Both consumers write the second's, the same zeros; to share that work
 * they would have to wait for each other.
 */
static __device__ __forceinline__ void clear_rows(char *stage, int rows, int consumer) {
    int pieces = (STEP_K - rows) * 8;
    for (int i = threadIdx.x % 128; i < pieces; i += 128) {
        char *at = stage + rows * 128 + i * 16;
        *(uint4 *)(at + consumer * BLOCK_BYTES) = make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int block = 2; block < 6; block++)
            *(uint4 *)(at + block * BLOCK_BYTES) = make_uint4(0, 0, 0, 0);
    }
    async_proxy_fence();
    named_barrier_sync(1 + consumer, 128);
}

/*
 * sum (64 x N) = the product over steps >= 1 stages: A is this consumer's block of the first
 * operand, B the first N of the second's 256. One step's products are always in flight.
 *
 * The first step stands apart so that the compiler sees it overwrite the sums. Were they "added to,
 * if step > 0", the registers of every N would count as alive all the time.
 *
 * `last`: how many of the last stage's 64 k's count. The others must be zeros in both operands, for
 * what lies there instead may be a NaN. For MN-major operands, whose rows are k's; elsewhere TMA
 * brings the zeros.
 */
template <int N, int A_MN, int B_MN>
static __device__ __forceinline__ void multiply_stages(float (&sum)[N / 2], char *ring,
                                                       Barriers *barriers, int count, int steps,
                                                       int consumer, int last) {
    auto clear_last = [&]() {
        if (!A_MN || !B_MN || last == STEP_K) return;
        mbarrier_wait(&barriers->full[count % STAGES], count / STAGES % 2);
        clear_rows(ring + count % STAGES * STAGE_BYTES, last, consumer);
    };
    if (steps == 1) clear_last();
    multiply_stage<N, A_MN, B_MN>(sum, ring, barriers, count, consumer, false);
    for (int step = 1; step < steps; step++) {
        count++;
        if (step == steps - 1) clear_last();
        multiply_stage<N, A_MN, B_MN>(sum, ring, barriers, count, consumer, true);
        wgmma_wait<1>(); /* the products of the step before are done: its stage is free */
        stage_leave(barriers, count - 1);
    }
    wgmma_wait<0>(sum);
    stage_leave(barriers, count);
}

#endif

/* Row-major [rows, cols] numbers in boxes; cols are a multiple of 16 bytes. */
static inline int map_rows(CUtensorMap *map, const void *x, int64_t rows, int64_t cols,
                           int box_cols, int box_rows, CUtensorMapSwizzle swizzle) {
    uint64_t sizes[2] = {(uint64_t)cols, (uint64_t)rows}, strides[1] = {(uint64_t)cols * 2};
    uint32_t box[2] = {(uint32_t)box_cols, (uint32_t)box_rows};
    return tensor_map_make(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, x, 2, sizes, strides, box,
                           swizzle);
}

#endif
