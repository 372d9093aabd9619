/*
 * The two ends of a language model on the GPU: embedding, cross entropy, and the sums that make a
 * scalar of a tensor.
 *
 * The embedding's backward adds many rows into one. Atomics would do that in an order that changes
 * from run to run; instead the rows are sorted by id (CUB's radix sort, which keeps equal ids in
 * order), and each table row is summed in order.
 */
#include "common/core/ops_kernels.h"
#include "common/cuda/few_rows_launch.cuh"
#include "common/cuda/gpu_matmul.cuh"
#include "common/cuda/mma.cuh"

#include <cub/device/device_radix_sort.cuh>

static const int THREADS = 256;

/* Sum and maximum over a block of whole warps; every thread gets the result. */
__device__ static float block_sum(float x) {
    __shared__ float partial[32];
    x = warp_sum(x);
    __syncthreads(); /* a call before this one may still be reading */
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? partial[threadIdx.x % 32] : 0.0f);
}

__device__ static float block_max(float x) {
    __shared__ float partial[32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(threadIdx.x % 32 < blockDim.x / 32 ? partial[threadIdx.x % 32] : -INFINITY);
}

/* ---- embedding ---- */

template <typename T>
__global__ void embedding_forward(T *y, const T *table, const int32_t *ids, int64_t d,
                                  int64_t vocab) {
    few_rows_wait();
    few_rows_go();
    int64_t row = blockIdx.x;
    int32_t id = ids[row];
    /* An id out of range (the host checks ids where it makes them) becomes NaN: seen at once, and
     * no stray read. */
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x)
        y[row * d + j] = id >= 0 && id < vocab ? table[id * d + j] : from_float<T>(NAN);
}

void embedding_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *table, const int32_t *ids,
                            int64_t rows, int64_t d, int64_t vocab) {
    if (rows == 0) return;
    DTYPE_SWITCH(dtype, T,
                 few_rows_launch(gpu, embedding_forward<T>, dim3((unsigned)rows), 128, 0, (T *)y,
                                 (const T *)table, ids, d, vocab));
}

__global__ void count_up(int32_t *numbers, int64_t n) {
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i < n) numbers[i] = (int32_t)i;
}

/* start[id] = the first place in `sorted` [rows] whose id is not smaller, for id = 0 .. vocab. */
__global__ void find_starts(int32_t *start, const int32_t *sorted, int64_t rows, int64_t vocab) {
    int64_t id = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (id > vocab) return;
    int64_t low = 0, high = rows;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (sorted[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    start[id] = (int32_t)low;
}

template <typename T>
__global__ void sum_rows_by_id(float *dtable, int add, const int32_t *start, const int32_t *order,
                               const T *dy, int64_t d) {
    int64_t id = blockIdx.x;
    int32_t begin = start[id], end = start[id + 1];
    if (add && begin == end) return;
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) {
        float total = 0;
#pragma unroll 8
        for (int32_t k = begin; k < end; k++) total += to_float(dy[order[k] * d + j]);
        float *out = dtable + id * d + j;
        *out = add ? *out + total : total;
    }
}

void embedding_backward_cuda(Gpu *gpu, DType dtype, float *dtable, int add, int32_t *scratch,
                             const void *dy, const int32_t *ids, int64_t rows, int64_t d,
                             int64_t vocab) {
    int32_t *start = scratch, *sorted = start + vocab + 1, *order = sorted + rows,
            *numbers = order + rows;
    if (rows) {
        size_t bytes = 0, most = gpu->workspace_bytes; /* of which some kilobytes are needed */
        CUDA_CHECK(cub::DeviceRadixSort::SortPairs(NULL, bytes, ids, sorted, numbers, order, rows));
        CHECK(bytes <= most, "sorting %lld ids takes %zu bytes of %zu", (long long)rows, bytes,
              most);
        gpu_launch(gpu, count_up, ceil_div(rows, THREADS), THREADS, 0, numbers, rows);
        CUDA_CHECK(cub::DeviceRadixSort::SortPairs(gpu->workspace, bytes, ids, sorted, numbers,
                                                   order, rows, 0, 32, gpu->stream));
    }
    gpu_launch(gpu, find_starts, ceil_div(vocab + 1, THREADS), THREADS, 0, start, sorted, rows,
               vocab);
    DTYPE_SWITCH(
        dtype, T,
        gpu_launch(gpu, sum_rows_by_id<T>, vocab, 128, 0, dtable, add, start, order, dy, d));
}

/* ---- cross entropy: a block for each row ---- */

template <typename T>
__global__ void cross_entropy_rows(float *losses, float *lse, const T *logits,
                                   const int32_t *targets, int64_t vocab) {
    int64_t row = blockIdx.x;
    const T *z = logits + row * vocab;
    /* One pass over the logits: every thread keeps a running maximum and a sum scaled to it (online
     * softmax). */
    float largest = -INFINITY, sum = 0;
    for (int64_t j = threadIdx.x; j < vocab; j += THREADS) {
        float v = to_float(z[j]);
        if (v > largest) {
            sum *= __expf(largest - v);
            largest = v;
        }
        sum += v == largest ? 1.0f : __expf(v - largest); /* -infinity - -infinity would be NaN */
    }
    float top = block_max(largest);
    /*
     * A thread that saw nothing has a sum of 0 and a maximum of -infinity, which must not meet
     * another -infinity. fmaxf drops a NaN but its thread's sum keeps it: one NaN logit makes this
     * row's loss NaN, as it must.
     */
    float total = block_sum(sum == 0.0f ? 0.0f : sum * __expf(largest - top));
    if (threadIdx.x != 0) return;
    float value = top + logf(total);
    int32_t target = targets[row];
    lse[row] = value;
    bool valid = target >= 0 && target < vocab;
    losses[row] = target == IGNORE_TARGET ? 0.0f
                  : valid                 ? logf(total) + (top - to_float(z[target]))
                                          : NAN;
}

/* loss = the mean of losses over the rows that count, and how many those are. One block. */
__global__ void mean_of_rows(float *loss, const float *losses, const int32_t *targets,
                             int64_t rows) {
    float total = 0, counted = 0;
    for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) {
        total += losses[i];
        counted += targets[i] != IGNORE_TARGET;
    }
    total = block_sum(total);
    counted = block_sum(counted);
    if (threadIdx.x == 0) {
        loss[0] = counted > 0 ? total / counted : 0.0f;
        loss[1] = counted;
    }
}

