/*
 * Scores of the lightning indexer on the GPU: the plain kernel, what prepares keys of eight bits,
 * and who picks.
 *
 * plain: a thread has one key and walks through heads and numbers, one product after the other. All
 * threads of a block have the same query, so its numbers come from the L1 cache once for a warp;
 * a key's are read again for every head.
 */
#include "04_mla/cuda/latent_row.cuh"
#include "10_full_model/sparse/index_kernels.h"

enum { THREADS = 128, WARPS = THREADS / 32 };

/* ---- plain ---- */

/* Number c of a key; the scales are its row's. */
template <typename T>
static __device__ __forceinline__ float number_of(const T *key, const float *, int c) {
    return to_float(key[c]);
}
static __device__ __forceinline__ float number_of(const unsigned char *key, const float *scales,
                                                  int c) {
    __half_raw h = __nv_cvt_fp8_to_halfraw(key[c], __NV_E4M3);
    return scales[c / LATENT_GROUP] * __half2float(*(__half *)&h);
}

/* grid (kv_len / THREADS, count, B). K: what keys are made of. */
template <typename T, typename K>
__global__ void __launch_bounds__(THREADS)
    plain_kernel(float *scores, const T *q, const float *weights, const K *keys, IndexShape s) {
    int b = blockIdx.z, i = blockIdx.y, j = blockIdx.x * THREADS + threadIdx.x;
    if (j >= index_keys_seen(&s, b, s.first + i)) return;
    int64_t query = (int64_t)b * s.q_len + s.first + i;
    int64_t row = s.block_table ? page_row(s.block_table + (int64_t)b * s.max_pages, j)
                                : (int64_t)b * s.kv_len + j;
    const K *key = keys + (s.e4m3 ? index_codes_at(row, s.dim) : row * s.dim);
    const float *scales =
        s.e4m3 ? (const float *)((const char *)keys + index_scales_at(row, s.dim)) : NULL;
    float sum = 0.0f;
    for (int h = 0; h < s.heads; h++) {
        const T *q_h = q + (query * s.heads + h) * s.dim;
        float dot = 0.0f;
        for (int c = 0; c < s.dim; c++) dot += to_float(q_h[c]) * number_of(key, scales, c);
        sum += weights[query * s.heads + h] * fmaxf(dot, 0.0f);
    }
    scores[((int64_t)b * s.count + i) * s.kv_len + j] = s.scale * sum;
}

void index_scores_plain_cuda(Gpu *gpu, DType dtype, float *scores, const void *q,
                             const float *weights, const void *keys, IndexShape s) {
    CHECK(s.count <= 65535 && s.batch <= 65535,
          "index_scores: %d queries of %d sequences; at most "
          "65535 of each",
          s.count, s.batch);
    dim3 grid((unsigned)ceil_div(s.kv_len, THREADS), (unsigned)s.count, (unsigned)s.batch);
    DTYPE_SWITCH(dtype, T, {
        if (s.e4m3)
            gpu_launch(gpu, plain_kernel<T, unsigned char>, grid, THREADS, 0, scores, q, weights,
                       keys, s);
        else
            gpu_launch(gpu, plain_kernel<T, T>, grid, THREADS, 0, scores, q, weights, keys, s);
    });
}

void index_scores_cuda(Gpu *gpu, DType dtype, float *scores, const void *q, const float *weights,
                       const void *keys, IndexShape s) {
    if (index_scores_hopper_supports(gpu, dtype, q, keys, s))
        index_scores_hopper_cuda(gpu, dtype, scores, q, weights, keys, s);
    else if (index_scores_mma_supports(gpu, dtype, q, keys, s))
        index_scores_mma_cuda(gpu, dtype, scores, q, weights, keys, s);
    else
        index_scores_plain_cuda(gpu, dtype, scores, q, weights, keys, s);
}

/* ---- eight bits ---- */

