/*
 * The matrix product: most of the operations of training.
 *
 *     C = A B,    c_ij = sum_k a_ik b_kj        A [m, k], B [k, n], C [m, n], row-major
 *
 * It takes 2 m n k operations on (m k + k n + m n) numbers: at m = n = k = 4096 each number takes
 * part in over two thousand operations, so a processor can work at its peak, if each number it
 * fetches is used many times before it is dropped. That is the one idea behind every rung of the
 * two ladders below.
 *
 * Two things are here: the ladders (C = A B alone, so that they can be compared), and the product
 * in use: matmul_batched, OpenBLAS's or cuBLASLt's, with transposes, a batch and a scale, which is
 * what attention and its backward need.
 */
#ifndef MATMUL_H
#define MATMUL_H

#include "common/core/context.h"

__BEGIN_DECLS

/* ---- on the tape ---- */

/* c = a b           a [B, M, K], b [B, K, N] -> [B, M, N] */
Tensor *matmul(Context *ctx, Tensor *a, Tensor *b);

/* c = scale a b^T   a [B, M, K], b [B, N, K] -> [B, M, N] */
Tensor *matmul_transposed(Context *ctx, Tensor *a, Tensor *b, float scale);

/* ---- in use ----
 * C_i = scale op(A_i) op(B_i) (+ C_i if add) for i < batch. op(A) is [m, k]: A is stored [m, k], or
 * [k, m] when transpose_a; op(B) is [k, n]: B is stored [k, n], or [n, k] when transpose_b. On CUDA
 * A, B and C are of `dtype`, sums are F32. */
KERNEL(matmul_batched, Real *c, int add, const Real *a, int transpose_a, const Real *b,
       int transpose_b, int64_t batch, int64_t m, int64_t n, int64_t k, float scale);

/* ---- the ladder on the CPU: C = A B; the fourth rung is cpu_matmul() of common/core ---- */

KERNEL(matmul_naive, Real *c, const Real *a, const Real *b, int64_t m, int64_t n, int64_t k);
void matmul_ordered_cpu(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k);
void matmul_blocked_cpu(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k);

/* ---- the ladder on CUDA: C = A B, F32 or BF16; the last two BF16 only ---- */

__typeof__(matmul_naive_cuda) matmul_shared_cuda, matmul_registers_cuda;
/* Tensor cores by mma.sync. Needs sm_80: see matmul_tensor_available. */
__typeof__(matmul_naive_cuda) matmul_tensor_cuda;
/* Tensor cores by wgmma, fed by TMA. Needs sm_90 and n, k that are multiples of 8: see
 * matmul_hopper_available. */
__typeof__(matmul_naive_cuda) matmul_hopper_cuda;

int matmul_tensor_available(Gpu *gpu, DType dtype);
int matmul_hopper_available(Gpu *gpu, DType dtype, int64_t n, int64_t k);

__END_DECLS
#endif
