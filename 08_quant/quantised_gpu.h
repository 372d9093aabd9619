/*
 * Products with quantised weights on the GPU.
 *
 * Three ways to compute the same product, and one place that chooses (quantised_gpu.c):
 *
 *     plain        a warp takes a number of y, makes numbers of its row's codes and sums up in F32:
 *                  every dtype, kind, block and size
 *     few rows     common/cuda/few_rows_codes.cuh: codes go straight to the tensor cores. Up to
 *                  FEW_ROWS rows in BF16, where few_rows_supports() says so; twice as many in two
 *                  turns
 *     many rows    the weight as numbers in the arena, for the length of one product, and the
 *                  product of ordinary weights: a prompt is a matter of operations, not of bytes
 *
 * A weight takes the same way for every number of rows up to FEW_ROWS, and on either of the first
 * two a row's bits do not depend on the others.
 */
#ifndef QUANTISED_GPU_H
#define QUANTISED_GPU_H

#include "common/core/quantised.h"
#include "common/cuda/few_rows.h"

__BEGIN_DECLS

/* The table of quantised.h on a GPU, whatever is asked for on the CPU: activations stay as they
 * are. Without CUDA nobody calls it. */
extern const QuantisedProducts quantised_on_gpu;

/* ---- kernels ---- */

/* As few_rows_weight(), but blocks may be of any size: of a weight [out, in] or [E, out, in]. */
typedef struct QuantisedCodes {
    const void *codes;
    const float *scale;
    DType dtype;
    int block_out, block_in;
    int64_t out, in, scales, scale_rows; /* of each of the E */
} QuantisedCodes;
QuantisedCodes quantised_codes(const Tensor *w);

/* The plain rung. y = base + x W^T + bias, base and bias may be NULL; with offsets [experts + 1]
 * row n of x meets the expert e that has offsets[e] <= n < offsets[e + 1], if there is one. */
typedef struct QuantisedPlain {
    void *y;
    const void *base, *x, *bias;
    const int32_t *offsets; /* NULL: w is one matrix */
    int experts;
    int64_t rows;
    QuantisedCodes w;
} QuantisedPlain;
void quantised_plain_cuda(Gpu *gpu, DType dtype, const QuantisedPlain *p);

/* Rows first .. first + count - 1 of w as [E out, in]: to [count, in] of dtype. The fast one takes
 * what few_rows_weight_supports(w, BF16) does, and writes BF16. */
void quantised_numbers_cuda(Gpu *gpu, DType dtype, void *to, const QuantisedCodes *w, int64_t first,
                            int64_t count);
void quantised_numbers_fast_cuda(Gpu *gpu, void *to, const FewRowsWeight *w, int64_t first,
                                 int64_t count);

__END_DECLS
#endif
