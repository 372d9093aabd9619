/*
 * The gate on the GPU: one product, and small kernels for noise, norms and cosines.
 *
 * The product runs on the tensor cores where the numbers are BF16: two factors of 8 bits have 16
 * bits together, so each product is exact in F32, and only their sum is rounded. Backward, dz is
 * F32 and has to become BF16 first. It is split in two,
 *     hi = bf16(dz),  lo = bf16(dz - hi)            dz = hi + lo but for 2^-17 of it,
 * and both go through one product, side by side along the sum:  dx = [hi | lo] [W; W].
 * All other kernels here move [N, E] numbers once.
 */
#include "05_moe/gate_kernels.h"
#include "common/core/ops_kernels.h"
#include "common/core/rng.h"
#include "common/cuda/gpu_matmul.cuh"

static const int THREADS = 256;

/* A loop over n elements by the whole grid. */
#define GRID_LOOP(i, n)                                              \
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, \
                 stride_ = (int64_t)gridDim.x * blockDim.x;          \
         i < (n); i += stride_)

/* ---- linear ---- */

void gate_forward_cuda(Gpu *gpu, DType dtype, float *z, const void *x, const void *w,
                       int64_t tokens, int64_t hidden, int64_t experts) {
    GpuMatmul product = gpu_product(dtype, F32, false, true, tokens, experts, hidden);
    gpu_matmul(gpu, &product, z, x, w, NULL);
}

/* parts [N, 2 P] = [hi | lo] of dz [N, E], each filled up with zeros to P columns */
__global__ static void split_in_two(__nv_bfloat16 *parts, const float *dz, int64_t tokens,
                                    int64_t experts, int64_t padded) {
    GRID_LOOP(i, tokens * padded) {
        int64_t n = i / padded, e = i % padded;
        float value = e < experts ? dz[n * experts + e] : 0.0f;
        __nv_bfloat16 hi = __float2bfloat16_rn(value);
        parts[n * 2 * padded + e] = hi;
        parts[n * 2 * padded + padded + e] = __float2bfloat16_rn(value - __bfloat162float(hi));
    }
}

/*
 * dx = [hi | lo] [W; W],  dw = hi^T x + lo^T x. P, E rounded up to 8, lets lo begin at 16 bytes, as
 * cuBLASLt wants it; the rows of W that are missing then are zero.
 */
static void backward_in_two_parts(Gpu *gpu, void *dx, int add_x, float *dw, int add_w,
                                  void *scratch, const float *dz, const void *x, const void *w,
                                  int64_t tokens, int64_t hidden, int64_t experts) {
    int64_t padded = ceil_div(experts, 8) * 8;
    __nv_bfloat16 *parts = (__nv_bfloat16 *)scratch, *twice = parts + 2 * tokens * padded;
    gpu_launch(gpu, split_in_two, gpu_blocks(gpu, THREADS, tokens * padded), THREADS, 0, parts, dz,
               tokens, experts, padded);
    if (dx) {
        size_t bytes = (size_t)(experts * hidden) * sizeof *twice;
        size_t rest = (size_t)((padded - experts) * hidden) * sizeof *twice;
        for (int part = 0; part < 2; part++) {
            __nv_bfloat16 *to = twice + part * padded * hidden;
            gpu_copy(gpu, to, w, bytes);
            if (rest) gpu_set(gpu, to + experts * hidden, 0, rest);
        }
        GpuMatmul product = gpu_product(BF16, BF16, false, false, tokens, hidden, 2 * padded);
        product.beta = (float)add_x;
        gpu_matmul(gpu, &product, dx, parts, twice, NULL);
    }
    for (int part = 0; dw && part < 2; part++) {
        GpuMatmul product = gpu_product(BF16, F32, true, false, experts, hidden, tokens);
        product.lda = 2 * padded, product.beta = (float)(add_w || part);
        gpu_matmul(gpu, &product, dw, parts + part * padded, x, NULL);
    }
}