/* A block for each row, in shared memory; sums in the CPU's order. */
template <typename T> __global__ void hadamard_kernel(T *x, int d, float scale) {
    extern __shared__ float y[];
    T *row = x + (int64_t)blockIdx.x * d;
    for (int i = threadIdx.x; i < d; i += blockDim.x) y[i] = to_float(row[i]);
    for (int half = 1; half < d; half *= 2) {
        __syncthreads();
        for (int pair = threadIdx.x; pair < d / 2; pair += blockDim.x) {
            int i = pair / half * 2 * half + pair % half;
            float a = y[i], b = y[i + half];
            y[i] = a + b, y[i + half] = a - b;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < d; i += blockDim.x) row[i] = from_float<T>(scale * y[i]);
}

void hadamard_cuda(Gpu *gpu, DType dtype, void *x, int64_t rows, int64_t d) {
    CHECK(d > 0 && (d & (d - 1)) == 0, "hadamard: rows of %lld numbers", (long long)d);
    unsigned threads = d < 64 ? 32 : d < 1024 ? (unsigned)d / 2 : 512;
    if (rows == 0) return;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, hadamard_kernel<T>, (unsigned)rows, threads,
                            sizeof(float) * (size_t)d, x, (int)d, 1.0f / sqrtf((float)d)));
}

/* A warp has a row: latent_row_write's scale for each group, codes and numbers again. */
template <typename T> __global__ void round_kernel(T *x, int64_t rows, int d) {
    int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= rows) return;
    for (int first = 0; first < d; first += LATENT_GROUP) {
        T *mine = x + row * d + first + 4 * (threadIdx.x % 32);
        int count = max(min(d - first - 4 * (int)(threadIdx.x % 32), 4), 0);
        float amax = 0.0f;
        bool bad = false;
        for (int i = 0; i < count; i++) {
            float size = fabsf(to_float(mine[i]));
            amax = fmaxf(amax, size);
            bad |= !(size <= FLT_MAX);
        }
        bad = __any_sync(~0u, bad);
        float scale = latent_row_scale(bad ? NAN : warp_max(amax)), inverse = 1.0f / scale;
        for (int i = 0; i < count; i++) {
            __half_raw h = __nv_cvt_fp8_to_halfraw(
                __nv_cvt_float_to_fp8(to_float(mine[i]) * inverse, __NV_SATFINITE, __NV_E4M3),
                __NV_E4M3);
            mine[i] = from_float<T>(scale * __half2float(*(__half *)&h));
        }
    }
}

void index_round_cuda(Gpu *gpu, DType dtype, void *x, int64_t rows, int64_t d) {
    if (rows == 0) return;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, round_kernel<T>, (unsigned)ceil_div(rows, WARPS), THREADS, 0, x,
                            rows, (int)d));
}

/* A warp has a key: a row of latent_row.h in shared memory, which then goes to its two places. */
template <typename T>
__global__ void append_kernel(unsigned char *keys, const int32_t *block_table,
                              const int32_t *lengths, const T *k, int64_t rows, int tokens, int dim,
                              int64_t max_pages) {
    extern __shared__ float room[];
    int64_t i = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    int bytes = (int)latent_row_bytes(dim, 0), lane = threadIdx.x % 32;
    unsigned char *mine = (unsigned char *)room + threadIdx.x / 32 * bytes;
    if (i >= rows) return;
    int64_t b = i / tokens;
    int64_t row = page_row(block_table + b * max_pages, lengths[b] - tokens + i % tokens);
    latent_row_write(
        mine, dim, 0, [&](int c) { return to_float(k[i * dim + c]); }, [](int) { return 0.0f; });
    __syncwarp();
    uint32_t *codes = (uint32_t *)(keys + index_codes_at(row, dim));
    uint32_t *scales = (uint32_t *)(keys + index_scales_at(row, dim));
    const uint32_t *from = (const uint32_t *)mine;
    for (int c = lane; c < dim / 4; c += 32) codes[c] = from[c];
    for (int c = lane; c < (bytes - dim) / 4; c += 32) scales[c] = from[dim / 4 + c];
}

void index_append_e4m3_cuda(Gpu *gpu, DType dtype, void *keys, const int32_t *block_table,
                            const int32_t *lengths, const void *k, int64_t batch, int64_t tokens,
                            int64_t dim, int64_t max_pages) {
    int64_t rows = batch * tokens;
    if (rows == 0) return;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, append_kernel<T>, (unsigned)ceil_div(rows, WARPS), THREADS,
                            WARPS * (size_t)latent_row_bytes(dim, 0), keys, block_table, lengths, k,
                            rows, (int)tokens, (int)dim, max_pages));
}

template <typename T> __global__ void widen_kernel(float *y, const T *x, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        y[i] = to_float(x[i]);
}

void index_widen_cuda(Gpu *gpu, DType dtype, float *y, const void *x, int64_t n) {
    DTYPE_SWITCH(
        dtype, T,
        gpu_launch(gpu, widen_kernel<T>, (unsigned)gpu_blocks(gpu, 256, n), 256, 0, y, x, n));
}
