/*
 * Fake quantisation on the GPU: a warp has a block. It reads the block twice, the second time from
 * a cache; next to the products of a training step that is little.
 */
#include "08_quant/qat.h"
#include "common/cuda/gpu.cuh"

#include <float.h>

static const int THREADS = 256;

/* The block of this thread's warp, or one past the last. */
static __device__ int64_t warp_block(void) {
    return blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    forward(T *y, float *scales, const T *w, int64_t blocks, int64_t block, float largest,
            float clip_at) {
    int64_t n = warp_block();
    if (n >= blocks) return; /* a whole warp leaves */
    int lane = threadIdx.x % 32;
    float amax = 0;
    for (int64_t j = n * block + lane; j < (n + 1) * block; j += 32)
        amax = fmaxf(amax, fabsf(to_float(w[j])));
    amax = warp_max(amax);
    float scale = amax == 0 ? 1 : fmaxf(clip_at * amax / largest, FLT_MIN);
    for (int64_t j = n * block + lane; j < (n + 1) * block; j += 32) {
        float q = fminf(fmaxf(rintf(to_float(w[j]) / scale), -largest), largest);
        y[j] = from_float<T>(scale * q);
    }
    if (lane == 0) scales[n] = scale;
}

template <typename T>
static __global__ void __launch_bounds__(THREADS)
    backward(float *dw, int add, const float *dy, const T *w, const float *scales, int64_t blocks,
             int64_t block, float largest) {
    int64_t n = warp_block();
    if (n >= blocks) return;
    float scale = scales[n];
    for (int64_t j = n * block + threadIdx.x % 32; j < (n + 1) * block; j += 32) {
        float gradient = fabsf(rintf(to_float(w[j]) / scale)) <= largest ? dy[j] : 0;
        dw[j] = add ? dw[j] + gradient : gradient;
    }
}

static unsigned grid_of(int64_t blocks) {
    return (unsigned)((blocks + THREADS / 32 - 1) / (THREADS / 32));
}

void fake_quantise_forward_cuda(Gpu *gpu, DType dtype, void *y, float *scales, const void *w,
                                int64_t blocks, int64_t block, float largest, float clip_at) {
    DTYPE_SWITCH(dtype, T, {
        gpu_launch(gpu, forward<T>, grid_of(blocks), THREADS, 0, y, scales, w, blocks, block,
                   largest, clip_at);
    });
}

void fake_quantise_backward_cuda(Gpu *gpu, DType dtype, float *dw, int add, const float *dy,
                                 const void *w, const float *scales, int64_t blocks, int64_t block,
                                 float largest) {
    DTYPE_SWITCH(dtype, T, {
        gpu_launch(gpu, backward<T>, grid_of(blocks), THREADS, 0, dw, add, dy, w, scales, blocks,
                   block, largest);
    });
}