void cross_entropy_forward_cuda(Gpu *gpu, DType dtype, float *loss, float *losses, float *lse,
                                const void *logits, const int32_t *targets, int64_t rows,
                                int64_t vocab) {
    if (rows)
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, cross_entropy_rows<T>, rows, THREADS, 0, losses, lse, logits,
                                targets, vocab));
    gpu_launch(gpu, mean_of_rows, 1, 1024, 0, loss, losses, targets, rows);
}

template <typename T>
__global__ void cross_entropy_backward(T *logits, const float *dloss, const float *loss,
                                       const float *lse, const int32_t *targets, int64_t vocab) {
    int64_t row = blockIdx.x;
    T *z = logits + row * vocab;
    int32_t target = targets[row];
    float scale = target == IGNORE_TARGET ? 0.0f : dloss[0] / loss[1];
    for (int64_t j = threadIdx.x; j < vocab; j += THREADS) {
        float p = __expf(to_float(z[j]) - lse[row]);
        z[j] = from_float<T>(scale == 0 ? 0.0f : (p - (j == target)) * scale);
    }
}

void cross_entropy_backward_cuda(Gpu *gpu, DType dtype, void *logits, const float *dloss,
                                 const float *loss, const float *lse, const int32_t *targets,
                                 int64_t rows, int64_t vocab) {
    if (rows)
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, cross_entropy_backward<T>, rows, THREADS, 0, logits, dloss,
                                loss, lse, targets, vocab));
}

/*
 * ---- linear and cross entropy in one: rows of logits are padded, and read 16 bytes at a time ----
 *
 * The logits are the largest tensor of a training step, so what counts is how often they are moved.
 * No other kernel reads them; so the pass that finds a row's loss can also write the row's gradient
 * in its place, though it does not know yet by what the loss will be multiplied: by 1, as good as
 * always. A block has few rows under way, and its second look at one finds it in the second-level
 * cache: the memory sees one read and one write.
 */
static const int HEAD_THREADS = 1024;
/* Two blocks on a multiprocessor, where it takes 2048 threads. (Most take 1536, Turing 1024.) */
#if defined __CUDA_ARCH__ && (__CUDA_ARCH__ == 800 || __CUDA_ARCH__ == 900 || __CUDA_ARCH__ == 1000)
static const int HEAD_BLOCKS = 2;
#else
static const int HEAD_BLOCKS = 1;
#endif

__global__ void count_targets(float *count, const int32_t *targets, int64_t rows) {
    float counted = 0;
    for (int64_t i = threadIdx.x; i < rows; i += blockDim.x) counted += targets[i] != IGNORE_TARGET;
    counted = block_sum(counted);
    if (threadIdx.x == 0) *count = counted;
}

static const float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;