void gate_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw, int add_w,
                        void *scratch, const float *dz, const void *x, const void *w,
                        int64_t tokens, int64_t hidden, int64_t experts) {
    if (dtype == BF16)
        backward_in_two_parts(gpu, dx, add_x, dw, add_w, scratch, dz, x, w, tokens, hidden,
                              experts);
    else
        linear_backward_cuda(gpu, dtype, dx, add_x, dw, add_w, NULL, 0, dz, x, w, tokens, hidden,
                             experts);
}

/* ---- noise ---- */

__device__ static float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }
__device__ static float sigmoid(float x) { return 1 / (1 + expf(-x)); }

__global__ static void noise_forward(float *z, const float *clean, const float *raw, int64_t n,
                                     uint64_t seed, uint64_t stream) {
    GRID_LOOP(i, n)
    z[i] = clean[i] + rng_normal(seed, stream, (uint64_t)i) * softplus(raw[i]);
}

void gate_noise_forward_cuda(Gpu *gpu, DType dtype, float *z, const float *clean, const float *raw,
                             int64_t n, uint64_t seed, uint64_t stream) {
    (void)dtype;
    gpu_launch(gpu, noise_forward, gpu_blocks(gpu, THREADS, n), THREADS, 0, z, clean, raw, n, seed,
               stream);
}

__global__ static void noise_backward(float *draw, int add, const float *dz, const float *raw,
                                      int64_t n, uint64_t seed, uint64_t stream) {
    GRID_LOOP(i, n) {
        float g = dz[i] * rng_normal(seed, stream, (uint64_t)i) * sigmoid(raw[i]);
        draw[i] = add ? draw[i] + g : g;
    }
}

void gate_noise_backward_cuda(Gpu *gpu, DType dtype, float *draw, int add, const float *dz,
                              const float *raw, int64_t n, uint64_t seed, uint64_t stream) {
    (void)dtype;
    gpu_launch(gpu, noise_backward, gpu_blocks(gpu, THREADS, n), THREADS, 0, draw, add, dz, raw, n,
               seed, stream);
}

/* ---- cosine ---- */

/* A warp a row. */
template <typename T>
__global__ void norms(float *inverse, const T *x, int64_t rows, int64_t width) {
    int64_t row = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
    if (row >= rows) return;
    float squares = 0;
    for (int64_t j = threadIdx.x % 32; j < width; j += 32) {
        float v = to_float(x[row * width + j]);
        squares += v * v;
    }
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) inverse[row] = 1 / sqrtf(squares + GATE_NORM_EPS);
}

void gate_norms_cuda(Gpu *gpu, DType dtype, float *inverse, const void *x, int64_t rows,
                     int64_t width) {
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, norms<T>, ceil_div(rows * 32, THREADS), THREADS, 0, inverse, x,
                            rows, width));
}

__global__ static void cosine_forward(float *z, const float *token, const float *expert,
                                      float scale, int64_t tokens, int64_t experts) {
    GRID_LOOP(i, tokens * experts)
    z[i] *= token[i / experts] * expert[i % experts] * scale;
}

void gate_cosine_forward_cuda(Gpu *gpu, DType dtype, float *z, const float *token,
                              const float *expert, float scale, int64_t tokens, int64_t experts) {
    (void)dtype;
    gpu_launch(gpu, cosine_forward, gpu_blocks(gpu, THREADS, tokens * experts), THREADS, 0, z,
               token, expert, scale, tokens, experts);
}

/* A warp a token: ddot, and the sum over experts. */
__global__ static void cosine_backward(float *ddot, float *per_token, const float *dz,
                                       const float *z, const float *token, const float *expert,
                                       float scale, int64_t tokens, int64_t experts) {
    int64_t n = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
    if (n >= tokens) return;
    float sum = 0;
    for (int64_t e = threadIdx.x % 32; e < experts; e += 32) {
        int64_t i = n * experts + e;
        sum += dz[i] * z[i];
        ddot[i] = dz[i] * token[n] * expert[e] * scale;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) per_token[n] = sum;
}

/* sum[e] = sum over tokens of a[n, e] * (b ? b[n, e] : 1): a block for 32 experts; each of its 8
 * warps takes every eighth token, and the eight sums are added in order. */
