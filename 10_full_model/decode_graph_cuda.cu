/*
 * The likeliest token, chosen where the logits are.
 */
#include "../common/gpu.cuh"
#include "decode_graph.h"

static const int THREADS = 1024;

/* The larger value; of equal ones the smaller index. */
static __device__ void keep_larger(float &most, int &best, float other, int its) {
    if (other > most || (other == most && its < best)) most = other, best = its;
}

/* A block for each sequence: its threads, then its warps, agree on the largest logit.
 * The counter moves in a kernel of its own, behind all that read it. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    likeliest_kernel(int32_t *ids, int32_t *tokens, const int32_t *step, const T *logits,
                     int64_t vocab) {
    __shared__ float warp_most[THREADS / 32];
    __shared__ int warp_best[THREADS / 32];
    const T *row = logits + blockIdx.x * vocab;
    float most = -INFINITY;
    int best = 0, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int j = threadIdx.x; j < vocab; j += THREADS) {
        float x = to_float(row[j]);
        if (x > most) most = x, best = j; /* a NaN is not larger than anything */
    }
    for (int offset = 16; offset; offset /= 2)
        keep_larger(most, best, __shfl_xor_sync(~0u, most, offset),
                    __shfl_xor_sync(~0u, best, offset));
    if (lane == 0) warp_most[warp] = most, warp_best[warp] = best;
    __syncthreads();
    if (warp) return;
    most = warp_most[lane], best = warp_best[lane];
    for (int offset = 16; offset; offset /= 2)
        keep_larger(most, best, __shfl_xor_sync(~0u, most, offset),
                    __shfl_xor_sync(~0u, best, offset));
    if (lane == 0) ids[blockIdx.x] = tokens[*step * (int64_t)gridDim.x + blockIdx.x] = best;
}

static __global__ void count_kernel(int32_t *step) { ++*step; }

extern "C" void decode_likeliest_cuda(Gpu *gpu, DType dtype, int32_t *ids, int32_t *tokens,
                                      int32_t *step, const void *logits, int64_t batch,
                                      int64_t vocab) {
    DTYPE_SWITCH(dtype, T,
                 likeliest_kernel<T><<<(unsigned)batch, THREADS, 0, gpu->stream>>>(
                     ids, tokens, step, (const T *)logits, vocab));
    count_kernel<<<1, 1, 0, gpu->stream>>>(step);
    LAUNCH_CHECK();
}
