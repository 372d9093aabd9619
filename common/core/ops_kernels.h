/*
 * The kernels of the common operations (ops.h), for those who write operations of their own.
 *
 * KERNEL() declares x_cpu(...) and x_cuda(gpu, dtype, ...), and ON(ctx, x, ...) calls one of them
 * (gpu.h). F32 where float * is written, numbers of `dtype` where Real * is.
 */
#ifndef COMMON_OPS_KERNELS_H
#define COMMON_OPS_KERNELS_H

#include "common/core/ops.h"

__BEGIN_DECLS

/* The definitions, in double precision: y = base + x W^T + b (base and bias may be NULL), and all
 * three gradients, overwritten. */
void linear_reference_cpu(float *y, const float *base, const float *x, const float *w,
                          const float *bias, int64_t rows, int64_t in, int64_t out);
void linear_backward_reference_cpu(float *dx, float *dw, float *dbias, const float *dy,
                                   const float *x, const float *w, int64_t rows, int64_t in,
                                   int64_t out);
KERNEL(linear_forward, Real *y, const Real *x, const Real *w, const Real *bias, int64_t rows,
       int64_t in, int64_t out);
KERNEL(linear_onto_forward, Real *y, const Real *base, const Real *x, const Real *w,
       const Real *bias, int64_t rows, int64_t in, int64_t out);
/* dx = dy W; dw = dy^T x (F32, from rows); dbias = column sums of dy (F32) */
KERNEL(linear_backward, Real *dx, int add_x, float *dw, int add_w, float *dbias, int add_bias,
       const Real *dy, const Real *x, const Real *w, int64_t rows, int64_t in, int64_t out);
KERNEL(add, Real *y, const Real *a, const Real *b, int64_t n);
KERNEL(accumulate, Real *y, const Real *x, int64_t n, int add); /* y = x, or y += x */
/* y [rows, count] = columns from .. from + count - 1 of x [rows, width] */
KERNEL(slice_forward, Real *y, const Real *x, int64_t rows, int64_t width, int64_t from,
       int64_t count);
/* The way back. Overwriting (add 0) also clears the columns outside. */
KERNEL(slice_backward, Real *dx, int add, const Real *dy, int64_t rows, int64_t width, int64_t from,
       int64_t count);
/* y [rows, wa + wb] = [a | b];   a [rows, wa], b [rows, wb] */
KERNEL(concat_forward, Real *y, const Real *a, const Real *b, int64_t rows, int64_t wa, int64_t wb);
/* The way back; da or db may be NULL. */
KERNEL(concat_backward, Real *da, int add_a, Real *db, int add_b, const Real *dy, int64_t rows,
       int64_t wa, int64_t wb);
KERNEL(rmsnorm_forward, Real *y, float *rstd, const Real *x, const Real *w, int64_t rows, int64_t d,
       float eps);
/* scratch: F32 [RMSNORM_CHUNKS, d] ([RMSNORM_BLOCKS, d] on CUDA), parts of dw that are summed in a
 * fixed order */
enum { RMSNORM_CHUNKS = 64, RMSNORM_BLOCKS = 512 };
KERNEL(rmsnorm_backward, Real *dx, int add_x, float *dw, int add_w, float *scratch, const Real *dy,
       const Real *x, const Real *w, const float *rstd, int64_t rows, int64_t d);
KERNEL(silu_forward, Real *y, const Real *x, int64_t n);
KERNEL(silu_backward, Real *dx, int add_x, const Real *dy, const Real *x, int64_t n);
KERNEL(swiglu_forward, Real *y, const Real *gate, const Real *up, int64_t n);
KERNEL(swiglu_backward, Real *dgate, int add_gate, Real *dup, int add_up, const Real *dy,
       const Real *gate, const Real *up, int64_t n);
KERNEL(embedding_forward, Real *y, const Real *table, const int32_t *ids, int64_t rows, int64_t d,
       int64_t vocab);
/* scratch: I32 [vocab + 1 + 3 * rows]: rows sorted by id, so that each table row is summed in a
 * fixed order */
KERNEL(embedding_backward, float *dtable, int add, int32_t *scratch, const Real *dy,
       const int32_t *ids, int64_t rows, int64_t d, int64_t vocab);
/* losses, lse: F32 [rows]; loss: F32 [2] = mean, number of rows counted */
KERNEL(cross_entropy_forward, float *loss, float *losses, float *lse, const Real *logits,
       const int32_t *targets, int64_t rows, int64_t vocab);
/* logits -> their gradient, times *dloss */
KERNEL(cross_entropy_backward, Real *logits, const float *dloss, const float *loss,
       const float *lse, const int32_t *targets, int64_t rows, int64_t vocab);
/* A sample is a row of the first of several dimensions, `each` elements. Number i of the stream's
 * blocks (sample + b) << 32 on is that of element i of row b: the same wherever a sample stands. */
typedef struct DropoutMask {
    uint64_t seed, stream, sample;
    int64_t each;
    float p;
} DropoutMask;
KERNEL(dropout, Real *y, int add, const Real *x, int64_t n, DropoutMask mask);
/* out[0] = scale * sum x[i] * (c ? c[i] : 1); scratch: F32 [SUM_CHUNKS] */
enum { SUM_CHUNKS = 256 };
KERNEL(sum_forward, float *out, float *scratch, const Real *x, const float *c, int64_t n,
       float scale);
KERNEL(sum_backward, Real *dx, int add, const float *dout, const float *c, int64_t n, float scale);

/*
 * linear_cross_entropy's two halves, on CUDA. w, x, dx and dw as for linear(); padded_w [width, in]
 * is w with zeros behind (w itself when width is vocab), made by the forward for both. With
 * `gradient`, logits [rows, width] become the loss' gradient by them in the forward already, which
 * the backward multiplies by *dloss where that is not 1.
 */
void linear_cross_entropy_forward_cuda(Gpu *gpu, DType dtype, float *loss, float *losses,
                                       void *logits, int gradient, void *padded_w, const void *x,
                                       const void *w, const int32_t *targets, int64_t rows,
                                       int64_t in, int64_t vocab, int64_t width);
void linear_cross_entropy_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw,
                                        int add_w, void *dlogits, const void *padded_w,
                                        const float *dloss, const void *x, int64_t rows, int64_t in,
                                        int64_t vocab, int64_t width);

__END_DECLS
#endif
