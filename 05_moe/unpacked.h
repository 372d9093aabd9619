/*
 * A matrix product for few rows: B is read where it lies.
 *
 * OpenBLAS first copies both matrices into tiles that its kernel likes, and product() copies B. For
 * large matrices that costs nothing beside the product; for an expert with 64 tokens the weight is
 * copied for 64 rows' work. Here neither is copied: rows of B are loaded as vectors,
 * numbers of A are broadcast, and a block of C of 6 rows and 4 vectors stays in registers.
 */
#ifndef UNPACKED_H
#define UNPACKED_H

#include <stdint.h>

/* Up to so many rows this is faster than cblas_sgemm (05_moe/bench) and than product(). */
enum { UNPACKED_MAX_ROWS = 160 };

/*
 * C [m, n] = (or +=) A B. A's element (i, k) is a[i * a_row + k * a_column], so A may be
 * transposed; B [k, n] and C [m, n] have rows of contiguous numbers, ldb and ldc apart.
 */
void unpacked_product(float *c, int64_t ldc, int add, const float *a, int64_t a_row,
                      int64_t a_column, const float *b, int64_t ldb, int64_t m, int64_t n,
                      int64_t k);

/* y [rows, columns] = x W^T: x [rows, in], w [columns, in] contiguous, rows of y ldy apart. Here it
 * is x that is transposed, 64 rows at a time, and C is the product's transpose. */
void unpacked_forward(float *y, int64_t ldy, const float *x, const float *w, int64_t rows,
                      int64_t columns, int64_t in);

#endif
