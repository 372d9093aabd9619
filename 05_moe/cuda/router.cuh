/*
 * The router's choice for one token, by one warp: what router_cuda.cu does for many tokens and the
 * kernels for few (ffn_few_rows_cuda.cu) on the way.
 *
 * Lane l of the warp holds experts l, l + 32, ... in registers. Choosing is the same step over and
 * over: each lane finds its own best, the warp the best of those. Numbers become unsigned integers
 * in the same order, so that one instruction (redux, sm_80) finds the largest of 32; among equals
 * another finds the lowest index. Groups are chosen by the same step, first inside each group, then
 * among the groups' sums.
 */
#ifndef ROUTER_CUH
#define ROUTER_CUH

#include "05_moe/router.h"
#include "common/cuda/gpu.cuh"

/* ---- choosing ---- */

/* Order-preserving: a < b as floats, key(a) < key(b) as integers; -0 is 0, NaN is -inf. Above 0,
 * which stands for "not to be chosen". */
static __device__ __forceinline__ uint32_t key_of(float x) {
    if (x != x) x = -INFINITY;
    uint32_t bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
static __device__ __forceinline__ float value_of(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

static __device__ __forceinline__ uint32_t warp_largest(uint32_t x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(~0u, x);
#else
    for (int offset = 16; offset; offset /= 2) x = max(x, __shfl_xor_sync(~0u, x, offset));
    return x;
#endif
}
static __device__ __forceinline__ uint32_t warp_smallest(uint32_t x) { return ~warp_largest(~x); }

/* The best of the keys that lie in begin .. end - 1, the lower index wins; closes it. The index is
 * -1 if none is open. Every lane gets both results. */
struct Choice {
    int index;
    uint32_t key;
};
template <int V>
static __device__ __forceinline__ Choice take_best(uint32_t (&keys)[V], int begin, int end) {
    int lane = threadIdx.x % 32;
    uint32_t mine = 0, index = ~0u;
#pragma unroll
    for (int i = 0; i < V; i++) {
        int e = 32 * i + lane;
        if (e >= begin && e < end && keys[i] > mine) mine = keys[i], index = e;
    }
    Choice best;
    best.key = warp_largest(mine);
    best.index = (int)warp_smallest(mine == best.key ? index : ~0u);
#pragma unroll
    for (int i = 0; i < V; i++)
        if (32 * i + lane == best.index) keys[i] = 0;
    return best;
}

/* Closes the experts of all groups but the best topk_groups. */
template <int V>
static __device__ __forceinline__ void close_groups(uint32_t (&keys)[V], const RouteShape &shape) {
    int lane = threadIdx.x % 32, size = shape.experts / shape.groups;
    uint32_t left[V], group[V]; /* group: lane l holds groups l, l + 32, ... */
#pragma unroll
    for (int i = 0; i < V; i++) left[i] = keys[i], group[i] = 0;
    for (int g = 0; g < shape.groups; g++) {
        float score = 0; /* the sum of the group's best values */
        for (int i = 0; i < shape.group_best && i < size; i++)
            score += value_of(take_best<V>(left, g * size, (g + 1) * size).key);
#pragma unroll
        for (int i = 0; i < V; i++)
            if (32 * i + lane == g) group[i] = key_of(score);
    }
#pragma unroll
    for (int i = 0; i < V; i++) left[i] = 0; /* from here on: what stays open */
    for (int i = 0; i < shape.topk_groups; i++) {
        int begin = take_best<V>(group, 0, shape.groups).index * size;
#pragma unroll
        for (int v = 0; v < V; v++) {
            int e = 32 * v + lane;
            if (e >= begin && e < begin + size) left[v] = keys[v];
        }
    }
#pragma unroll
    for (int i = 0; i < V; i++) keys[i] = left[i];
}

/* ---- one token ---- */

/* z becomes the scores; lanes past the last expert hold -inf, and get 0. */
template <int V>
static __device__ __forceinline__ void score(float (&z)[V], int experts, int sigmoid) {
    if (sigmoid) {
#pragma unroll
        for (int i = 0; i < V; i++) z[i] = 1 / (1 + expf(-z[i]));
        return;
    }
    float largest = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < V; i++) largest = fmaxf(largest, z[i]);
    largest = warp_max(largest);
#pragma unroll
    for (int i = 0; i < V; i++) {
        /* -inf - -inf is NaN, which is right for an expert but must not come from a lane without
         * one */
        z[i] = 32 * i + (int)threadIdx.x % 32 < experts ? expf(z[i] - largest) : 0;
        sum += z[i];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < V; i++) z[i] /= sum;
}

/*
 * From the token's logits [E] to its scores [E] (not kept if NULL), indices [K] and weights [K].
 * True if there is a NaN among the scores. Every lane reads again only what it wrote itself.
 */
template <int V>
static __device__ __forceinline__ bool route_token(float *scores, int32_t *indices, float *weights,
                                                   const float *logits, const float *bias,
                                                   const RouteShape &shape) {
    int lane = threadIdx.x % 32;
    float s[V];
    uint32_t keys[V];
    bool bad = false;
#pragma unroll
    for (int i = 0; i < V; i++) {
        int e = 32 * i + lane;
        s[i] = e < shape.experts ? logits[e] : -INFINITY;
    }
    score<V>(s, shape.experts, shape.sigmoid);
#pragma unroll
    for (int i = 0; i < V; i++) {
        int e = 32 * i + lane;
        keys[i] = 0;
        if (e >= shape.experts) continue;
        if (scores) scores[e] = s[i];
        keys[i] = key_of(bias ? s[i] + bias[e] : s[i]);
        bad |= s[i] != s[i];
    }
    bad = __any_sync(~0u, bad);
    if (shape.groups > 1) close_groups<V>(keys, shape);

    float sum = 0;
    for (int j = 0; j < shape.top_k; j++) {
        int e = take_best<V>(keys, 0, shape.experts).index;
        float mine = 0;
#pragma unroll
        for (int i = 0; i < V; i++)
            if (32 * i + lane == e) mine = s[i];
        mine = __shfl_sync(~0u, mine, e % 32);
        sum += mine;
        if (lane == j % 32) weights[j] = mine, indices[j] = e;
    }
    float factor = shape.norm ? shape.scale / (sum + 1e-20f) : shape.scale;
    for (int j = lane; j < shape.top_k; j += 32) weights[j] = bad ? NAN : weights[j] * factor;
    return bad;
}

/* Token n is bad: the first one stays, the largest of INT32_MAX - n, whichever warp comes first. */
static __device__ __forceinline__ void report_bad(int32_t *status, int64_t n) {
    if (status && threadIdx.x % 32 == 0) atomicMax(status, (int)(INT32_MAX - n));
}

#endif
