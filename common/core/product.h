/*
 * A matrix product on one core, for the matrices of small models:   C = A B, or C = base + A B
 *
 * OpenBLAS copies both matrices into the order that its kernel likes, clears C, and multiplies. For
 * matrices of a thousand rows and columns that costs nothing beside the product. A small model's
 * have a hundred or two, and then it is a sixth of the time; half of it where the gradient of a
 * weight [64, 128] is cut into pieces for the threads, each of which copies all activations. Here
 * only B is copied; A is read where it lies or, when it is transposed, through straight copies of a
 * few columns; and C is written once. (Two cores of an AMD EPYC (Zen 1), all products of a training
 * step of chapter 10's nano: 200 ms of processor time instead of 231. From 1024 x 1024 x 1024 on
 * OpenBLAS is the faster one, by 4 %.)
 *
 * Invariant: an element of C is a sum over k in one order, which follows from k alone. So a product
 * may be cut among threads in any way, and the bits stay the same.
 */
#ifndef COMMON_PRODUCT_H
#define COMMON_PRODUCT_H

#include <stdint.h>

/* Element (i, j) is at[i * row + j * column]. Either row or column is 1. */
typedef struct Matrix {
    const float *at;
    int64_t row, column;
} Matrix;

typedef struct Product {
    float *c;          /* [m, n], rows of contiguous numbers, c_row apart */
    const float *base; /* like c, may be c itself; NULL: zeros */
    int64_t c_row;
    Matrix a, b; /* [m, k], [k, n] */
    int64_t m, n, k;
} Product;

void product(const Product *p);

/* Part i of `parts`, nearly equal and possibly empty: a block of C's rows or of its columns. */
Product product_part(const Product *p, int i, int parts);

#endif
