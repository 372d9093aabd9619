/*
 * Matrix products by cuBLASLt, in row-major terms: what linear() runs on, and the yardstick of the
 * kernel ladders.
 */
#ifndef COMMON_GPU_MATMUL_CUH
#define COMMON_GPU_MATMUL_CUH

#include "common/cuda/gpu.cuh"

typedef struct GpuMatmul {
    DType dtype;      /* of A and B: F32 (true F32, no TF32) or BF16; sums are F32 */
    DType out_dtype;  /* of C */
    bool transpose_a; /* A is [M, K], or [K, M] when transposed */
    bool transpose_b; /* B is [K, N], or [N, K] when transposed */
    int64_t m, n, k;
    int64_t lda, ldb, ldc;                /* elements between rows as stored */
    int64_t batch;                        /* how many products; 1 for one */
    int64_t stride_a, stride_b, stride_c; /* elements between the products' matrices */
    float alpha, beta;                    /* C = alpha A B + beta C */
    bool bias;                            /* add a row vector (of out_dtype) to every row of C */
} GpuMatmul;

/* C (of out_dtype) = A B, whole matrices without gaps: what most callers want, and the rest start
 * from. */
static inline GpuMatmul gpu_product(DType dtype, DType out_dtype, bool transpose_a,
                                    bool transpose_b, int64_t m, int64_t n, int64_t k) {
    GpuMatmul p = {};
    p.dtype = dtype, p.out_dtype = out_dtype;
    p.transpose_a = transpose_a, p.transpose_b = transpose_b;
    p.m = m, p.n = n, p.k = k;
    p.lda = transpose_a ? m : k, p.ldb = transpose_b ? k : n, p.ldc = n;
    p.batch = 1, p.alpha = 1;
    return p;
}

/* C = alpha op(A) op(B) + beta C (+ bias); each begins at a multiple of 16 bytes, or of what its
 * rows begin at. Plans are kept in the Gpu, so that a product seen before only costs its launch. */
void gpu_matmul(Gpu *gpu, const GpuMatmul *product, void *c, const void *a, const void *b,
                const void *bias);

/* The same with the C of `beta C` elsewhere: C = alpha op(A) op(B) + beta base (+ bias). */
void gpu_matmul_onto(Gpu *gpu, const GpuMatmul *product, void *c, const void *base, const void *a,
                     const void *b, const void *bias);

#endif