__global__ static void sum_over_tokens(float *sum, const float *a, const float *b, int64_t tokens,
                                       int64_t experts) {
    __shared__ float partial[8][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t e = blockIdx.x * 32 + lane;
    float total = 0;
    for (int64_t n = warp; n < tokens && e < experts; n += 8)
        total += a[n * experts + e] * (b ? b[n * experts + e] : 1.0f);
    partial[warp][lane] = total;
    __syncthreads();
    if (warp > 0 || e >= experts) return;
    for (int i = 1; i < 8; i++) total += partial[i][lane];
    sum[e] = total;
}

void gate_cosine_backward_cuda(Gpu *gpu, DType dtype, float *ddot, float *per_token,
                               float *per_expert, const float *dz, const float *z,
                               const float *token, const float *expert, float scale, int64_t tokens,
                               int64_t experts) {
    (void)dtype;
    gpu_launch(gpu, cosine_backward, ceil_div(tokens * 32, THREADS), THREADS, 0, ddot, per_token,
               dz, z, token, expert, scale, tokens, experts);
    gpu_launch(gpu, sum_over_tokens, ceil_div(experts, 32), 256, 0, per_expert, dz, z, tokens,
               experts);
}

/* D is the gradient's type, T that of the values. */
template <typename D, typename T>
__global__ void norms_backward(D *dx, const T *x, const float *sums, const float *inverse,
                               int64_t rows, int64_t width) {
    GRID_LOOP(i, rows * width) {
        int64_t row = i / width;
        float factor = sums[row] * inverse[row] * inverse[row];
        dx[i] = from_float<D>(to_float(dx[i]) - to_float(x[i]) * factor);
    }
}

void gate_norms_backward_cuda(Gpu *gpu, DType dtype, void *dx, const void *x, const float *sums,
                              const float *inverse, int64_t rows, int64_t width) {
    int64_t blocks = gpu_blocks(gpu, THREADS, rows * width);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, norms_backward<T, T>, blocks, THREADS, 0, dx, x, sums, inverse,
                            rows, width));
}

void gate_norms_backward_weight_cuda(Gpu *gpu, DType dtype, float *dw, const void *w,
                                     const float *sums, const float *inverse, int64_t rows,
                                     int64_t width) {
    int64_t blocks = gpu_blocks(gpu, THREADS, rows * width);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, norms_backward<float, T>, blocks, THREADS, 0, dw, w, sums, inverse,
                            rows, width));
}

/* ---- the load of noisy top-k ---- */

/* As in gate_cpu.c: the noise's sigma with its floor, the slope of that, ... */
__device__ static float sigma_of(float raw) {
    float sigma = softplus(raw);
    return sigma < GATE_MIN_SIGMA ? GATE_MIN_SIGMA : sigma;
}

__device__ static float sigma_slope(float raw) {
    return softplus(raw) < GATE_MIN_SIGMA ? 0 : sigmoid(raw);
}

/* ... and whom expert e has to beat. */
__device__ static int32_t rival_of(const int32_t *rivals, const float *h, int64_t e) {
    float bar = rivals[0] < 0 ? -INFINITY : h[rivals[0]];
    int inside = h[e] > bar || (h[e] == bar && e <= rivals[0]);
    return rivals[inside];
}

/* A warp a token; each lane ranks its experts by counting the better ones. */
__global__ static void noisy_load_forward(float *p, int32_t *rivals, const float *clean,
                                          const float *raw, const float *noisy, int64_t tokens,
                                          int64_t experts, int top_k) {
    int64_t n = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
    if (n >= tokens) return;
    const float *h = noisy + n * experts;
    int lane = threadIdx.x % 32, mine[2] = {-1, -1};
    for (int64_t e = lane; e < experts; e += 32) {
        int better = 0;
        for (int64_t i = 0; i < experts; i++) better += h[i] > h[e] || (h[i] == h[e] && i < e);
        if (better == top_k - 1) mine[0] = (int)e;
        if (better == top_k) mine[1] = (int)e;
    }
    for (int r = 0; r < 2; r++) { /* at most one lane has found each: the others hold -1 */
        for (int offset = 16; offset; offset /= 2)
            mine[r] = max(mine[r], __shfl_xor_sync(~0u, mine[r], offset));
        if (lane == 0) rivals[2 * n + r] = mine[r];
    }
    for (int64_t e = lane; e < experts; e += 32) {
        int64_t i = n * experts + e;
        int32_t rival = rival_of(mine, h, e);
        float distance = rival < 0 ? INFINITY : (clean[i] - h[rival]) / sigma_of(raw[i]);
        p[i] = 0.5f * erfcf(-distance * 0.70710678f);
    }
}

