/*
 * Softmax on the GPU, a ladder of four.
 *
 * The work is nothing: one exp and a few additions for each element. The bytes are everything: an
 * element must be read once and written once (8 bytes in F32, 4 in BF16), so the floor is the time
 * of a copy, and every rung is judged by how close it comes to one.
 *
 *     naive      one thread per row, three passes: the warp's 32 loads are a row apart
 *     warp       one warp per row: its loads lie side by side, 32 partial results meet by shuffles
 *     online     one block per row, 16 bytes a load, maximum and sum found in ONE pass
 *     registers  the row stays in registers between the passes: one read, one write, nothing else
 */
#include "01_self_attention/softmax.h"
#include "common/cuda/gpu.cuh"

/* ---- rung 1: one thread per row ----
 * Every load of a warp touches 32 different rows, so 32 sectors of 32 bytes are fetched for 32
 * numbers; and the row is read three times. */
template <typename T> __global__ void naive_kernel(T *y, const T *x, int64_t rows, int64_t cols) {
    int64_t row = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (row >= rows) return;
    x += row * cols;
    y += row * cols;
    float max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < cols; j++) max = fmaxf(max, to_float(x[j]));
    for (int64_t j = 0; j < cols; j++) sum += expf(to_float(x[j]) - max);
    for (int64_t j = 0; j < cols; j++) y[j] = from_float<T>(expf(to_float(x[j]) - max) / sum);
}

void softmax_naive_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t rows, int64_t cols) {
    if (!rows) return;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, naive_kernel<T>, ceil_div(rows, 128), 128, 0, y, x, rows, cols));
}

/* ---- rung 2: one warp per row ----
 * Lane l takes columns l, l + 32, ...: each load of the warp is one piece of 128 bytes. Still three
 * passes, but the second and third find most of the row in the cache. What limits: three times the
 * loads, four bytes at a time. */
/* [warp] */
template <typename T> __global__ void warp_kernel(T *y, const T *x, int64_t rows, int64_t cols) {
    int64_t row = blockIdx.x * (int64_t)(blockDim.x / 32) + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (row >= rows) return; /* the whole warp leaves together: the shuffles below stay complete */
    x += row * cols;
    y += row * cols;
    float max = -INFINITY, sum = 0;
    for (int64_t j = lane; j < cols; j += 32) max = fmaxf(max, to_float(x[j]));
    max = warp_max(max);
    for (int64_t j = lane; j < cols; j += 32) sum += expf(to_float(x[j]) - max);
    sum = warp_sum(sum);
    for (int64_t j = lane; j < cols; j += 32)
        y[j] = from_float<T>(expf(to_float(x[j]) - max) / sum);
}
/* [/warp] */

void softmax_warp_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t rows, int64_t cols) {
    if (!rows) return;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, warp_kernel<T>, ceil_div(rows, 4), 128, 0, y, x, rows, cols));
}

/* ---- rung 3: one block per row, online ----
 * Maximum and sum in one pass (Milakov & Gimelshein 2018): when a larger maximum arrives, the sum
 * so far is scaled down to it.
 *     invariant:  max = max of the x seen,   sum = sum of exp(x - max) over them
 * Two such pairs of disjoint pieces merge by the same rule, so threads, warps and (chapter 02)
 * tiles can each have their own. */
struct Online {
    float max, sum;
};

__device__ __forceinline__ Online merge(Online a, Online b) {
    float max = fmaxf(a.max, b.max);
    if (max == -INFINITY) return a; /* nothing seen by either: exp(-inf - -inf) would be NaN */
    return {max, a.sum * __expf(a.max - max) + b.sum * __expf(b.max - max)};
}

/* Merges all threads' pairs; every thread gets the result. At most 32 warps. */
__device__ Online block_merge(Online mine) {
    __shared__ Online of_warp[32];
    for (int offset = 16; offset; offset /= 2)
        mine = merge(
            mine, {__shfl_xor_sync(~0u, mine.max, offset), __shfl_xor_sync(~0u, mine.sum, offset)});
    if (blockDim.x == 32) return mine;
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
    __syncthreads();
    Online all = of_warp[0];
    for (int w = 1; w < (int)blockDim.x / 32; w++) all = merge(all, of_warp[w]);
    return all;
}