/*
 *     losses[row] = lse - logits[row][target]
 * With count, logits[row] becomes (softmax - onehot(target)) / *count, and its padding zero, for it
 * takes part in the products after this kernel. width is a multiple of a pack; columns from vocab
 * on do not count.
 *
 * Two exponentials for each logit are as much work as the memory leaves time for, so there must be
 * little else: powers of 2, e^(z - m) = 2^(z log2(e) - m log2(e)), are a product with addition and
 * the exponential. The target's 1 is subtracted once, behind the loop, and the ragged end is apart.
 */
template <typename T>
__global__ void __launch_bounds__(HEAD_THREADS, HEAD_BLOCKS)
    head_rows(float *losses, T *logits, const float *count, const int32_t *targets, int vocab,
              int width) {
    const int W = Pack<T>::SIZE;
    int64_t row = blockIdx.x;
    T *z = logits + row * width;
    int32_t target = targets[row];
    bool valid = target >= 0 && target < vocab;
    float of_target = valid ? to_float(z[target]) : NAN;   /* before it is overwritten */
    float largest = -INFINITY, shift = -INFINITY, sum = 0; /* shift = largest log2(e) */
    int whole = vocab / W * W;
    for (int j = threadIdx.x * W; j < whole; j += HEAD_THREADS * W) {
        Pack<T> pack = *(const Pack<T> *)(z + j);
        float most = largest;
#pragma unroll
        for (int k = 0; k < W; k++) most = fmaxf(most, to_float(pack.v[k]));
        /* all -inf so far: each power shall be 0 */
        float to = most == -INFINITY ? 0 : most * LOG2_E;
        sum *= exp2_fast(shift - to);
#pragma unroll
        for (int k = 0; k < W; k++) sum += exp2_fast(fmaf(to_float(pack.v[k]), LOG2_E, -to));
        largest = most, shift = most * LOG2_E;
    }
    if (whole + (int)threadIdx.x < vocab) {
        float v = to_float(z[whole + threadIdx.x]), most = fmaxf(largest, v);
        float to = most == -INFINITY ? 0 : most * LOG2_E;
        sum = sum * exp2_fast(shift - to) + exp2_fast(fmaf(v, LOG2_E, -to));
        largest = most, shift = most * LOG2_E;
    }
    float top = block_max(largest), top_shift = top == -INFINITY ? 0 : top * LOG2_E;
    /* fmaxf drops a NaN, but its thread's sum keeps it: one NaN logit makes this row's loss NaN. */
    float total = block_sum(sum == 0.0f ? 0.0f : sum * exp2_fast(shift - top_shift));
    float log_total = log2f(total);
    if (threadIdx.x == 0)
        losses[row] = target == IGNORE_TARGET
                          ? 0.0f
                          : LN_2 * (log_total + fmaf(-of_target, LOG2_E, top_shift));
    if (!count) return;

    float lse = top_shift + log_total, scale = target == IGNORE_TARGET ? 0.0f : 1.0f / *count;
    for (int j = threadIdx.x * W; j < whole; j += HEAD_THREADS * W) {
        Pack<T> pack = *(const Pack<T> *)(z + j);
#pragma unroll
        for (int k = 0; k < W; k++)
            pack.v[k] = from_float<T>(scale * exp2_fast(fmaf(to_float(pack.v[k]), LOG2_E, -lse)));
        if (scale == 0) pack = {};
        *(Pack<T> *)(z + j) = pack;
    }
    for (int j = whole + threadIdx.x; j < width; j += HEAD_THREADS) {
        float p = j < vocab && scale ? exp2_fast(fmaf(to_float(z[j]), LOG2_E, -lse)) : 0.0f;
        z[j] = from_float<T>(p * scale);
    }
    /* by the thread that wrote it a moment ago */
    int writer = target < whole ? target / W % HEAD_THREADS : target - whole;
    if (valid && scale && (int)threadIdx.x == writer)
        z[target] = from_float<T>((exp2_fast(fmaf(of_target, LOG2_E, -lse)) - 1) * scale);
}

/* What the forward pass could not know. It is 1 unless the loss was multiplied. */
template <typename T> __global__ void scale_unless_one(T *x, const float *factor, int64_t n) {
    const int W = Pack<T>::SIZE;
    float f = *factor;
    if (f == 1) return;
    int64_t stride = (int64_t)gridDim.x * blockDim.x * W;
    for (int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) * W; i < n; i += stride) {
        Pack<T> pack = *(const Pack<T> *)(x + i);
#pragma unroll
        for (int k = 0; k < W; k++) pack.v[k] = from_float<T>(to_float(pack.v[k]) * f);
        *(Pack<T> *)(x + i) = pack;
    }
}

