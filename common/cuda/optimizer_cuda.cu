/*
 * The optimizer on the GPU: one pass to add up the gradient's norm, one to update every weight. The
 * norm stays on the device, so that the second kernel can start without asking the host.
 */
#include "common/core/optimizer.h"
#include "common/cuda/gpu.cuh"

static const int THREADS = 256;

__device__ static double block_sum(double x) {
    __shared__ double partial[THREADS / 32];
    for (int offset = 16; offset; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    double total = 0;
    for (int i = 0; i < THREADS / 32; i++) total += partial[i];
    return total;
}

__global__ void squares_of_chunk(float *scratch, const float *grads, int64_t n) {
    int64_t chunk = blockIdx.x, end = (chunk + 1) * n / NORM_CHUNKS;
    float squares = 0;
    for (int64_t i = chunk * n / NORM_CHUNKS + threadIdx.x; i < end; i += THREADS)
        squares += grads[i] * grads[i];
    double total = block_sum(squares);
    if (threadIdx.x == 0) scratch[chunk] = (float)total;
}

__global__ void norm_of_chunks(float *scratch, float grad_scale) {
    double squares = 0;
    for (int i = threadIdx.x; i < NORM_CHUNKS; i += THREADS) squares += scratch[i];
    squares = block_sum(squares);
    if (threadIdx.x == 0) scratch[NORM_CHUNKS] = (float)(grad_scale * sqrt(squares));
}

void grad_norm_cuda(Gpu *gpu, DType dtype, float *scratch, const float *grads, int64_t n,
                    float grad_scale) {
    (void)dtype; /* gradients of weights are F32 */
    gpu_launch(gpu, squares_of_chunk, NORM_CHUNKS, THREADS, 0, scratch, grads, n);
    gpu_launch(gpu, norm_of_chunks, 1, THREADS, 0, scratch, grad_scale);
}

/* Four moments, F32 or BF16. */
__device__ static float4 load_moments(const float *x) { return *(const float4 *)x; }
__device__ static void store_moments(float *to, float4 x) { *(float4 *)to = x; }

__device__ static float4 load_moments(const __nv_bfloat16 *x) {
    uint2 bits = *(const uint2 *)x;
    return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
                       __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u));
}
__device__ static void store_moments(__nv_bfloat16 *to, float4 x) {
    __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(x.x, x.y), __floats2bfloat162_rn(x.z, x.w)};
    *(uint2 *)to = *(const uint2 *)pairs;
}

/* Four weights a thread: 16-byte reads of master, m, v (BF16: 8 bytes) and the gradient. n is a
 * multiple of 64. */
template <typename T, typename M>
__global__ void adamw_kernel(T *values, float4 *master, M *m, M *v, const float4 *grads,
                             const float *norm, int64_t quads, int64_t decayed_quads, AdamWStep s) {
    float length = *norm;
    if (!isfinite(length)) return;
    float shrink = s.clip > 0 && length > s.clip ? s.clip / length : 1.0f;
    float scale = s.grad_scale * shrink;
    float rate = s.lr / s.correction1, root = rsqrtf(s.correction2);
    int64_t stride = (int64_t)gridDim.x * THREADS;
    for (int64_t q = blockIdx.x * (int64_t)THREADS + threadIdx.x; q < quads; q += stride) {
        float4 w4 = master[q], g4 = grads[q];
        float4 m4 = load_moments(m + 4 * q), v4 = load_moments(v + 4 * q);
        float *wk = &w4.x, *mk = &m4.x, *vk = &v4.x, *gk = &g4.x;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float g = scale * gk[k];
            mk[k] = s.beta1 * mk[k] + (1 - s.beta1) * g;
            vk[k] = s.beta2 * vk[k] + (1 - s.beta2) * g * g;
            float decay = q < decayed_quads ? s.lr * s.weight_decay * wk[k] : 0.0f;
            wk[k] -= rate * mk[k] / (sqrtf(vk[k]) * root + s.eps) + decay;
        }
        master[q] = w4;
        store_moments(m + 4 * q, m4);
        store_moments(v + 4 * q, v4);
        /* BF16: the rounded copy that the model computes with */
        if ((void *)values != (void *)master)
            for (int k = 0; k < 4; k++) values[4 * q + k] = from_float<T>(wk[k]);
    }
}

template <typename M>
static void launch_adamw(Gpu *gpu, DType dtype, void *values, float *master, M *m, M *v,
                         const float *grads, const float *norm, int64_t n, int64_t decayed,
                         AdamWStep step) {
    int64_t quads = n / 4;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, adamw_kernel<T, M>, gpu_blocks(gpu, THREADS, quads), THREADS, 0,
                            values, (float4 *)master, m, v, (const float4 *)grads, norm, quads,
                            decayed / 4, step));
}

void adamw_cuda(Gpu *gpu, DType dtype, void *values, float *master, float *m, float *v,
                const float *grads, const float *norm, int64_t n, int64_t decayed, AdamWStep step) {
    launch_adamw(gpu, dtype, values, master, m, v, grads, norm, n, decayed, step);
}

void adamw_bf16_cuda(Gpu *gpu, DType dtype, void *values, float *master, uint16_t *m, uint16_t *v,
                     const float *grads, const float *norm, int64_t n, int64_t decayed,
                     AdamWStep step) {
    launch_adamw(gpu, dtype, values, master, (__nv_bfloat16 *)m, (__nv_bfloat16 *)v, grads, norm, n,
                 decayed, step);
}
