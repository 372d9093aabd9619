/*
 * The kernels of the common operations (ops.h), for those who write operations of their own.
 *
 * x_cpu(...) and x_cuda(gpu, dtype, ...) have the same arguments in the same order, and ON(ctx, x,
 * ...) picks one (gpu.h). On the CPU every T * is a float *; on CUDA it is float * or bf16 *, by
 * dtype. F32 where float * is written.
 */
#ifndef COMMON_OPS_KERNELS_H
#define COMMON_OPS_KERNELS_H

#include "common/core/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The definitions, in double precision: y = base + x W^T + b (base and bias may be NULL), and all
 * three gradients, overwritten. */
void linear_reference_cpu(float *y, const float *base, const float *x, const float *w,
                          const float *bias, int64_t rows, int64_t in, int64_t out);
void linear_backward_reference_cpu(float *dx, float *dw, float *dbias, const float *dy,
                                   const float *x, const float *w, int64_t rows, int64_t in,
                                   int64_t out);
void linear_forward_cpu(float *y, const float *x, const float *w, const float *bias, int64_t rows,
                        int64_t in, int64_t out);
void linear_onto_forward_cpu(float *y, const float *base, const float *x, const float *w,
                             const float *bias, int64_t rows, int64_t in, int64_t out);
/* dx = dy W; dw = dy^T x (F32, from rows); dbias = column sums of dy (F32) */
void linear_backward_cpu(float *dx, int add_x, float *dw, int add_w, float *dbias, int add_bias,
                         const float *dy, const float *x, const float *w, int64_t rows, int64_t in,
                         int64_t out);
void add_cpu(float *y, const float *a, const float *b, int64_t n);
void accumulate_cpu(float *y, const float *x, int64_t n, int add); /* y = x, or y += x */
/* y [rows, count] = columns from .. from + count - 1 of x [rows, width] */
void slice_forward_cpu(float *y, const float *x, int64_t rows, int64_t width, int64_t from,
                       int64_t count);
/* The way back. Overwriting (add 0) also clears the columns outside. */
void slice_backward_cpu(float *dx, int add, const float *dy, int64_t rows, int64_t width,
                        int64_t from, int64_t count);
/* y [rows, wa + wb] = [a | b];   a [rows, wa], b [rows, wb] */
void concat_forward_cpu(float *y, const float *a, const float *b, int64_t rows, int64_t wa,
                        int64_t wb);
/* The way back; da or db may be NULL. */
void concat_backward_cpu(float *da, int add_a, float *db, int add_b, const float *dy, int64_t rows,
                         int64_t wa, int64_t wb);
void rmsnorm_forward_cpu(float *y, float *rstd, const float *x, const float *w, int64_t rows,
                         int64_t d, float eps);
/* scratch: F32 [RMSNORM_CHUNKS, d] ([RMSNORM_BLOCKS, d] on CUDA), parts of dw that are summed in a
 * fixed order */
enum { RMSNORM_CHUNKS = 64, RMSNORM_BLOCKS = 512 };
void rmsnorm_backward_cpu(float *dx, int add_x, float *dw, int add_w, float *scratch,
                          const float *dy, const float *x, const float *w, const float *rstd,
                          int64_t rows, int64_t d);
void silu_forward_cpu(float *y, const float *x, int64_t n);
void silu_backward_cpu(float *dx, int add_x, const float *dy, const float *x, int64_t n);
void swiglu_forward_cpu(float *y, const float *gate, const float *up, int64_t n);
void swiglu_backward_cpu(float *dgate, int add_gate, float *dup, int add_up, const float *dy,
                         const float *gate, const float *up, int64_t n);
void embedding_forward_cpu(float *y, const float *table, const int32_t *ids, int64_t rows,
                           int64_t d, int64_t vocab);
/* scratch: I32 [vocab + 1 + 3 * rows]: rows sorted by id, so that each table row is summed in a
 * fixed order */
void embedding_backward_cpu(float *dtable, int add, int32_t *scratch, const float *dy,
                            const int32_t *ids, int64_t rows, int64_t d, int64_t vocab);
/* losses, lse: F32 [rows]; loss: F32 [2] = mean, number of rows counted */
void cross_entropy_forward_cpu(float *loss, float *losses, float *lse, const float *logits,
                               const int32_t *targets, int64_t rows, int64_t vocab);
