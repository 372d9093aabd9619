/*
 * FP8 on CUDA: which kernel a product takes, and the plain ones, which take any size.
 */
#include "08_quant/cuda/fp8_codes.cuh"
#include "08_quant/fp8_rungs.h"

enum { THREADS = 256 };

struct Plain {
    const uint8_t *a, *b;
    const float *a_scale, *b_scale;
    const int32_t *offsets; /* NULL: one expert, who has all rows */
    int64_t rows, n, k, a_stride;
    int experts;
};

/* d = a b^T, a thread for a number. What limits: every product loads two bytes. */
template <typename T> __global__ void fp8_plain_kernel(T *d, const T *base, Plain p) {
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x, row = i / p.n, col = i % p.n;
    int64_t end = p.offsets ? p.offsets[p.experts] : p.rows, steps = fp8_blocks(p.k);
    if (row >= end) return;
    int e = 0;
    while (p.offsets && row >= p.offsets[e + 1]) e++;
    const uint8_t *a = p.a + row * p.k, *b = p.b + (e * p.n + col) * p.k;
    const float *b_scale = p.b_scale + (e * fp8_blocks(p.n) + col / FP8_STEP) * steps;
    float sum = 0;
    for (int64_t step = 0; step < steps; step++) {
        float product = 0;
        for (int64_t k = step * FP8_STEP; k < min((step + 1) * FP8_STEP, p.k); k++)
            product += of_code(a[k]) * of_code(b[k]);
        sum += p.a_scale[step * p.a_stride + row] * b_scale[step] * product;
    }
    d[i] = from_float<T>(sum + (base ? to_float(base[i]) : 0));
}

/* dw_e = dy_e^T x_e, a thread for a number of dw. */
__global__ void fp8_weight_plain_kernel(float *dw, int add, Plain p, int64_t padded,
                                        int64_t b_stride) {
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x, col = i % p.n, row = i / p.n;
    if (row >= p.rows) return;
    for (int64_t e = 0, first = 0; e < p.experts; e++) { /* in blocks of 128 tokens */
        int64_t count = fp8_blocks(p.offsets ? p.offsets[e + 1] - p.offsets[e] : p.k);
        float sum = 0;
        for (int64_t step = first; step < first + count; step++) {
            float product = 0;
            for (int64_t k = step * FP8_STEP; k < (step + 1) * FP8_STEP; k++)
                product += of_code(p.a[row * padded + k]) * of_code(p.b[col * padded + k]);
            sum += p.a_scale[step * p.a_stride + row] * p.b_scale[step * b_stride + col] * product;
        }
        float *to = dw + (e * p.rows + row) * p.n + col;
        *to = add ? *to + sum : sum;
        first += count;
    }
}

static void plain(Gpu *gpu, DType dtype, void *d, const void *base, Plain p) {
    if (!p.rows || !p.n) return;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, fp8_plain_kernel<T>, (unsigned)ceil_div(p.rows * p.n, THREADS),
                            THREADS, 0, (T *)d, (const T *)base, p));
}

void fp8_product_plain_cuda(Gpu *gpu, DType dtype, void *d, const void *base, const uint8_t *a,
                            const float *a_scale, const uint8_t *b, const float *b_scale, int64_t m,
                            int64_t n, int64_t k) {
    plain(gpu, dtype, d, base, {a, b, a_scale, b_scale, NULL, m, n, k, fp8_scale_stride(m), 1});
}

void fp8_grouped_plain_cuda(Gpu *gpu, DType dtype, void *y, const void *base, const uint8_t *x,
                            const float *x_scale, const uint8_t *w, const float *w_scale,
                            const int32_t *offsets, GroupedShape s) {
    plain(gpu, dtype, y, base,
          {x, w, x_scale, w_scale, offsets, s.rows, s.out, s.in, fp8_scale_stride(s.rows),
           s.experts});
}

void fp8_weight_plain_cuda(Gpu *gpu, DType dtype, float *dw, int add, const uint8_t *dy_t,
                           const float *dy_scale, const uint8_t *x_t, const float *x_scale,
                           const int32_t *offsets, GroupedShape s) {
    (void)dtype;
    int64_t count = s.out * s.in, padded = fp8_padded_rows(s.rows, offsets ? s.experts : 1);
    if (!count) return;
    Plain p = {dy_t,
               x_t,
               dy_scale,
               x_scale,
               offsets,
               s.out,
               s.in,
               s.rows,
               fp8_scale_stride(s.out),
               offsets ? s.experts : 1};
    gpu_launch(gpu, fp8_weight_plain_kernel, (unsigned)ceil_div(count, THREADS), THREADS, 0, dw,
               add, p, padded, fp8_scale_stride(s.in));
}

/* ---- in use: the fastest rung that takes this dtype, these sizes and this GPU ---- */

void fp8_product_cuda(Gpu *gpu, DType dtype, void *d, const void *base, const uint8_t *a,
                      const float *a_scale, const uint8_t *b, const float *b_scale, int64_t m,
                      int64_t n, int64_t k) {
    __typeof__(&fp8_product_cuda) rung =
        fp8_hopper_available(gpu, dtype, n, k) ? fp8_product_persistent_cuda
        : fp8_mma_available(gpu, dtype, n, k)  ? fp8_product_mma_cuda
                                               : fp8_product_plain_cuda;
    rung(gpu, dtype, d, base, a, a_scale, b, b_scale, m, n, k);
}

void fp8_grouped_cuda(Gpu *gpu, DType dtype, void *y, const void *base, const uint8_t *x,
                      const float *x_scale, const uint8_t *w, const float *w_scale,
                      const int32_t *offsets, GroupedShape s) {
    __typeof__(&fp8_grouped_cuda) rung = fp8_hopper_available(gpu, dtype, s.out, s.in)
                                             ? fp8_grouped_persistent_cuda
                                             : fp8_grouped_plain_cuda;
    rung(gpu, dtype, y, base, x, x_scale, w, w_scale, offsets, s);
}

void fp8_weight_cuda(Gpu *gpu, DType dtype, float *dw, int add, const uint8_t *dy_t,
                     const float *dy_scale, const uint8_t *x_t, const float *x_scale,
                     const int32_t *offsets, GroupedShape s) {
    __typeof__(&fp8_weight_cuda) rung =
        fp8_weight_hopper_available(gpu, s) ? fp8_weight_hopper_cuda : fp8_weight_plain_cuda;
    rung(gpu, dtype, dw, add, dy_t, dy_scale, x_t, x_scale, offsets, s);
}
