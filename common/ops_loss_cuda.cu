/*
 * The two ends of a language model on the GPU: embedding, cross entropy, and the sums that make a scalar of a tensor.
 *
 * The embedding's backward adds many rows into one. Atomics would do that in an order that changes from run to run; instead the
 * rows are sorted by id (a counting sort whose ranks are counted, not raced for), and each table row is summed in order.
 */
#include "early.cuh"
#include "gpu_matmul.cuh"
#include "ops.h"

static const int THREADS = 256;

/* Sum over a block of THREADS threads; every thread gets the result. */
__device__ static float block_sum(float x) {
    __shared__ float partial[THREADS / 32];
    x = warp_sum(x);
    __syncthreads(); /* a call before this one may still be reading */
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0;
    for (int i = 0; i < THREADS / 32; i++) total += partial[i];
    return total;
}

__device__ static float block_max(float x) {
    __shared__ float partial[THREADS / 32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float largest = partial[0];
    for (int i = 1; i < THREADS / 32; i++) largest = fmaxf(largest, partial[i]);
    return largest;
}

/* ---- embedding ---- */

template <typename T>
__global__ void embedding_forward(T *y, const T *table, const int32_t *ids, int64_t d,
                                  int64_t vocab) {
    early_wait();
    early_go();
    int64_t row = blockIdx.x;
    int32_t id = ids[row];
    /* An id out of range (the host checks ids where it makes them) becomes NaN: seen at once, and no stray read. */
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x)
        y[row * d + j] = id >= 0 && id < vocab ? table[id * d + j] : from_float<T>(NAN);
}

extern "C" void embedding_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *table,
                                       const int32_t *ids, int64_t rows, int64_t d, int64_t vocab) {
    if (rows == 0) return;
    DTYPE_SWITCH(dtype, T,
                 early_launch(gpu, embedding_forward<T>, dim3((unsigned)rows), 128, 0, (T *)y,
                              (const T *)table, ids, d, vocab));
}

/* rank[i] = how many earlier rows have the same id; count[id] = how many rows have it. Integers: the order does not matter. */
__global__ void rank_rows(int32_t *rank, int32_t *count, const int32_t *ids, int64_t rows,
                          int64_t vocab) {
    __shared__ int32_t tile[THREADS];
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    int32_t mine = i < rows ? ids[i] : -1, before = 0;
    for (int64_t start = 0; start <= blockIdx.x * (int64_t)THREADS; start += THREADS) {
        __syncthreads();
        tile[threadIdx.x] = start + threadIdx.x < rows ? ids[start + threadIdx.x] : -1;
        __syncthreads();
        for (int k = 0; k < THREADS; k++) before += tile[k] == mine && start + k < i;
    }
    if (i >= rows) return;
    rank[i] = before;
    if (mine >= 0 && mine < vocab) atomicAdd(&count[mine], 1);
}

/* In place: count[0 .. vocab] -> where each id's rows begin. One block; a chunk of ids for each thread. */
__global__ void exclusive_scan(int32_t *count, int64_t n) {
    __shared__ int32_t sums[THREADS];
    int64_t begin = threadIdx.x * n / THREADS, end = (threadIdx.x + 1) * n / THREADS;
    int32_t total = 0;
    for (int64_t i = begin; i < end; i++) total += count[i];
    sums[threadIdx.x] = total;
    __syncthreads();
    int32_t before = 0;
    for (unsigned t = 0; t < threadIdx.x; t++) before += sums[t];
    for (int64_t i = begin; i < end; i++) {
        int32_t c = count[i];
        count[i] = before;
        before += c;
    }
}

__global__ void place_rows(int32_t *order, const int32_t *rank, const int32_t *start,
                           const int32_t *ids, int64_t rows, int64_t vocab) {
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (i < rows && ids[i] >= 0 && ids[i] < vocab) order[start[ids[i]] + rank[i]] = (int32_t)i;
}

template <typename T>
__global__ void sum_rows_by_id(float *dtable, int add, const int32_t *start, const int32_t *order,
                               const T *dy, int64_t d) {
    int64_t id = blockIdx.x;
    int32_t begin = start[id], end = start[id + 1];
    if (add && begin == end) return;
    for (int64_t j = threadIdx.x; j < d; j += blockDim.x) {
        float total = 0;
        for (int32_t k = begin; k < end; k++) total += to_float(dy[order[k] * d + j]);
        float *out = dtable + id * d + j;
        *out = add ? *out + total : total;
    }
}

