/*
 * What lies between a selection's latents and the model, on the GPU: rows put together and taken
 * apart, and the way back of the absorption, a product for each head by cuBLASLt, which reads and
 * writes every head where it lies. Sizes that are no whole pieces of 16 bytes take the plain
 * kernel.
 */
#include "04_mla/mla_selected.h"
#include "common/cuda/gpu_matmul.cuh"

enum { THREADS = 256 };

static bool of_16_bytes(const void *p) { return (uintptr_t)p % 16 == 0; }

/* c [batch, m, n] = or += op(a) b, by heads; distances in numbers. b is [k, n], or [n, k] when
 * transposed; a [m, k], or [k, m]. */
struct Product {
    bool transpose_a, transpose_b;
    int64_t batch, m, n, k, lda, ldb, ldc, stride_a, stride_b, stride_c;
    int add;
};

template <typename To, typename T>
__global__ void product_kernel(To *c, const T *a, const T *b, Product p) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.batch * p.m * p.n) return;
    int64_t column = i % p.n, row = i / p.n % p.m, h = i / p.n / p.m;
    float sum = 0.0f;
    for (int64_t l = 0; l < p.k; l++)
        sum +=
            to_float(a[h * p.stride_a + (p.transpose_a ? l * p.lda + row : row * p.lda + l)]) *
            to_float(b[h * p.stride_b + (p.transpose_b ? column * p.ldb + l : l * p.ldb + column)]);
    To *to = c + h * p.stride_c + row * p.ldc + column;
    *to = from_float<To>(p.add ? to_float(*to) + sum : sum);
}

static void multiply(Gpu *gpu, DType dtype, DType out, void *c, const void *a, const void *b,
                     Product p) {
    int64_t n = 16 / (int64_t)dtype_size(dtype), m = 16 / (int64_t)dtype_size(out);
    if (of_16_bytes(a) && of_16_bytes(b) && of_16_bytes(c) && p.lda % n == 0 && p.ldb % n == 0 &&
        p.stride_a % n == 0 && p.stride_b % n == 0 && p.ldc % m == 0 && p.stride_c % m == 0) {
        GpuMatmul x = gpu_product(dtype, out, p.transpose_a, p.transpose_b, p.m, p.n, p.k);
        x.lda = p.lda, x.ldb = p.ldb, x.ldc = p.ldc, x.batch = p.batch, x.beta = p.add ? 1 : 0;
        x.stride_a = p.stride_a, x.stride_b = p.stride_b, x.stride_c = p.stride_c;
        gpu_matmul(gpu, &x, c, a, b, NULL);
        return;
    }
    unsigned blocks = (unsigned)ceil_div(p.batch * p.m * p.n, THREADS);
    DTYPE_SWITCH(dtype, T, {
        if (out == F32)
            gpu_launch(gpu, product_kernel<float, T>, blocks, THREADS, 0, c, a, b, p);
        else
            gpu_launch(gpu, product_kernel<T, T>, blocks, THREADS, 0, c, a, b, p);
    });
}

/* ---- rows ---- */

/* to [rows, width] = or += `width` numbers of each row of `from`, from `first` on. */
template <typename T>
__global__ void columns_kernel(T *to, int64_t to_row, int add, const T *from, int64_t from_row,
                               int64_t rows, int width) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= rows * width) return;
    T *place = to + i / width * to_row + i % width;
    float x = to_float(from[i / width * from_row + i % width]);
    *place = from_float<T>(add ? to_float(*place) + x : x);
}

template <typename T>
static void columns(Gpu *gpu, T *to, int64_t to_row, int add, const T *from, int64_t from_row,
                    int64_t rows, int width) {
    if (rows * width > 0)
        gpu_launch(gpu, columns_kernel<T>, (unsigned)ceil_div(rows * width, THREADS), THREADS, 0,
                   to, to_row, add, from, from_row, rows, width);
}

void mla_latents_cuda(Gpu *gpu, DType dtype, void *latent, const void *c_kv, const void *k_rope,
                      int64_t rows, MlaShape s) {
    int64_t width = s.kv_lora_rank + s.rope;
    DTYPE_SWITCH(dtype, T, {
        columns(gpu, (T *)latent, width, 0, (const T *)c_kv, s.kv_lora_rank, rows, s.kv_lora_rank);
        columns(gpu, (T *)latent + s.kv_lora_rank, width, 0, (const T *)k_rope, s.rope, rows,
                s.rope);
    });
}

void mla_latents_backward_cuda(Gpu *gpu, DType dtype, void *dc_kv, int add_c, void *dk_rope,
                               int add_rope, const void *d_latent, int64_t rows, MlaShape s) {
    int64_t width = s.kv_lora_rank + s.rope;
    DTYPE_SWITCH(dtype, T, {
        const T *from = (const T *)d_latent;
        if (dc_kv)
            columns(gpu, (T *)dc_kv, s.kv_lora_rank, add_c, from, width, rows, s.kv_lora_rank);
        if (dk_rope)
            columns(gpu, (T *)dk_rope, s.rope, add_rope, from + s.kv_lora_rank, width, rows,
                    s.rope);
    });
}

/* ---- absorption ---- */

static const void *behind(const void *p, DType dtype, int64_t numbers) {
    return (const char *)p + numbers * (int64_t)dtype_size(dtype);
}

void mla_absorb_query_backward_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, float *dkv_b,
                                    int add_w, const void *dq_absorbed, const void *q,
                                    const void *kv_b, int64_t rows, MlaShape s) {
    int64_t H = s.heads, qk = s.nope + s.rope, rank = s.kv_lora_rank, width = rank + s.rope;
    int64_t head = (s.nope + s.v) * rank; /* of kv_b */
    if (dq) {                             /* dq_nope = dq' W_uk^T, and the rope part as it is */
        Product p = {false, true, H, rows, s.nope, rank, H * width, rank, H * qk, width, head, qk};
        p.add = add_q;
        multiply(gpu, dtype, dtype, dq, dq_absorbed, kv_b, p);
        DTYPE_SWITCH(dtype, T,
                     columns(gpu, (T *)dq + s.nope, qk, add_q, (const T *)dq_absorbed + rank, width,
                             rows * H, s.rope));
    }
    if (dkv_b) { /* dW_uk = q_nope^T dq' */
        Product p = {true, false, H, s.nope, rank, rows, H * qk, H * width, rank, qk, width, head};
        p.add = add_w;
        multiply(gpu, dtype, F32, dkv_b, q, dq_absorbed, p);
    }
}

void mla_absorb_output_backward_cuda(Gpu *gpu, DType dtype, void *do_latent, float *dkv_b,
                                     int add_w, const void *d_o, const void *o_latent,
                                     const void *kv_b, int64_t rows, MlaShape s) {
    int64_t H = s.heads, rank = s.kv_lora_rank, head = (s.nope + s.v) * rank;
    Product p = {false, false, H, rows, rank, s.v, H * s.v, rank, H * rank, s.v, head, rank};
    multiply(gpu, dtype, dtype, do_latent, d_o, behind(kv_b, dtype, s.nope * rank), p);
    if (!dkv_b) return;
    p = {true, false, H, s.v, rank, rows, H * s.v, H * rank, rank, s.v, rank, head};
    p.add = add_w; /* dW_uv = do^T o' */
    multiply(gpu, dtype, F32, dkv_b + s.nope * rank, d_o, o_latent, p);
}