void gate_noisy_load_forward_cuda(Gpu *gpu, DType dtype, float *load, float *p, int32_t *rivals,
                                  const float *clean, const float *raw, const float *noisy,
                                  int64_t tokens, int64_t experts, int top_k) {
    (void)dtype;
    gpu_launch(gpu, noisy_load_forward, ceil_div(tokens * 32, THREADS), THREADS, 0, p, rivals,
               clean, raw, noisy, tokens, experts, top_k);
    gpu_launch(gpu, sum_over_tokens, ceil_div(experts, 32), 256, 0, load, p, nullptr, tokens,
               experts);
}

/* The derivative of one expert's p with respect to its clean logit, and its distance to the bar in
 * sigmas. */
__device__ static float density(float *t, float dload, float clean, float bar, float raw) {
    float sigma = sigma_of(raw);
    *t = (clean - bar) / sigma;
    return dload * 0.39894228f * expf(-0.5f * *t * *t) / sigma;
}

/* A warp a token. Every expert pushes one of two rivals, so two sums over the lanes are all that
 * dnoisy needs. */
__global__ static void noisy_load_backward(float *dclean, int add_clean, float *draw, int add_raw,
                                           float *dnoisy, int add_noisy, const float *dload,
                                           const int32_t *rivals, const float *clean,
                                           const float *raw, const float *noisy, int64_t tokens,
                                           int64_t experts) {
    int64_t n = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
    if (n >= tokens) return;
    const float *h = noisy + n * experts;
    const int32_t pair[2] = {rivals[2 * n], rivals[2 * n + 1]};
    float push[2] = {0, 0};
    for (int64_t e = threadIdx.x % 32; e < experts; e += 32) {
        int64_t i = n * experts + e;
        int32_t rival = rival_of(pair, h, e);
        float t = 0, g = rival < 0 ? 0 : density(&t, dload[e], clean[i], h[rival], raw[i]);
        float gr = -g * t * sigma_slope(raw[i]);
        if (dclean) dclean[i] = add_clean ? dclean[i] + g : g;
        if (draw) draw[i] = add_raw ? draw[i] + gr : gr;
        if (rival >= 0 && rival == pair[0])
            push[0] += g;
        else if (rival >= 0)
            push[1] += g;
    }
    push[0] = warp_sum(push[0]), push[1] = warp_sum(push[1]);
    if (!dnoisy) return;
    for (int64_t e = threadIdx.x % 32; e < experts; e += 32) {
        int64_t i = n * experts + e;
        float g = e == pair[0] ? -push[0] : e == pair[1] ? -push[1] : 0;
        dnoisy[i] = add_noisy ? dnoisy[i] + g : g;
    }
}

void gate_noisy_load_backward_cuda(Gpu *gpu, DType dtype, float *dclean, int add_clean, float *draw,
                                   int add_raw, float *dnoisy, int add_noisy, const float *dload,
                                   const int32_t *rivals, const float *clean, const float *raw,
                                   const float *noisy, int64_t tokens, int64_t experts, int top_k) {
    (void)dtype, (void)top_k;
    gpu_launch(gpu, noisy_load_backward, ceil_div(tokens * 32, THREADS), THREADS, 0, dclean,
               add_clean, draw, add_raw, dnoisy, add_noisy, dload, rivals, clean, raw, noisy,
               tokens, experts);
}
