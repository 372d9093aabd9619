/*
 * Products with quantised weights: what stands behind the door of common/core/quantised.h.
 *
 *     y = base + x W^T + bias,      W[i, j] = scale[i / block_out, j / block_in] * q[i, j]
 *
 * Two tables of products, which differ in what they do to x:
 *
 *     quantised_weight_only   x as it is. Codes become numbers and are multiplied as such: the
 *                             results are those of the dequantised weight but for the order of sums
 *     quantised_products      fast. On the CPU x is quantised too where W is in U8 or I4
 *                             (quantised_int8.h), but for rows with outliers that would have one
 *                             scale
 *
 * Invariant: up to CPU_FEW_ROWS rows, a row's bits do not depend on the others, nor on how many
 * there are, nor on the threads. (Chapter 06 looks at several rows where plain decoding looks at
 * one, and must find the same numbers in them.)
 */
#ifndef QUANTISED_TABLES_H
#define QUANTISED_TABLES_H

#include "common/core/quantised.h"

__BEGIN_DECLS

extern const QuantisedProducts quantised_products, quantised_weight_only;

/* ---- kernels ---- */

/* A matrix of codes. */
typedef struct QuantisedMatrix {
    DType dtype;
    int block_out, block_in;
    int64_t out, in, scale_row; /* scales of a row of blocks */
    const uint8_t *codes;       /* [out, in] */
    const float *scale;         /* [ceil(out / block_out), scale_row] */
} QuantisedMatrix;

/* Expert e of a weight [E, out, in]; of one that is [out, in], 0. */
QuantisedMatrix quantised_matrix(const Tensor *w, int64_t e);

typedef struct QuantisedProduct {
    float *y;          /* [rows, out], rows y_row apart */
    const float *base; /* like y, may be y itself; NULL: zeros */
    const float *x;    /* [rows, in], rows x_row apart */
    int64_t y_row, x_row, rows;
    QuantisedMatrix w;
    int64_t first, count; /* columns of y, which are rows of w */
} QuantisedProduct;

/* The definition: one number of W, as F32 has it, and y = base + x W^T, summed in double
 * precision. */
float quantised_number(const QuantisedMatrix *w, int64_t i, int64_t j);
void quantised_reference_cpu(const QuantisedProduct *p);

/* Rows first .. first + count - 1 of W as numbers: to [count, in]. */
void quantised_numbers_cpu(float *to, const QuantisedMatrix *w, int64_t first, int64_t count);

/* y = base + x W^T on one core, x as it is: by panels of numbers, which takes any number of rows;
 * or with numbers in registers, for a few, if groups are made of whole vectors. Up to CPU_FEW_ROWS
 * rows both are, to the bit, cpu_matmul() of the numbers. */
void quantised_panels_cpu(const QuantisedProduct *p);
void quantised_few_rows_cpu(const QuantisedProduct *p);
bool quantised_few_rows_takes(const QuantisedMatrix *w);

/* The other way round, y [rows, in] = x [rows, count] times rows first .. first + count - 1 of W,
 * for a few rows of x; base and out have no part in it. */
void quantised_turned_cpu(const QuantisedProduct *p);
bool quantised_turned_takes(const QuantisedMatrix *w);

__END_DECLS
#endif
