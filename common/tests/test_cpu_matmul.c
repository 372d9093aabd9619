/*
 * The CPU's matrix product against its reference: every way that takes the sizes, however its
 * matrices lie, sizes that fill no tile, panel or block and sizes that fill several, results that
 * are added to; and that neither a cut nor the number of threads changes a bit.
 */
#include "common/core/cpu_matmul.h"
#include "common/program/testing.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { GAP = 5 }; /* numbers between the rows of C that belong to somebody else */

static const int64_t sizes[][3] = {{1, 1, 1},     {31, 33, 17},   {6, 16, 8},     {12, 32, 256},
                                   {127, 31, 33}, {17, 200, 257}, {50, 401, 31},  {200, 48, 600},
                                   {33, 1, 127},  {1, 127, 300},  {13, 192, 511}, {3, 5, 0},
                                   {64, 300, 97}, {2, 64, 40},    {160, 128, 530}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static float *numbers(int64_t n, uint64_t stream) {
    float *values = test_floats(n);
    for (int64_t i = 0; i < n; i++) values[i] = rng_normal(1, stream, (uint64_t)i);
    return values;
}

/* rows x columns, lying as it is or transposed */
static CpuMatrix matrix(const float *at, int64_t rows, int64_t columns, int transposed) {
    return transposed ? (CpuMatrix){at, 1, rows} : (CpuMatrix){at, columns, 1};
}

typedef enum Onto { NOTHING, ITSELF, ANOTHER, ONTO } Onto; /* what the product is added to */

/* C [m, n + GAP]: NaN where nothing may be written, and everywhere when it is not added to. */
static void check_one(const int64_t *size, int turn_a, int turn_b, Onto onto, int way) {
    int64_t m = size[0], n = size[1], k = size[2], row = n + GAP;
    float *a = numbers(m * k, 1), *b = numbers(k * n, 2), *c = numbers(m * row, 3);
    float *other = numbers(m * row, 4), *bases[ONTO] = {NULL, c, other};
    float *want = test_floats(m * row), *got = test_floats(m * n);
    CpuMatmul p = {c, bases[onto], row, matrix(a, m, k, turn_a), matrix(b, k, n, turn_b), m, n, k};
    CpuMatmul reference = p;
    reference.c = want;
    cpu_matmul_reference(&reference);
    for (int64_t i = 0; i < m; i++) {
        memmove(want + i * n, want + i * row, (size_t)n * sizeof *want);
        for (int64_t j = 0; j < row; j++)
            if (onto != ITSELF || j >= n) c[i * row + j] = NAN;
    }
    if (way < MATMUL_WAYS && cpu_matmul_takes(&p, way))
        cpu_matmul_by(way, &p);
    else
        cpu_matmul(&p);
    for (int64_t i = 0; i < m; i++) {
        memcpy(got + i * n, c + i * row, (size_t)n * sizeof *got);
        for (int64_t j = n; j < row; j++)
            cr_assert(isnan(c[i * row + j]), "%lld x %lld x %lld: written past the end of row %lld",
                      (long long)m, (long long)n, (long long)k, (long long)i);
    }
    /* The rounding of a sum of k products, in F32. */
    check_close("C", got, want, m * n, tolerance_of(F32, k + 1));
}

static void check_ways(int threads) {
    omp_set_num_threads(threads);
    for (int s = 0; s < SIZES; s++)
        for (int lie = 0; lie < 4 * ONTO; lie++)
            for (int way = 0; way <= MATMUL_WAYS; way++) /* the last: the one that is chosen */
                check_one(sizes[s], lie & 1, lie >> 1 & 1, lie >> 2, way);
}

Test(cpu_matmul, agrees_with_its_reference) { check_ways(1); }
Test(cpu_matmul, parts_make_the_whole) { check_ways(3); }

/* Rows and columns of C, computed alone in the same way and on several threads, have the same
 * bits. */
Test(cpu_matmul, a_piece_has_the_same_bits) {
    enum { M = 60, N = 224, K = 530 };
    float *a = numbers(M * K, 1), *b = numbers(K * N, 2);
    float *whole = test_floats(M * N), *piece = test_floats(M * N);
    static const int cuts[][4] = {
        {0, 60, 0, 224}, {3, 8, 5, 32}, {17, 43, 0, 208}, {50, 7, 160, 64}};
    for (int lie = 0; lie < 4; lie++)
        for (int way = 0; way < MATMUL_WAYS; way++) {
            CpuMatrix left = matrix(a, M, K, lie & 1), right = matrix(b, K, N, lie >> 1);
            CpuMatmul all = {whole, NULL, N, left, right, M, N, K};
            if (!cpu_matmul_takes(&all, way)) continue;
            omp_set_num_threads(1);
            cpu_matmul_by(way, &all);
            omp_set_num_threads(3);
            for (int i = 0; i < 4; i++) {
                int64_t row = cuts[i][0], rows = cuts[i][1], column = cuts[i][2],
                        columns = cuts[i][3];
                CpuMatrix some_rows = left, some_columns = right;
                some_rows.at += row * left.row, some_columns.at += column * right.column;
                cpu_matmul_by(way, &(CpuMatmul){piece, NULL, columns, some_rows, some_columns, rows,
                                                columns, K});
                for (int64_t r = 0; r < rows; r++)
                    cr_assert(!memcmp(piece + r * columns, whole + (row + r) * N + column,
                                      (size_t)columns * sizeof *piece),
                              "row %lld of piece %d, way %d, matrices lying %d", (long long)r, i,
                              way, lie);
            }
        }
}

/* Up to CPU_FEW_ROWS rows of the product that is chosen have the bits that each has alone. */
Test(cpu_matmul, a_row_of_a_few_has_the_bits_of_one_alone) {
    static const int64_t shapes[][2] = {{512, 128}, {33, 127}, {1000, 513}, {160, 512}, {48, 20}};
    float *a = numbers(CPU_FEW_ROWS * 600, 1), *b = numbers(1000 * 600, 2);
    float *base = numbers(CPU_FEW_ROWS * 1000, 3);
    float *many = test_floats(CPU_FEW_ROWS * 1000), *one = test_floats(1000);
    for (int s = 0; s < 5; s++)
        for (int lie = 0; lie < 4; lie++) /* B as it is or transposed; added to or not */
            for (int64_t m = 2; m <= CPU_FEW_ROWS; m++) {
                int64_t n = shapes[s][0], k = shapes[s][1];
                const float *onto = lie >> 1 ? base : NULL;
                CpuMatmul p = {many, onto, n, {a, k, 1}, matrix(b, k, n, lie & 1), m, n, k};
                cpu_matmul(&p);
                for (int64_t i = 0; i < m; i++) {
                    CpuMatmul row = p;
                    row.c = one, row.m = 1, row.a.at += i * k;
                    if (onto) row.base += i * n;
                    cpu_matmul(&row);
                    cr_assert(!memcmp(one, many + i * n, (size_t)n * sizeof *one),
                              "row %lld of %lld, n %lld, k %lld, lying %d", (long long)i,
                              (long long)m, (long long)n, (long long)k, lie);
                }
            }
}
