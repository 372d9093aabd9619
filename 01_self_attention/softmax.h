/*
 * Softmax: any row of numbers becomes a row of positive weights that sum to 1.
 *
 *     y_j = exp(x_j - m) / sum_k exp(x_k - m),      m = max_k x_k
 *
 * Subtracting m changes nothing in exact arithmetic (numerator and denominator shrink by the same
 * factor) and everything in floating point: the largest exponent is 0, so nothing overflows, and
 * the sum is at least 1, so nothing divides by 0.
 *
 * Backward. dy_j/dx_k = y_j (delta_jk - y_k), hence  dx_k = y_k (dy_k - sum_j dy_j y_j): the output
 * is all that has to be kept.
 *
 * A row with a NaN or with nothing but -inf gives NaN, as in PyTorch. An element of -inf gives
 * exactly 0.
 */
#ifndef SOFTMAX_H
#define SOFTMAX_H

#include "common/core/context.h"

__BEGIN_DECLS

/* y = softmax(x) over the last dimension     x [..., D] -> [..., D] */
Tensor *softmax(Context *ctx, Tensor *x);

/* ---- kernels; y may be x ---- */

/* The reference: the formula, term by term, summed in double. */
void softmax_reference_forward_cpu(float *y, const float *x, int64_t rows, int64_t cols);
void softmax_reference_backward_cpu(float *dx, int add, const float *dy, const float *y,
                                    int64_t rows, int64_t cols);

/* In use: rows over threads, columns over SIMD lanes. */
KERNEL(softmax_forward, Real *y, const Real *x, int64_t rows, int64_t cols);
KERNEL(softmax_backward, Real *dx, int add, const Real *dy, const Real *y, int64_t rows,
       int64_t cols);

/* The ladder on CUDA; softmax_forward_cuda picks the rung by the length of a row. */
__typeof__(softmax_forward_cuda) softmax_naive_cuda, softmax_warp_cuda, softmax_online_cuda,
    softmax_registers_cuda;

__END_DECLS
#endif