template <typename T, typename P> __global__ void online_kernel(T *y, const T *x, int64_t cols) {
    enum { SIZE = sizeof(P) / sizeof(T) };
    const P *in = (const P *)(x + blockIdx.x * cols);
    P *out = (P *)(y + blockIdx.x * cols);
    Online mine = {-INFINITY, 0};
    for (int64_t j = threadIdx.x; j < cols / SIZE; j += blockDim.x) {
        P pack = in[j];
        const T *at = (const T *)&pack;
        float max = mine.max; /* rescale once for each pack, not for each element */
        for (int i = 0; i < SIZE; i++) max = fmaxf(max, to_float(at[i]));
        /* all -inf so far: exp(-inf - 0) is the 0 we want */
        float from = max == -INFINITY ? 0 : max;
        float sum = mine.sum * __expf(mine.max - from);
        for (int i = 0; i < SIZE; i++) sum += __expf(to_float(at[i]) - from);
        mine = {max, sum};
    }
    Online all = block_merge(mine);
    float scale = 1.0f / all.sum;
    for (int64_t j = threadIdx.x; j < cols / SIZE; j += blockDim.x) {
        P pack = in[j];
        T *at = (T *)&pack;
        for (int i = 0; i < SIZE; i++)
            at[i] = from_float<T>(__expf(to_float(at[i]) - all.max) * scale);
        out[j] = pack;
    }
}

void softmax_online_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t rows,
                         int64_t cols) {
    if (!rows) return;
    DTYPE_SWITCH(dtype, T, {
        /* rows that do not begin on 16 bytes: one element a load */
        auto kernel = cols % Pack<T>::SIZE ? online_kernel<T, T> : online_kernel<T, Pack<T>>;
        gpu_launch(gpu, kernel, rows, 256, 0, y, x, cols);
    });
}

/* ---- rung 4: the row in registers ----
 * The online pass saves one read of three; keeping the row saves the second as well. A thread holds
 * up to 16 numbers, a block of 1024 threads 16384; then maximum and sum can again be found one
 * after the other, which needs one exp for each element instead of two. What limits: nothing but
 * the copy itself. */
enum { VALUES = 16, REGISTER_COLS = 1024 * VALUES };

__device__ float block_max(float x) {
    __shared__ float of_warp[32];
    x = warp_max(x);
    if (blockDim.x == 32) return x;
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : -INFINITY);
}

__device__ float block_sum(float x) {
    __shared__ float of_warp[32];
    x = warp_sum(x);
    if (blockDim.x == 32) return x;
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : 0);
}

/* As few threads as hold the row: a block of one warp needs no barrier at all. */
static int row_threads(int64_t cols) {
    int threads = 32;
    while (threads < 1024 && threads * VALUES < cols) threads *= 2;
    return threads;
}

template <typename T, typename P>
__global__ void __launch_bounds__(1024) registers_kernel(T *y, const T *x, int64_t cols) {
    enum { SIZE = sizeof(P) / sizeof(T), PACKS = VALUES / SIZE };
    const P *in = (const P *)(x + blockIdx.x * cols);
    P *out = (P *)(y + blockIdx.x * cols);
    float value[PACKS][SIZE], max = -INFINITY, sum = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++) { /* all loads are on their way before the first is used */
        int64_t j = p * blockDim.x + threadIdx.x;
        P pack;
        if (j < cols / SIZE) pack = in[j];
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            value[p][i] = j < cols / SIZE ? to_float(((const T *)&pack)[i]) : -INFINITY;
            max = fmaxf(max, value[p][i]);
        }
    }
    max = block_max(max);
#pragma unroll
    for (int p = 0; p < PACKS; p++)
