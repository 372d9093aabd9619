/*
 * Balance on the GPU. See balance.h. Numbers of experts and of tokens times experts: small next to
 * the experts' own work, so these kernels are plain. Sums have a fixed order and nothing goes to
 * the host.
 */
#include "05_moe/balance.h"
#include "common/cuda/gpu.cuh"

static const int THREADS = 256, WARPS = THREADS / 32;

/* The sum over a block of THREADS threads, in F64, for every thread. */
__device__ static double block_sum(double x) {
    __shared__ double partial[WARPS];
    for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
    __syncthreads(); /* a call before this one may still be reading */
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    double total = 0;
    for (int i = 0; i < WARPS; i++) total += partial[i];
    return total;
}

/* ---- the auxiliary loss ---- */

/* sums[n] = the sum of a token's scores; a warp a token. */
__global__ static void score_sums(float *sums, const float *scores, int64_t tokens, int experts) {
    int64_t n = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
    if (n >= tokens) return;
    float sum = 0;
    for (int e = threadIdx.x % 32; e < experts; e += 32) sum += scores[n * experts + e];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[n] = sum + BALANCE_SUM_EPS;
}

/*
 * f and p of one sequence and 32 experts; grid (sequences, experts / 32). Each warp takes every
 * eighth token, a lane an expert; the warps' sums are added in order. Choices are counted by
 * integers.
 */
__global__ static void fractions(float *f, float *p, const float *sums, const float *scores,
                                 const int32_t *indices, int64_t length, int experts, int top_k,
                                 float factor) {
    __shared__ float partial[WARPS][32];
    __shared__ int counted[WARPS][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t b = blockIdx.x, first = b * length, e = blockIdx.y * 32 + lane;
    float total = 0;
    int count = 0;
    for (int64_t n = first + warp; n < first + length; n += WARPS) {
        if (e < experts) total += scores[n * experts + e] / sums[n];
        for (int j = 0; j < top_k; j++) count += indices[n * top_k + j] == e;
    }
    partial[warp][lane] = total, counted[warp][lane] = count;
    __syncthreads();
    if (warp > 0 || e >= experts) return;
    for (int i = 1; i < WARPS; i++) total += partial[i][lane], count += counted[i][lane];
    f[b * experts + e] = (float)count * factor;
    p[b * experts + e] = total / (float)length;
}

/* out = sum f p; one block */
__global__ static void dot(float *out, const float *f, const float *p, int64_t n) {
    double total = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) total += (double)f[i] * p[i];
    total = block_sum(total);
    if (threadIdx.x == 0) *out = (float)total;
}

void balance_loss_forward_cuda(Gpu *gpu, DType dtype, float *loss, float *f, float *p, float *sums,
                               const float *scores, const int32_t *indices, int64_t sequences,
                               int64_t length, int experts, int top_k, float alpha) {
    (void)dtype;
    int64_t tokens = sequences * length;
    gpu_launch(gpu, score_sums, ceil_div(tokens * 32, THREADS), THREADS, 0, sums, scores, tokens,
               experts);
    float factor = alpha * (float)experts / ((float)top_k * (float)length * (float)sequences);
    dim3 grid((unsigned)sequences, (unsigned)ceil_div(experts, 32));
    gpu_launch(gpu, fractions, grid, THREADS, 0, f, p, sums, scores, indices, length, experts,
               top_k, factor);
    gpu_launch(gpu, dot, 1, THREADS, 0, loss, f, p, sequences * experts);
}

/* A warp a token. */
__global__ static void loss_backward(float *dscores, int add, const float *dloss, const float *f,
                                     const float *sums, const float *scores, int64_t tokens,
                                     int64_t length, int experts) {
    int64_t n = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
    if (n >= tokens) return;
    const float *fb = f + n / length * experts, *s = scores + n * experts;
    float mean = 0, factor = dloss[0] / (sums[n] * (float)length);
    for (int e = threadIdx.x % 32; e < experts; e += 32) mean += fb[e] * s[e];
    mean = warp_sum(mean) / sums[n];
    for (int e = threadIdx.x % 32; e < experts; e += 32) {
        float g = (fb[e] - mean) * factor;
        dscores[n * experts + e] = add ? dscores[n * experts + e] + g : g;
    }
}

void balance_loss_backward_cuda(Gpu *gpu, DType dtype, float *dscores, int add, const float *dloss,
                                const float *f, const float *sums, const float *scores,
                                int64_t sequences, int64_t length, int experts) {
    (void)dtype;
    int64_t tokens = sequences * length;
    gpu_launch(gpu, loss_backward, ceil_div(tokens * 32, THREADS), THREADS, 0, dscores, add, dloss,
               f, sums, scores, tokens, length, experts);
}

/* ---- the z-loss ---- */

__global__ static void logsumexp_rows(float *lse, const float *logits, int64_t tokens,
                                      int experts) {
    int64_t n = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / 32;
    if (n >= tokens) return;
    const float *z = logits + n * experts;
    float largest = -INFINITY, sum = 0;
    for (int e = threadIdx.x % 32; e < experts; e += 32) largest = fmaxf(largest, z[e]);
    largest = warp_max(largest);
    for (int e = threadIdx.x % 32; e < experts; e += 32) sum += expf(z[e] - largest);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) lse[n] = largest + logf(sum);
}

/* out = scale * sum of squares; one block */
__global__ static void sum_of_squares(float *out, const float *x, int64_t n, float scale) {
    double total = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) total += (double)x[i] * x[i];
    total = block_sum(total);
    if (threadIdx.x == 0) *out = (float)(scale * total);
}