extern "C" void embedding_backward_cuda(Gpu *gpu, DType dtype, float *dtable, int add,
                                        int32_t *scratch, const void *dy, const int32_t *ids,
                                        int64_t rows, int64_t d, int64_t vocab) {
    int32_t *start = scratch, *order = scratch + vocab + 1, *rank = order + rows;
    unsigned blocks = (unsigned)ceil_div(rows > 0 ? rows : 1, THREADS);
    gpu_set(gpu, start, 0, (size_t)(vocab + 1) * sizeof *start);
    rank_rows<<<blocks, THREADS, 0, gpu->stream>>>(rank, start, ids, rows, vocab);
    exclusive_scan<<<1, THREADS, 0, gpu->stream>>>(start, vocab + 1);
    place_rows<<<blocks, THREADS, 0, gpu->stream>>>(order, rank, start, ids, rows, vocab);
    DTYPE_SWITCH(dtype, T,
                 sum_rows_by_id<T><<<(unsigned)vocab, 128, 0, gpu->stream>>>(
                     dtable, add, start, order, (const T *)dy, d));
}

/* ---- cross entropy: a block for each row ---- */

template <typename T>
__global__ void cross_entropy_rows(float *losses, float *lse, const T *logits,
                                   const int32_t *targets, int64_t vocab) {
    int64_t row = blockIdx.x;
    const T *z = logits + row * vocab;
    /* One pass over the logits: every thread keeps a running maximum and a sum scaled to it (online softmax). */
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
     * A thread that saw nothing has a sum of 0 and a maximum of -infinity, which must not meet another -infinity. fmaxf drops a NaN
     * but its thread's sum keeps it: one NaN logit makes this row's loss NaN, as it must.
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

__global__ void mean_of_rows(float *loss, const float *losses, const int32_t *targets,
                             int64_t rows) {
    float total = 0, counted = 0;
    for (int64_t i = threadIdx.x; i < rows; i += THREADS) {
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

extern "C" void cross_entropy_forward_cuda(Gpu *gpu, DType dtype, float *loss, float *losses,
                                           float *lse, const void *logits, const int32_t *targets,
                                           int64_t rows, int64_t vocab) {
    if (rows)
        DTYPE_SWITCH(dtype, T,
                     cross_entropy_rows<T><<<(unsigned)rows, THREADS, 0, gpu->stream>>>(
                         losses, lse, (const T *)logits, targets, vocab));
    mean_of_rows<<<1, THREADS, 0, gpu->stream>>>(loss, losses, targets, rows);
    LAUNCH_CHECK();
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

extern "C" void cross_entropy_backward_cuda(Gpu *gpu, DType dtype, void *logits, const float *dloss,
                                            const float *loss, const float *lse,
                                            const int32_t *targets, int64_t rows, int64_t vocab) {
    if (rows)
        DTYPE_SWITCH(dtype, T,
                     cross_entropy_backward<T><<<(unsigned)rows, THREADS, 0, gpu->stream>>>(
                         (T *)logits, dloss, loss, lse, targets, vocab));
}

/* ---- linear and cross entropy in one: rows of logits are padded, and read 16 bytes at a time ---- */

template <typename T> struct alignas(16) Pack {
    static const int SIZE = 16 / sizeof(T);
    T v[SIZE];
};

/* As cross_entropy_rows. width is a multiple of a pack; columns from vocab on do not count. */
template <typename T>
__global__ void padded_rows(float *losses, float *lse, const T *logits, const int32_t *targets,
                            int64_t vocab, int64_t width) {
    const int W = Pack<T>::SIZE;
    int64_t row = blockIdx.x;
    const T *z = logits + row * width;
    float largest = -INFINITY, sum = 0;
    for (int j = threadIdx.x * W; j < vocab; j += THREADS * W) {
        Pack<T> pack = *(const Pack<T> *)(z + j);
        float v[W], most = largest;
#pragma unroll
        for (int k = 0; k < W; k++) {
            v[k] = j + k < vocab ? to_float(pack.v[k]) : -INFINITY;
            most = fmaxf(most, v[k]);
        }
        if (most > largest) {
            sum *= __expf(largest - most);
            largest = most;
        }
#pragma unroll
        for (int k = 0; k < W; k++)
            if (j + k < vocab) sum += v[k] == largest ? 1.0f : __expf(v[k] - largest);
    }
    float top = block_max(largest);
    float total = block_sum(sum == 0.0f ? 0.0f : sum * __expf(largest - top));
    if (threadIdx.x != 0) return;
    int32_t target = targets[row];
    bool valid = target >= 0 && target < vocab;
    lse[row] = top + logf(total);
    losses[row] = target == IGNORE_TARGET ? 0.0f
                  : valid                 ? logf(total) + (top - to_float(z[target]))
                                          : NAN;
}

/* As cross_entropy_backward; the padding becomes zero, for it takes part in the products behind. */
template <typename T>
__global__ void padded_rows_backward(T *logits, const float *dloss, const float *loss,
                                     const float *lse, const int32_t *targets, int64_t vocab,
                                     int64_t width) {
    const int W = Pack<T>::SIZE;
    int64_t row = blockIdx.x;
    T *z = logits + row * width;
    int32_t target = targets[row];
    float scale = target == IGNORE_TARGET ? 0.0f : dloss[0] / loss[1], shift = lse[row];
    for (int j = threadIdx.x * W; j < width; j += THREADS * W) {
        Pack<T> pack = *(Pack<T> *)(z + j);
#pragma unroll
        for (int k = 0; k < W; k++) {
            float p = __expf(to_float(pack.v[k]) - shift);
            bool none = scale == 0 || j + k >= vocab;
            pack.v[k] = from_float<T>(none ? 0.0f : (p - (j + k == target)) * scale);
        }
        *(Pack<T> *)(z + j) = pack;
    }
}

extern "C" void linear_cross_entropy_forward_cuda(Gpu *gpu, DType dtype, float *loss, float *losses,
                                                  float *lse, void *logits, void *padded_w,
                                                  const void *x, const void *w,
                                                  const int32_t *targets, int64_t rows, int64_t in,
                                                  int64_t vocab, int64_t width) {
    size_t size = dtype_size(dtype), used = (size_t)(vocab * in) * size;
    gpu_copy(gpu, padded_w, w, used);
    if (width > vocab)
        gpu_set(gpu, (char *)padded_w + used, 0, (size_t)((width - vocab) * in) * size);
    linear_forward_cuda(gpu, dtype, logits, x, padded_w, NULL, rows, in, width);
    if (rows)
        DTYPE_SWITCH(dtype, T,
                     padded_rows<T><<<(unsigned)rows, THREADS, 0, gpu->stream>>>(
                         losses, lse, (const T *)logits, targets, vocab, width));
    mean_of_rows<<<1, THREADS, 0, gpu->stream>>>(loss, losses, targets, rows);
    LAUNCH_CHECK();
}

extern "C" void linear_cross_entropy_backward_cuda(
    Gpu *gpu, DType dtype, void *dx, int add_x, float *dw, int add_w, void *logits,
    const void *padded_w, const float *dloss, const float *loss, const float *lse, const void *x,
    const int32_t *targets, int64_t rows, int64_t in, int64_t vocab, int64_t width) {
    if (!rows) return;
    DTYPE_SWITCH(dtype, T,
                 padded_rows_backward<T><<<(unsigned)rows, THREADS, 0, gpu->stream>>>(
                     (T *)logits, dloss, loss, lse, targets, vocab, width));
    linear_backward_cuda(gpu, dtype, dx, add_x, NULL, 0, NULL, 0, logits, x, padded_w, rows, in,
                         width);
    if (!dw) return;
    GpuMatmul product = {}; /* dW's own rows only: the first vocab columns of dlogits */
    product.dtype = dtype, product.out_dtype = F32;
    product.transpose_a = true;
    product.m = vocab, product.n = in, product.k = rows;
    product.lda = width, product.ldb = in, product.ldc = in;
    product.batch = 1, product.alpha = 1, product.beta = (float)add_w;
    gpu_matmul(gpu, &product, dw, logits, x, NULL);
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

extern "C" void sum_forward_cuda(Gpu *gpu, DType dtype, float *out, float *scratch, const void *x,
                                 const float *c, int64_t n, float scale) {
    DTYPE_SWITCH(dtype, T,
                 sum_chunks<T>
                 <<<SUM_CHUNKS, THREADS, 0, gpu->stream>>>(scratch, (const T *)x, c, n));
    sum_scratch<<<1, THREADS, 0, gpu->stream>>>(out, scratch, scale);
    LAUNCH_CHECK();
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

extern "C" void sum_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add, const float *dout,
                                  const float *c, int64_t n, float scale) {
    unsigned blocks = (unsigned)(ceil_div(n, THREADS) < 2048 ? ceil_div(n, THREADS) : 2048);
    DTYPE_SWITCH(dtype, T,
                 spread<T><<<blocks ? blocks : 1, THREADS, 0, gpu->stream>>>((T *)dx, add, dout, c,
                                                                             n, scale));
}
