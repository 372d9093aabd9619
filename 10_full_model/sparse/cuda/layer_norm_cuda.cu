/*
 * LayerNorm on the GPU: a warp for each row; the gradients of w and b are sums over all rows, 32
 * columns a block, which 32 warps walk down, every 32nd row each. The order is fixed: no atomics.
 *
 * Rows are short here, one key of the indexer: what limits is the launch.
 */
#include "10_full_model/sparse/index_kernels.h"
#include "common/cuda/gpu.cuh"

enum { WARPS = 4 };

template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    forward_kernel(T *y, float *moments, const T *x, const T *w, const T *b, int64_t rows,
                   int64_t d, float eps) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    const T *from = x + row * d;
    float mean = 0.0f, variance = 0.0f;
    for (int64_t i = lane; i < d; i += 32) mean += to_float(from[i]);
    mean = warp_sum(mean) / (float)d;
    for (int64_t i = lane; i < d; i += 32)
        variance += (to_float(from[i]) - mean) * (to_float(from[i]) - mean);
    float rstd = 1.0f / sqrtf(warp_sum(variance) / (float)d + eps);
    for (int64_t i = lane; i < d; i += 32)
        y[row * d + i] =
            from_float<T>((to_float(from[i]) - mean) * rstd * to_float(w[i]) + to_float(b[i]));
    if (lane == 0) moments[2 * row] = mean, moments[2 * row + 1] = rstd;
}

void layer_norm_forward_cuda(Gpu *gpu, DType dtype, void *y, float *moments, const void *x,
                             const void *w, const void *b, int64_t rows, int64_t d, float eps) {
    unsigned blocks = (unsigned)ceil_div(rows, WARPS);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, forward_kernel<T>, blocks, 32 * WARPS, 0, y, moments, x, w, b,
                            rows, d, eps));
}

template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    backward_kernel(T *dx, int add, const T *dy, const T *x, const T *w, const float *moments,
                    int64_t rows, int64_t d) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return;
    float mean = moments[2 * row], rstd = moments[2 * row + 1], g_mean = 0.0f, gz_mean = 0.0f;
    for (int64_t i = lane; i < d; i += 32) {
        float g = to_float(dy[row * d + i]) * to_float(w[i]);
        g_mean += g, gz_mean += g * (to_float(x[row * d + i]) - mean) * rstd;
    }
    g_mean = warp_sum(g_mean) / (float)d, gz_mean = warp_sum(gz_mean) / (float)d;
    for (int64_t i = lane; i < d; i += 32) {
        float z = (to_float(x[row * d + i]) - mean) * rstd;
        float value = rstd * (to_float(dy[row * d + i]) * to_float(w[i]) - g_mean - z * gz_mean);
        dx[row * d + i] = from_float<T>(add ? to_float(dx[row * d + i]) + value : value);
    }
}

/* dw and db: threads (column, every 32nd row). */
template <typename T>
__global__ void __launch_bounds__(1024)
    weights_kernel(float *dw, int add_w, float *db, int add_b, const T *dy, const T *x,
                   const float *moments, int64_t rows, int64_t d) {
    __shared__ float sums[2][32][33];
    int64_t i = (int64_t)blockIdx.x * 32 + threadIdx.x;
    float w = 0.0f, b = 0.0f;
#pragma unroll 4
    for (int64_t row = threadIdx.y; row < rows; row += 32) {
        if (i >= d) break;
        float g = to_float(dy[row * d + i]);
        w += g * (to_float(x[row * d + i]) - moments[2 * row]) * moments[2 * row + 1], b += g;
    }
    sums[0][threadIdx.y][threadIdx.x] = w, sums[1][threadIdx.y][threadIdx.x] = b;
    __syncthreads();
    w = warp_sum(sums[0][threadIdx.x][threadIdx.y]); /* transposed: a warp has one column */
    b = warp_sum(sums[1][threadIdx.x][threadIdx.y]);
    i = (int64_t)blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x || i >= d) return;
    if (dw) dw[i] = add_w ? dw[i] + w : w;
    if (db) db[i] = add_b ? db[i] + b : b;
}

void layer_norm_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw, int add_w,
                              float *db, int add_b, const void *dy, const void *x, const void *w,
                              const float *moments, int64_t rows, int64_t d) {
    unsigned blocks = (unsigned)ceil_div(rows, WARPS), columns = (unsigned)ceil_div(d, 32);
    DTYPE_SWITCH(dtype, T, {
        if (dx)
            gpu_launch(gpu, backward_kernel<T>, blocks, 32 * WARPS, 0, dx, add_x, dy, x, w, moments,
                       rows, d);
        if (dw || db)
            gpu_launch(gpu, weights_kernel<T>, columns, dim3(32, 32), 0, dw, add_w, db, add_b, dy,
                       x, moments, rows, d);
    });
}