#pragma unroll
        for (int i = 0; i < SIZE; i++) {
            value[p][i] = __expf(value[p][i] - max);
            sum += value[p][i];
        }
    float scale = 1.0f / block_sum(sum);
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int64_t j = p * blockDim.x + threadIdx.x;
        P pack;
#pragma unroll
        for (int i = 0; i < SIZE; i++) ((T *)&pack)[i] = from_float<T>(value[p][i] * scale);
        if (j < cols / SIZE) out[j] = pack;
    }
}

void softmax_registers_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t rows,
                            int64_t cols) {
    CHECK(cols <= REGISTER_COLS, "a row of %lld columns does not fit the registers of a block",
          (long long)cols);
    if (!rows) return;
    int threads = row_threads(cols);
    DTYPE_SWITCH(dtype, T, {
        auto kernel = cols % Pack<T>::SIZE ? registers_kernel<T, T> : registers_kernel<T, Pack<T>>;
        gpu_launch(gpu, kernel, rows, threads, 0, y, x, cols);
    });
}

/* In use: registers where the row fits, else online. */
void softmax_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t rows,
                          int64_t cols) {
    if (cols <= REGISTER_COLS)
        softmax_registers_cuda(gpu, dtype, y, x, rows, cols);
    else
        softmax_online_cuda(gpu, dtype, y, x, rows, cols);
}

/* ---- backward: the row in registers again ----
 * dx = y (dy - dot),  dot = sum dy y. Two numbers read and one written for each element. A thread
 * keeps its first 16 of both; what a row has beyond that is read a second time, from the cache. */
template <typename T, typename P>
__global__ void __launch_bounds__(1024)
    backward_kernel(T *dx, int add, const T *dy, const T *y, int64_t cols) {
    enum { SIZE = sizeof(P) / sizeof(T), PACKS = VALUES / SIZE };
    const P *in_dy = (const P *)(dy + blockIdx.x * cols),
            *in_y = (const P *)(y + blockIdx.x * cols);
    P *out = (P *)(dx + blockIdx.x * cols);
    int64_t packs = cols / SIZE;
    P kept_dy[PACKS], kept_y[PACKS];
    float dot = 0;
    auto multiply = [&](const P &a, const P &b) {
        for (int i = 0; i < SIZE; i++)
            dot += to_float(((const T *)&a)[i]) * to_float(((const T *)&b)[i]);
    };
    auto write = [&](int64_t j, const P &pack_dy, const P &pack_y) {
        P sum;
        if (add) sum = out[j];
        for (int i = 0; i < SIZE; i++) {
            float g =
                to_float(((const T *)&pack_y)[i]) * (to_float(((const T *)&pack_dy)[i]) - dot);
            T *to = (T *)&sum + i;
            *to = from_float<T>(add ? to_float(*to) + g : g);
        }
        out[j] = sum;
    };
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int64_t j = p * blockDim.x + threadIdx.x;
        if (j < packs) kept_dy[p] = in_dy[j], kept_y[p] = in_y[j];
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if (p * blockDim.x + threadIdx.x < packs) multiply(kept_dy[p], kept_y[p]);
    int64_t rest = PACKS * blockDim.x + threadIdx.x;
    for (int64_t j = rest; j < packs; j += blockDim.x) multiply(in_dy[j], in_y[j]);
    dot = block_sum(dot);
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int64_t j = p * blockDim.x + threadIdx.x;
        if (j < packs) write(j, kept_dy[p], kept_y[p]);
    }
    for (int64_t j = rest; j < packs; j += blockDim.x) write(j, in_dy[j], in_y[j]);
}

void softmax_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dy, const void *y,
                           int64_t rows, int64_t cols) {
    if (!rows) return;
    int threads = row_threads(cols);
    DTYPE_SWITCH(dtype, T, {
        auto kernel = cols % Pack<T>::SIZE ? backward_kernel<T, T> : backward_kernel<T, Pack<T>>;
        gpu_launch(gpu, kernel, rows, threads, 0, dx, add, dy, y, cols);
    });
}
