/*
 * Products of whole numbers: x in INT8, by the groups that the weight has.
 *
 *     y[r, i] = sum over groups g of  scale_w[i, g] scale_x[r, g]  sum over j of q[i, j] a[r, j]
 *
 * a = x / scale_x rounded, scale_x = max |x| / 127 in the group: as the weight's own codes, but
 * made when the product is. The inner sums are of whole numbers and exact, four products to a lane
 * in one instruction; one multiplication for each group makes a number of them. So a weight is read
 * as it lies, at an eighth or a fourth of F32's bytes, which is what decoding waits for.
 *
 * The instruction (VNNI's vpdpbusd) multiplies unsigned bytes with signed ones. The weight's codes
 * are the unsigned ones: q + 128, or q + 8. What that adds, 128 or 8 times the sum of a over the
 * group, does not depend on the weight: it is taken off once for all rows of W, by beginning each
 * sum at `shift`.
 */
#ifndef QUANTISED_INT8_H
#define QUANTISED_INT8_H

#include "08_quant/quantised.h"

__BEGIN_DECLS

/* Rows of x as codes. A row has, for I4, all numbers that meet low four bits in the order of the
 * weight's bytes, and then all that meet high ones; zeros behind each. */
typedef struct QuantisedRows {
    int8_t *codes;
    float *scale;                      /* of each group; of groups that are not there: 0 */
    int32_t *shift;                    /* -128 or -8 times the sum of a group's codes */
    int64_t code_row, part, scale_row; /* from one row to the next; from low to high */
} QuantisedRows;

/* Can it be: U8 or I4, rows so short that no sum of products is too large for 32 bits? */
bool quantised_int8_takes(const QuantisedMatrix *w);

/* x [rows, in], rows x_row apart, in ctx's arena. */
QuantisedRows quantised_rows(Context *ctx, const float *x, int64_t x_row, int64_t rows,
                             const QuantisedMatrix *w);

/* Rows first, first + step, ... of those. */
QuantisedRows quantised_rows_from(QuantisedRows x, int64_t first, int64_t step);

/* The definition: p->x is quantised, number by number; sums in double precision. */
void quantised_int8_reference_cpu(const QuantisedProduct *p);

/* The product on one core. p->x is not looked at, but x, which has p->rows rows. */
void quantised_int8_cpu(const QuantisedProduct *p, QuantisedRows x);

__END_DECLS
#endif
