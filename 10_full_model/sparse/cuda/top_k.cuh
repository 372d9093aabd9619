/*
 * The k largest of a row on the GPU, without sorting: what its rungs share.
 *
 * As on the CPU (top_k_cpu.c), the k-th largest is found digit by digit, 11, 11 and 10 bits, by
 * counting how many keys have which digit. Then one pass takes what is larger, and of what is equal
 * the first ones. A warp takes 32 neighbours at a time, and ballots say how many of them come
 * before a lane's: so what comes out is in order, and the same in every run.
 *
 * Counting is done by atomics in shared memory, on whole numbers, whose order does not matter. But
 * equal digits wait for each other, and ReLU makes rows of zeros: so lanes that have lane 0's digit
 * are counted by one of them.
 */
#ifndef TOP_K_CUH
#define TOP_K_CUH

#include "10_full_model/sparse/index_kernels.h"
#include "common/cuda/gpu.cuh"

enum { TOP_K_THREADS = 1024, TOP_K_WARPS = TOP_K_THREADS / 32, TOP_K_BINS = 2048 };

/* Larger for larger floats; -0 is 0, and NaN is below everything. */
__device__ __forceinline__ uint32_t top_k_ordered(float x) {
    uint32_t bits = __float_as_uint(x + 0.0f); /* -0 + 0 is 0 */
    bits ^= (uint32_t)((int32_t)bits >> 31) | 0x80000000u;
    return x == x ? bits : 0;
}

struct TopKShared {
    uint32_t bins[TOP_K_BINS];
    int of_warp[TOP_K_WARPS];                    /* counts in the digits of a warp's threads */
    int larger[TOP_K_WARPS], equal[TOP_K_WARPS]; /* keys of a warp's part */
    uint32_t digit;
    int left;        /* how many to take of those with this digit .. */
    int equal_digit; /* .. which are so many */
};

/* Over the warp; GPUs from sm_80 on have an instruction for it. */
__device__ __forceinline__ int top_k_sum(int x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_add_sync(~0u, x);
#else
    for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
    return x;
#endif
}

/* Called by whole warps; `valid`: this lane has a key that counts. */
__device__ __forceinline__ void top_k_count(uint32_t *bins, uint32_t digit, bool valid) {
    unsigned there = __ballot_sync(~0u, valid);
    if (!there) return;
    int first = __ffs(there) - 1, lane = threadIdx.x % 32;
    uint32_t common = __shfl_sync(~0u, digit, first);
    unsigned same = __ballot_sync(~0u, valid && digit == common);
    if (lane == first)
        atomicAdd(&bins[common], __popc(same));
    else if (valid && digit != common)
        atomicAdd(&bins[digit], 1);
}

/*
 * The digit of the k-th largest: count(bin) says how many keys have this digit. A thread has two
 * neighbouring digits, the first thread the largest. Leaves digit, left and equal_digit in s. By
 * the whole block. */
template <typename Count> __device__ void top_k_digit(TopKShared &s, int k, Count count) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t upper = TOP_K_BINS - 1 - 2 * threadIdx.x;
    int high = count(upper), low = count(upper - 1), sum = high + low;
    for (int offset = 1; offset < 32; offset *= 2) {
        int other = __shfl_up_sync(~0u, sum, offset);
        if (lane >= offset) sum += other;
    }
    if (lane == 31) s.of_warp[warp] = sum;
    __syncthreads();
    int before = lane < warp ? s.of_warp[lane] : 0;
    before = top_k_sum(before) + sum - high - low;
    if (before < k && k <= before + high + low) { /* one thread */
        bool first = k <= before + high;
        s.digit = first ? upper : upper - 1;
        s.left = k - before - (first ? 0 : high);
        s.equal_digit = first ? high : low;
    }
    __syncthreads();
}

__device__ __forceinline__ int top_k_shift(int pass) { return pass == 0 ? 21 : pass == 1 ? 10 : 0; }
__device__ __forceinline__ uint32_t top_k_mask(int pass) { return pass < 2 ? 0x7ff : 0x3ff; }

/* What is searched for. */
struct TopKThreshold {
    uint32_t key, known; /* the digits found, and where they stand */
    int left;            /* of those that are equal to it, how many are taken */
};

/* One more digit is known. */
__device__ __forceinline__ void top_k_know(TopKThreshold &t, const TopKShared &s, int pass) {
    t.key |= s.digit << top_k_shift(pass);
    t.known |= top_k_mask(pass) << top_k_shift(pass);
    t.left = s.left;
}

/*
 * Takes from keys begin .. end - 1: key(i) is number i, put(at, i) puts it at place `at`. `larger`
 * and `equal`: how many of both come before `begin`, of other blocks. By the whole block.
 */
template <typename Key>
__device__ void top_k_counts(TopKShared &s, int begin, int end, Key key, TopKThreshold t) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int part = ((end - begin + TOP_K_WARPS - 1) / TOP_K_WARPS + 31) / 32 * 32;
    int from = begin + warp * part, to = min(from + part, end), larger = 0, equal = 0;
    for (int i = from + lane; i - lane < to; i += 32) {
        uint32_t x = i < to ? key(i) : 0;
        larger += __popc(__ballot_sync(~0u, i < to && x > t.key));
        equal += __popc(__ballot_sync(~0u, i < to && x == t.key));
    }
    if (lane == 0) s.larger[warp] = larger, s.equal[warp] = equal;
    __syncthreads();
}

template <typename Key, typename Put>
__device__ void top_k_take(TopKShared &s, int begin, int end, Key key, Put put, TopKThreshold t,
                           int larger, int equal) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int part = ((end - begin + TOP_K_WARPS - 1) / TOP_K_WARPS + 31) / 32 * 32;
    int from = begin + warp * part, to = min(from + part, end);
    larger += top_k_sum(lane < warp ? s.larger[lane] : 0);
    equal += top_k_sum(lane < warp ? s.equal[lane] : 0);
    unsigned below = (1u << lane) - 1;
    for (int i = from + lane; i - lane < to; i += 32) {
        uint32_t x = i < to ? key(i) : 0;
        bool is_larger = i < to && x > t.key, is_equal = i < to && x == t.key;
        unsigned l = __ballot_sync(~0u, is_larger), e = __ballot_sync(~0u, is_equal);
        int equal_before = equal + __popc(e & below);
        if (is_larger || (is_equal && equal_before < t.left))
            put(larger + __popc(l & below) + min(equal_before, t.left), i);
        larger += __popc(l), equal += __popc(e);
    }
}

/* A row that sees at most k keys takes them all. */
__device__ __forceinline__ void top_k_all(int32_t *to, int seen, int k, int thread, int threads) {
    for (int i = thread; i < k; i += threads) to[i] = i < seen ? i : -1;
}

/* Row `row` of a pass: its query. */
__device__ __forceinline__ int top_k_seen(const IndexShape &s, int row) {
    return min(index_keys_seen(&s, row / s.count, s.first + row % s.count), s.kv_len);
}
__device__ __forceinline__ int32_t *top_k_list(int32_t *selected, const IndexShape &s, int row,
                                               int k) {
    return selected + ((int64_t)(row / s.count) * s.q_len + s.first + row % s.count) * k;
}

#endif
