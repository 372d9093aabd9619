#include "05_moe/unpacked.h"

#include <string.h>

/* The widest registers there are: 32 of 16 numbers, or 16 of 8. A tile of C and a row of B fit. */
#ifdef __AVX512F__
enum { LANES = 16, VECTORS = 4 };
#else
enum { LANES = 8, VECTORS = 2 };
#endif
enum { ROWS = 6, PANEL = LANES * VECTORS };
enum { AHEAD = 16 }; /* rows of B that are asked for before they are needed */
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

/* What one tile needs; a, b and c point at its corner. */
typedef struct Tile {
    float *c;
    const float *a, *b;
    int64_t ldc, a_row, a_column, ldb, k;
    int add;
} Tile;

/* [tile] */
/*
 * rows and vectors are constants wherever this is called, so that acc lives in registers. Weights
 * come from memory, not from a cache, and in pieces too short for the hardware to see a pattern: so
 * what is needed next is asked for here. That is worth a tenth of the time.
 */
static inline __attribute__((always_inline)) void tile(const Tile *t, int rows, int vectors) {
    Vector acc[ROWS][VECTORS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) acc[i][v] = (Vector){0};
    for (int i = 0; i < rows; i++) /* C is not in the cache yet, and will be needed at the end */
        for (int v = 0; v < vectors; v++) __builtin_prefetch(t->c + i * t->ldc + v * LANES, 1);
    const float *a = t->a, *b = t->b;
    for (int64_t k = 0; k < t->k; k++, a += t->a_column, b += t->ldb) {
        if (t->a_column == 1 && k % 16 == 0) /* A's rows for the next tile */
            for (int i = 0; i < rows; i++) __builtin_prefetch(a + (ROWS + i) * t->a_row);
        Vector row[VECTORS];
        for (int v = 0; v < vectors; v++) __builtin_prefetch(b + AHEAD * t->ldb + v * LANES);
        for (int v = 0; v < vectors; v++) row[v] = *(const Vector *)(b + v * LANES);
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++) acc[i][v] += a[i * t->a_row] * row[v];
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) {
            Vector *c = (Vector *)(t->c + i * t->ldc + v * LANES);
            if (t->add) acc[i][v] += *c;
            *c = acc[i][v];
        }
}
/* [/tile] */

/* All row tiles of one panel of `vectors` vectors. */
static inline __attribute__((always_inline)) void panel(Tile t, int64_t m, int vectors) {
    for (int64_t i = 0; i < m; i += ROWS) {
        switch (m - i) {
        case 1:
            tile(&t, 1, vectors);
            break;
        case 2:
            tile(&t, 2, vectors);
            break;
        case 3:
            tile(&t, 3, vectors);
            break;
        case 4:
            tile(&t, 4, vectors);
            break;
        case 5:
            tile(&t, 5, vectors);
            break;
        default:
            tile(&t, 6, vectors);
        }
        t.a += ROWS * t.a_row;
        t.c += ROWS * t.ldc;
    }
}

void unpacked_product(float *c, int64_t ldc, int add, const float *a, int64_t a_row,
                      int64_t a_column, const float *b, int64_t ldb, int64_t m, int64_t n,
                      int64_t k) {
    Tile t = {c, a, b, ldc, a_row, a_column, ldb, k, add};
    int64_t j = 0;
    for (; j + PANEL <= n; j += PANEL, t.b += PANEL, t.c += PANEL) panel(t, m, VECTORS);
    for (; j + LANES <= n; j += LANES, t.b += LANES, t.c += LANES) panel(t, m, 1);
    for (; j < n; j++) /* the ragged end */
        for (int64_t i = 0; i < m; i++) {
            float sum = 0;
            for (int64_t p = 0; p < k; p++) sum += a[i * a_row + p * a_column] * b[p * ldb + j];
            c[i * ldc + j] = add ? c[i * ldc + j] + sum : sum;
        }
}

/* Blocks of the turned x, [DEPTH, PANEL], and of the turned y, [WIDTH, PANEL]: a quarter of an
 * L2. */
enum { DEPTH = 512, WIDTH = 512 };

void unpacked_forward(float *y, int64_t ldy, const float *x, const float *w, int64_t rows,
                      int64_t columns, int64_t in) {
    float turned[DEPTH * PANEL], block[WIDTH * PANEL];
    for (int64_t r = 0; r < rows; r += PANEL) {
        int64_t count = rows - r < PANEL ? rows - r : PANEL;
        int64_t lanes = (count + LANES - 1) / LANES * LANES;
        for (int64_t p = 0; p < in; p += DEPTH) {
            int64_t depth = in - p < DEPTH ? in - p : DEPTH;
            if (count < lanes) memset(turned, 0, (size_t)(depth * PANEL) * sizeof *turned);
            for (int64_t i = 0; i < count; i++)
                for (int64_t q = 0; q < depth; q++) turned[q * PANEL + i] = x[(r + i) * in + p + q];
            for (int64_t j = 0; j < columns; j += WIDTH) {
                int64_t width = columns - j < WIDTH ? columns - j : WIDTH;
                unpacked_product(block, PANEL, 0, w + j * in + p, in, 1, turned, PANEL, width,
                                 lanes, depth);
                for (int64_t i = 0; i < count; i++) {
                    float *to = y + (r + i) * ldy + j;
                    for (int64_t q = 0; q < width; q++)
                        to[q] = (p ? to[q] : 0) + block[q * PANEL + i];
                }
            }
        }
    }
}
