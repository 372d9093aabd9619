/*
 * The product for small models against plain loops: every way its matrices may lie, sizes that fill
 * no tile, panel or block and sizes that fill several, results that are added to; and that it may
 * be cut anywhere.
 */
#include "common/core/product.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 5 }; /* numbers between the rows of C that belong to somebody else */

static const int64_t sizes[][3] = {{1, 1, 1},     {31, 33, 17},   {6, 16, 8},     {12, 32, 256},
                                   {127, 31, 33}, {17, 200, 257}, {50, 401, 31},  {200, 48, 600},
                                   {33, 1, 127},  {1, 127, 300},  {13, 192, 511}, {3, 5, 0}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static float *numbers(int64_t n, uint64_t stream) {
    float *values = test_floats(n);
    for (int64_t i = 0; i < n; i++) values[i] = rng_normal(1, stream, (uint64_t)i);
    return values;
}

/* rows x columns, lying as it is or transposed */
static Matrix matrix(const float *at, int64_t rows, int64_t columns, int transposed) {
    return transposed ? (Matrix){at, 1, rows} : (Matrix){at, columns, 1};
}

static float element(Matrix m, int64_t i, int64_t j) { return m.at[i * m.row + j * m.column]; }

typedef enum Onto { NOTHING, ITSELF, ANOTHER, WAYS } Onto; /* what the product is added to */

/* C [m, n + GAP]: NaN where nothing may be written, and everywhere when it is not added to. */
static void check_one(const int64_t *size, int turn_a, int turn_b, Onto onto, int parts) {
    int64_t m = size[0], n = size[1], k = size[2], row = n + GAP;
    float *a = numbers(m * k, 1), *b = numbers(k * n, 2), *c = numbers(m * row, 3);
    float *other = numbers(m * row, 4), *bases[WAYS] = {NULL, c, other}, *base = bases[onto];
    float *want = test_floats(m * n), *got = test_floats(m * n);
    Product p = {c, base, row, matrix(a, m, k, turn_a), matrix(b, k, n, turn_b), m, n, k};
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < row; j++) {
            double sum = base ? base[i * row + j] : 0;
            if (j < n) {
                for (int64_t q = 0; q < k; q++)
                    sum += (double)element(p.a, i, q) * element(p.b, q, j);
                want[i * n + j] = (float)sum;
            }
            if (onto != ITSELF || j >= n) c[i * row + j] = NAN;
        }
    for (int i = 0; i < parts; i++) {
        Product part = product_part(&p, i, parts);
        product(&part);
    }
    for (int64_t i = 0; i < m; i++) {
        memcpy(got + i * n, c + i * row, (size_t)n * sizeof *got);
        for (int64_t j = n; j < row; j++)
            cr_assert(isnan(c[i * row + j]), "%lld x %lld x %lld: written past the end of row %lld",
                      (long long)m, (long long)n, (long long)k, (long long)i);
    }
    /* The rounding of a sum of k products, in F32. */
    check_close("C", got, want, m * n, tolerance_of(F32, k + 1));
}

Test(product, agrees_with_plain_loops) {
    for (int s = 0; s < SIZES; s++)
        for (int way = 0; way < 4 * WAYS; way++)
            check_one(sizes[s], way & 1, way >> 1 & 1, way >> 2, 1);
}

Test(product, parts_make_the_whole) {
    for (int s = 0; s < SIZES; s++)
        for (int way = 0; way < 4 * WAYS; way++)
            check_one(sizes[s], way & 1, way >> 1 & 1, way >> 2, 3);
}

/* Rows and columns of C, computed alone, have the same bits: threads cannot change results. */
Test(product, a_piece_has_the_same_bits) {
    enum { M = 127, N = 211, K = 530 };
    float *a = numbers(M * K, 1), *b = numbers(K * N, 2);
    float *whole = test_floats(M * N), *piece = test_floats(M * N);
    static const int cuts[][4] = {
        {0, 1, 0, 1}, {3, 8, 5, 21}, {17, 110, 1, 210}, {120, 7, 150, 61}};
    for (int turns = 0; turns < 4; turns++) {
        Matrix left = matrix(a, M, K, turns & 1), right = matrix(b, K, N, turns >> 1);
        product(&(Product){whole, NULL, N, left, right, M, N, K});
        for (int i = 0; i < 4; i++) {
            int64_t row = cuts[i][0], rows = cuts[i][1], column = cuts[i][2], columns = cuts[i][3];
            Matrix some_rows = left, some_columns = right;
            some_rows.at += row * left.row, some_columns.at += column * right.column;
            product(&(Product){piece, NULL, columns, some_rows, some_columns, rows, columns, K});
            for (int64_t r = 0; r < rows; r++)
                cr_assert(!memcmp(piece + r * columns, whole + (row + r) * N + column,
                                  (size_t)columns * sizeof *piece),
                          "row %lld of piece %d, matrices lying %d", (long long)r, i, turns);
        }
    }
}