/* logits -> their gradient, times *dloss */
void cross_entropy_backward_cpu(float *logits, const float *dloss, const float *loss,
                                const float *lse, const int32_t *targets, int64_t rows,
                                int64_t vocab);
void dropout_cpu(float *y, int add, const float *x, int64_t n, float p, uint64_t seed,
                 uint64_t stream);
/* out[0] = scale * sum x[i] * (c ? c[i] : 1); scratch: F32 [SUM_CHUNKS] */
enum { SUM_CHUNKS = 256 };
void sum_forward_cpu(float *out, float *scratch, const float *x, const float *c, int64_t n,
                     float scale);
void sum_backward_cpu(float *dx, int add, const float *dout, const float *c, int64_t n,
                      float scale);

#ifdef WITH_CUDA
void linear_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *x, const void *w,
                         const void *bias, int64_t rows, int64_t in, int64_t out);
void linear_onto_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *base, const void *x,
                              const void *w, const void *bias, int64_t rows, int64_t in,
                              int64_t out);
void linear_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw, int add_w,
                          float *dbias, int add_bias, const void *dy, const void *x, const void *w,
                          int64_t rows, int64_t in, int64_t out);
void add_cuda(Gpu *gpu, DType dtype, void *y, const void *a, const void *b, int64_t n);
void accumulate_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t n, int add);
void slice_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t rows, int64_t width,
                        int64_t from, int64_t count);
void slice_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dy, int64_t rows,
                         int64_t width, int64_t from, int64_t count);
void concat_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *a, const void *b, int64_t rows,
                         int64_t wa, int64_t wb);
void concat_backward_cuda(Gpu *gpu, DType dtype, void *da, int add_a, void *db, int add_b,
                          const void *dy, int64_t rows, int64_t wa, int64_t wb);
void rmsnorm_forward_cuda(Gpu *gpu, DType dtype, void *y, float *rstd, const void *x, const void *w,
                          int64_t rows, int64_t d, float eps);
void rmsnorm_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw, int add_w,
                           float *scratch, const void *dy, const void *x, const void *w,
                           const float *rstd, int64_t rows, int64_t d);
void silu_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t n);
void silu_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, const void *dy, const void *x,
                        int64_t n);
void swiglu_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *gate, const void *up,
                         int64_t n);
void swiglu_backward_cuda(Gpu *gpu, DType dtype, void *dgate, int add_gate, void *dup, int add_up,
                          const void *dy, const void *gate, const void *up, int64_t n);
void embedding_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *table, const int32_t *ids,
                            int64_t rows, int64_t d, int64_t vocab);
void embedding_backward_cuda(Gpu *gpu, DType dtype, float *dtable, int add, int32_t *scratch,
                             const void *dy, const int32_t *ids, int64_t rows, int64_t d,
                             int64_t vocab);
void cross_entropy_forward_cuda(Gpu *gpu, DType dtype, float *loss, float *losses, float *lse,
                                const void *logits, const int32_t *targets, int64_t rows,
                                int64_t vocab);
void cross_entropy_backward_cuda(Gpu *gpu, DType dtype, void *logits, const float *dloss,
                                 const float *loss, const float *lse, const int32_t *targets,
                                 int64_t rows, int64_t vocab);
/*
 * linear_cross_entropy's two halves. w, x, dx and dw as for linear(); padded_w [width, in] is w
 * with zeros behind (w itself when width is vocab), made by the forward for both. With `gradient`,
 * logits [rows, width] become the loss' gradient by them in the forward already, which the backward
 * multiplies by *dloss where that is not 1.
 */
void linear_cross_entropy_forward_cuda(Gpu *gpu, DType dtype, float *loss, float *losses,
                                       void *logits, int gradient, void *padded_w, const void *x,
                                       const void *w, const int32_t *targets, int64_t rows,
                                       int64_t in, int64_t vocab, int64_t width);
void linear_cross_entropy_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw,
                                        int add_w, void *dlogits, const void *padded_w,
                                        const float *dloss, const void *x, int64_t rows, int64_t in,
                                        int64_t vocab, int64_t width);
void dropout_cuda(Gpu *gpu, DType dtype, void *y, int add, const void *x, int64_t n, float p,
                  uint64_t seed, uint64_t stream);
void sum_forward_cuda(Gpu *gpu, DType dtype, float *out, float *scratch, const void *x,
                      const float *c, int64_t n, float scale);
void sum_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add, const float *dout, const float *c,
                       int64_t n, float scale);
#endif

#ifdef __cplusplus
}
#endif
#endif