void balance_z_forward_cuda(Gpu *gpu, DType dtype, float *loss, float *lse, const float *logits,
                            int64_t tokens, int experts, float beta) {
    (void)dtype;
    gpu_launch(gpu, logsumexp_rows, ceil_div(tokens * 32, THREADS), THREADS, 0, lse, logits, tokens,
               experts);
    gpu_launch(gpu, sum_of_squares, 1, THREADS, 0, loss, lse, tokens, beta / (float)tokens);
}

__global__ static void z_backward(float *dlogits, int add, const float *dloss, const float *lse,
                                  const float *logits, int64_t n, int experts, float factor) {
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= n) return;
    float l = lse[i / experts], g = factor * dloss[0] * l * expf(logits[i] - l);
    dlogits[i] = add ? dlogits[i] + g : g;
}

void balance_z_backward_cuda(Gpu *gpu, DType dtype, float *dlogits, int add, const float *dloss,
                             const float *lse, const float *logits, int64_t tokens, int experts,
                             float beta) {
    (void)dtype;
    int64_t n = tokens * experts;
    gpu_launch(gpu, z_backward, ceil_div(n, THREADS), THREADS, 0, dlogits, add, dloss, lse, logits,
               n, experts, 2 * beta / (float)tokens);
}

/* ---- importance and its variation ---- */

/* A block an expert: it walks over all slots, and adds those that chose it. */
__global__ static void importance_forward(float *importance, const float *weights,
                                          const int32_t *indices, int64_t slots) {
    double total = 0;
    for (int64_t s = threadIdx.x; s < slots; s += THREADS)
        if (indices[s] == (int32_t)blockIdx.x) total += weights[s];
    total = block_sum(total);
    if (threadIdx.x == 0) importance[blockIdx.x] = (float)total;
}

void balance_importance_forward_cuda(Gpu *gpu, DType dtype, float *importance, const float *weights,
                                     const int32_t *indices, int64_t slots, int experts) {
    (void)dtype;
    gpu_launch(gpu, importance_forward, experts, THREADS, 0, importance, weights, indices, slots);
}

__global__ static void importance_backward(float *dweights, int add, const float *dimportance,
                                           const int32_t *indices, int64_t slots) {
    int64_t s = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (s >= slots) return;
    float g = dimportance[indices[s]];
    dweights[s] = add ? dweights[s] + g : g;
}

void balance_importance_backward_cuda(Gpu *gpu, DType dtype, float *dweights, int add,
                                      const float *dimportance, const int32_t *indices,
                                      int64_t slots) {
    (void)dtype;
    gpu_launch(gpu, importance_backward, ceil_div(slots, THREADS), THREADS, 0, dweights, add,
               dimportance, indices, slots);
}

/* Mean and mean of squares of v, for every thread of the one block. */
__device__ static void moments(double *mean, double *square, const float *v, int n) {
    double m = 0, q = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) m += v[i], q += (double)v[i] * v[i];
    *mean = block_sum(m) / n, *square = block_sum(q) / n;
}

__global__ static void variation_forward(float *loss, const float *v, int experts, float alpha) {
    double mean, square;
    moments(&mean, &square, v, experts);
    if (threadIdx.x == 0) *loss = mean == 0 ? 0 : (float)(alpha * (square / (mean * mean) - 1));
}

void balance_variation_forward_cuda(Gpu *gpu, DType dtype, float *loss, const float *v, int experts,
                                    float alpha) {
    (void)dtype;
    gpu_launch(gpu, variation_forward, 1, THREADS, 0, loss, v, experts, alpha);
}

__global__ static void variation_backward(float *dv, int add, const float *dloss, const float *v,
                                          int experts, float alpha) {
    double mean, square;
    moments(&mean, &square, v, experts);
    double factor = mean == 0 ? 0 : 2.0 * alpha * dloss[0] / (experts * mean * mean);
    for (int e = threadIdx.x; e < experts; e += THREADS) {
        float g = mean == 0 ? 0 : (float)(factor * (v[e] - square / mean));
        dv[e] = add ? dv[e] + g : g;
    }
}

void balance_variation_backward_cuda(Gpu *gpu, DType dtype, float *dv, int add, const float *dloss,
                                     const float *v, int experts, float alpha) {
    (void)dtype;
    gpu_launch(gpu, variation_backward, 1, THREADS, 0, dv, add, dloss, v, experts, alpha);
}

/* ---- the bias ---- */

__global__ static void count(int32_t *load, const int32_t *counts, int experts) {
    int e = blockIdx.x * blockDim.x + threadIdx.x;
    if (e < experts) load[e] += counts[e];
}

void balance_count_cuda(Gpu *gpu, DType dtype, int32_t *load, const int32_t *counts, int experts) {
    (void)dtype;
    gpu_launch(gpu, count, ceil_div(experts, THREADS), THREADS, 0, load, counts, experts);
}

/* One block. Loads are integers, so their sum in F64 is exact. */
__global__ static void update_bias(float *bias, int32_t *load, int experts, float gamma) {
    double total = 0;
    for (int e = threadIdx.x; e < experts; e += THREADS) total += load[e];
    total = block_sum(total);
    for (int e = threadIdx.x; e < experts; e += THREADS) {
        double mine = (double)load[e] * experts;
        if (bias) bias[e] += mine < total ? gamma : mine > total ? -gamma : 0;
        load[e] = 0;
    }
}

void balance_update_bias_cuda(Gpu *gpu, DType dtype, float *bias, int32_t *load, int experts,
                              float gamma) {
    (void)dtype;
    gpu_launch(gpu, update_bias, 1, THREADS, 0, bias, load, experts, gamma);
}
