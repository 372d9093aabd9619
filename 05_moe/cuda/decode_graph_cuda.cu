/*
 * The likeliest token, chosen where the logits are.
 */
#include "05_moe/decoder/decode_graph.h"
#include "common/cuda/few_rows_launch.cuh"

#include <cfloat>

static const int THREADS = 1024;
enum { AT_ONCE = 8 }; /* loads of a thread that are under way together */

/* The larger value; of equal ones the smaller index. */
static __device__ void keep_larger(float &most, int &best, float other, int its) {
    if (other > most || (other == most && its < best)) most = other, best = its;
}

/*
 * A block for each sequence: its threads, then its warps, agree on the largest logit. A thread has
 * a few loads of 16 bytes, all under way together; a row of an odd vocabulary begins somewhere, so
 * what is in front of the first whole 16 bytes, and behind the last, comes alone.
 * The counter moves in a kernel of its own, behind all that read it.
 */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    likeliest_kernel(int32_t *ids, int32_t *tokens, const int32_t *step, const T *logits,
                     int64_t vocab) {
    const int W = Pack<T>::SIZE;
    __shared__ float warp_most[THREADS / 32];
    __shared__ int warp_best[THREADS / 32];
    few_rows_wait();
    few_rows_go();
    const T *row = logits + blockIdx.x * vocab;
    float most = -INFINITY;
    int best = 0, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    auto look = [&](T logit, int j) {
        float x = to_float(logit);
        if (x > most) most = x, best = j;
        /* No number is larger than this one, and no index smaller: it wins in every comparison. */
        if (!(fabsf(x) <= FLT_MAX)) most = INFINITY, best = -1;
    };
    int head = min((int)(-(uintptr_t)row % 16 / sizeof(T)), (int)vocab);
    int packs = ((int)vocab - head) / W, tail = head + packs * W;
    if (threadIdx.x < head) look(row[threadIdx.x], threadIdx.x);
#pragma unroll 1
    for (int from = threadIdx.x; from < packs; from += AT_ONCE * THREADS) {
        Pack<T> p[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) /* past the end the last pack comes again */
            p[u] = *(const Pack<T> *)(row + head + min(from + u * THREADS, packs - 1) * W);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
#pragma unroll
            for (int k = 0; k < W; k++)
                look(p[u].v[k], head + min(from + u * THREADS, packs - 1) * W + k);
    }
    if (tail + threadIdx.x < vocab) look(row[tail + threadIdx.x], tail + threadIdx.x);
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
    if (lane) return;
    ids[blockIdx.x] = max(best, 0);
    if (tokens) tokens[(step ? *step : 0) * (int64_t)gridDim.x + blockIdx.x] = best;
}

static __global__ void count_kernel(int32_t *step) {
    few_rows_wait();
    few_rows_go();
    ++*step;
}

void decode_likeliest_cuda(Gpu *gpu, DType dtype, int32_t *ids, int32_t *tokens, int32_t *step,
                           const void *logits, int64_t batch, int64_t vocab) {
    DTYPE_SWITCH(dtype, T,
                 few_rows_launch(gpu, likeliest_kernel<T>, dim3((unsigned)batch), THREADS, 0, ids,
                                 tokens, step, (const T *)logits, vocab));
    if (step) few_rows_launch(gpu, count_kernel, dim3(1), 1, 0, step);
}