void linear_cross_entropy_forward_cuda(Gpu *gpu, DType dtype, float *loss, float *losses,
                                       void *logits, int gradient, void *padded_w, const void *x,
                                       const void *w, const int32_t *targets, int64_t rows,
                                       int64_t in, int64_t vocab, int64_t width) {
    size_t size = dtype_size(dtype), used = (size_t)(vocab * in) * size;
    if (padded_w != w) {
        gpu_copy(gpu, padded_w, w, used);
        gpu_set(gpu, (char *)padded_w + used, 0, (size_t)((width - vocab) * in) * size);
    }
    linear_forward_cuda(gpu, dtype, logits, x, padded_w, NULL, rows, in, width);
    if (gradient) gpu_launch(gpu, count_targets, 1, 1024, 0, loss + 1, targets, rows);
    if (rows)
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, head_rows<T>, rows, HEAD_THREADS, 0, losses, logits,
                                gradient ? loss + 1 : NULL, targets, (int)vocab, (int)width));
    gpu_launch(gpu, mean_of_rows, 1, 1024, 0, loss, losses, targets, rows);
}

/* dw [rows from .. from + count - 1 of the vocabulary, in] = or += dlogits^T x */
static void head_weight_gradient(Gpu *gpu, DType dtype, float *dw, int add, const void *dlogits,
                                 const void *x, int64_t rows, int64_t in, int64_t from,
                                 int64_t count, int64_t width) {
    GpuMatmul product = gpu_product(dtype, F32, true, false, count, in, rows);
    product.lda = width, product.beta = (float)add;
    gpu_matmul(gpu, &product, dw + from * in, (const char *)dlogits + from * dtype_size(dtype), x,
               NULL);
}

void linear_cross_entropy_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw,
                                        int add_w, void *dlogits, const void *padded_w,
                                        const float *dloss, const void *x, int64_t rows, int64_t in,
                                        int64_t vocab, int64_t width) {
    if (!rows) return;
    unsigned blocks = 4 * (unsigned)gpu->sm_count;
    DTYPE_SWITCH(
        dtype, T,
        gpu_launch(gpu, scale_unless_one<T>, blocks, THREADS, 0, dlogits, dloss, rows * width));
    linear_backward_cuda(gpu, dtype, dx, add_x, NULL, 0, NULL, 0, dlogits, x, padded_w, rows, in,
                         width);
    if (!dw) return;
    /* dW has the vocabulary's own rows only. cuBLAS multiplies a round number of them half as fast
     * again as an odd one, so the odd ones go apart. */
    int64_t round = vocab / 64 * 64;
    head_weight_gradient(gpu, dtype, dw, add_w, dlogits, x, rows, in, 0, round, width);
    head_weight_gradient(gpu, dtype, dw, add_w, dlogits, x, rows, in, round, vocab - round, width);
}

/* ---- sums ---- */

template <typename T>
__global__ void sum_chunks(float *scratch, const T *x, const float *c, int64_t n) {
    int64_t chunk = blockIdx.x, end = (chunk + 1) * n / SUM_CHUNKS;
    float total = 0;
    for (int64_t i = chunk * n / SUM_CHUNKS + threadIdx.x; i < end; i += THREADS)
        total += to_float(x[i]) * (c ? c[i] : 1.0f);
    total = block_sum(total);
    if (threadIdx.x == 0) scratch[chunk] = total;
}

__global__ void sum_scratch(float *out, const float *scratch, float scale) {
    float total = 0;
    for (int i = threadIdx.x; i < SUM_CHUNKS; i += THREADS) total += scratch[i];
    total = block_sum(total);
    if (threadIdx.x == 0) out[0] = total * scale;
}

void sum_forward_cuda(Gpu *gpu, DType dtype, float *out, float *scratch, const void *x,
                      const float *c, int64_t n, float scale) {
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, sum_chunks<T>, SUM_CHUNKS, THREADS, 0, scratch, x, c, n));
    gpu_launch(gpu, sum_scratch, 1, THREADS, 0, out, scratch, scale);
}

template <typename T>
__global__ void spread(T *dx, int add, const float *dout, const float *c, int64_t n, float scale) {
    float g = dout[0] * scale;
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += stride) {
        float gi = c ? g * c[i] : g;
        dx[i] = from_float<T>(add ? to_float(dx[i]) + gi : gi);
    }
}

void sum_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add, const float *dout, const float *c,
                       int64_t n, float scale) {
    unsigned blocks = (unsigned)(ceil_div(n, THREADS) < 2048 ? ceil_div(n, THREADS) : 2048);
    DTYPE_SWITCH(
        dtype, T,
        gpu_launch(gpu, spread<T>, blocks ? blocks : 1, THREADS, 0, dx, add, dout, c, n, scale));
}
