/*
 * The grouped product: many matrices, one after the other in memory, each with its own rows.
 *
 *     Y_e = X_e W_e^T        for every expert e;  X_e = rows offsets[e] .. offsets[e+1] - 1 of x
 *
 * The rows arrive sorted by expert (dispatch.h), so an expert's tokens are one matrix and its work
 * is a plain product. How many rows each expert got is known on the device alone: the kernels read
 * offsets there, and are launched for the most work there can be. An expert without rows costs
 * nothing. Rows from offsets[E] on (tokens that were dropped) are neither read nor written.
 *
 * W is [E, out, in]: each expert's weight as linear() has it.
 */
#ifndef GROUPED_H
#define GROUPED_H

#include "common/core/context.h"

__BEGIN_DECLS

/* x [R, in], w [E, out, in], offsets I32 [E + 1] on ctx's device -> [R, out], on the tape */
Tensor *grouped_linear(Context *ctx, Tensor *x, Tensor *w, const Tensor *offsets);

/* silu(x W_gate^T) * (x W_up^T) in one product of twice the width: x [R, in],
 * gate, up [E, inner, in] -> [R, inner], on the tape */
Tensor *grouped_swiglu(Context *ctx, Tensor *x, Tensor *gate, Tensor *up, const Tensor *offsets);

typedef struct GroupedShape {
    int64_t rows;    /* R: rows of x and y, an upper bound of offsets[E] */
    int64_t in, out; /* of one expert */
    int experts;
} GroupedShape;

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* The definition, in double precision, expert by expert: y = x W^T, and both gradients,
 * overwritten. Rows past offsets[E]: those of y stay, those of dx become zero. */
void grouped_reference_cpu(float *y, const float *x, const float *w, const int32_t *offsets,
                           GroupedShape shape);
void grouped_backward_reference_cpu(float *dx, float *dw, const float *dy, const float *x,
                                    const float *w, const int32_t *offsets, GroupedShape shape);
/* y = x W^T, expert by expert */
KERNEL(grouped_forward, Real *y, const Real *x, const Real *w, const int32_t *offsets,
       GroupedShape shape);
/* dx = (or +=) dy W, expert by expert; rows past offsets[E] become zero when overwriting */
KERNEL(grouped_backward_input, Real *dx, int add, const Real *dy, const Real *w,
       const int32_t *offsets, GroupedShape shape);
/* grouped_swiglu's way back to x: dx = (or +=) dg W_gate + du W_up, dg and du [R, out] */
KERNEL(grouped_swiglu_backward_input, Real *dx, int add, const Real *dg, const Real *gate,
       const Real *du, const Real *up, const int32_t *offsets, GroupedShape shape);
/* dw_e = (or +=) dy_e^T x_e, F32; zero for an expert without rows when overwriting */
KERNEL(grouped_backward_weight, float *dw, int add, const Real *dy, const Real *x,
       const int32_t *offsets, GroupedShape shape);
/* h [R, out] = silu(g) * u, g = x W_gate^T, u = x W_up^T; g and u [R, out] are kept for backward;
 * NULL when there will be none, but the CPU needs u to work in */
KERNEL(grouped_swiglu_forward, Real *h, Real *g, Real *u, const Real *x, const Real *gate,
       const Real *up, const int32_t *offsets, GroupedShape shape);

__END_DECLS
#endif
