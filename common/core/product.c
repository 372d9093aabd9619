#include "common/core/product.h"

#include "common/core/transpose8.h"

#include <string.h>

/* ROWS x 2 vectors of C stay in registers, with two of B and one of A: 27 of 32, or 15 of 16. */
#ifdef __AVX512F__
enum { LANES = 16, ROWS = 12 };
#else
enum { LANES = 8, ROWS = 6 };
#endif
enum { PANEL = 2 * LANES }; /* columns of B that lie together, row by row */
/* Blocks: DEPTH x WIDTH of B is packed at a time, for half of a second-level cache; of a transposed
 * A, DEPTH x HEIGHT. */
enum { DEPTH = 256, WIDTH = 256, HEIGHT = 8 * ROWS };
enum { LEAST_ROWS = 2 * ROWS, LEAST_COLUMNS = 2 * PANEL }; /* of a part */

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));

/* A block of A and a row of C's tiles; b is packed. */
typedef struct Tile {
    float *c;
    const float *base, *a, *b;
    int64_t c_row, a_row, a_column, depth;
    int columns; /* how many of PANEL exist */
} Tile;

/* [tile] */
/* rows is a constant wherever this is called, so that sum lives in registers. */
static inline __attribute__((always_inline)) void tile(const Tile *t, const int rows) {
    Vector sum[ROWS][2];
    for (int i = 0; i < rows; i++) sum[i][0] = sum[i][1] = (Vector){0};
    for (int i = 0; i < rows; i++) /* C is not in the cache yet, and will be needed at the end */
        for (int v = 0; v < 2; v++) __builtin_prefetch(t->c + i * t->c_row + v * LANES, 1);
    const float *a = t->a, *b = t->b;
    for (int64_t k = 0; k < t->depth; k++, a += t->a_column, b += PANEL) {
        Vector left = *(const Vector *)b, right = *(const Vector *)(b + LANES);
        for (int i = 0; i < rows; i++) {
            sum[i][0] += a[i * t->a_row] * left;
            sum[i][1] += a[i * t->a_row] * right;
        }
    }
    if (t->columns == PANEL) {
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < 2; v++) {
                int64_t at = i * t->c_row + v * LANES;
                if (t->base) sum[i][v] += *(const Vector *)(t->base + at);
                *(Vector *)(t->c + at) = sum[i][v];
            }
        return;
    }
    for (int i = 0; i < rows; i++) /* the ragged edge, number by number */
        for (int j = 0; j < t->columns; j++) {
            int64_t at = i * t->c_row + j;
            float s = ((const float *)sum[i])[j];
            t->c[at] = t->base ? t->base[at] + s : s;
        }
}
/* [/tile] */

/* `rows` rows of A with all panels of the block of B, width columns of C. */
static inline __attribute__((always_inline)) void sweep(Tile t, const int rows, int64_t width) {
    for (int64_t j = 0; j < width; j += PANEL) {
        t.columns = width - j < PANEL ? (int)(width - j) : PANEL;
        tile(&t, rows);
        t.b += PANEL * t.depth;
        t.c += PANEL;
        if (t.base) t.base += PANEL;
    }
}

static void block(Tile t, int64_t rows, int64_t width) {
    for (int64_t i = 0, count; i < rows; i += count) {
        count = rows - i >= ROWS ? ROWS : rows - i >= 4 ? 4 : rows - i >= 2 ? 2 : 1;
        if (count == ROWS)
            sweep(t, ROWS, width);
        else if (count == 4)
            sweep(t, 4, width);
        else if (count == 2)
            sweep(t, 2, width);
        else
            sweep(t, 1, width);
        t.a += count * t.a_row;
        t.c += count * t.c_row;
        if (t.base) t.base += count * t.c_row;
    }
}

/*
 * A block of B in panels, [width / PANEL][depth][PANEL]; zeros where there are no more columns. Row
 * by row, or eight columns at a time: as B lies in memory.
 */
static void pack(float *to, Matrix b, int64_t depth, int64_t width) {
    int64_t whole = width / PANEL * PANEL, done = b.column == 1 ? depth : depth / 8 * 8;
    for (int64_t k = 0; k < depth && b.column == 1; k++)
        for (int64_t j = 0; j < whole; j += PANEL)
            memcpy(to + j * depth + k * PANEL, b.at + k * b.row + j, PANEL * sizeof *to);
    for (int64_t j = 0; j < whole && b.column != 1; j += 8)
        for (int64_t k = 0; k < done; k += 8)
            transpose8(to + j / PANEL * PANEL * depth + k * PANEL + j % PANEL, PANEL,
                       b.at + j * b.column + k, b.column);
    for (int64_t j = 0; j < width; j += PANEL) /* what is left: deeper rows, and the ragged edge */
        for (int64_t k = j < whole ? done : 0; k < depth; k++)
            for (int64_t i = j; i < j + PANEL; i++)
                to[j * depth + k * PANEL + i - j] = i < width ? b.at[k * b.row + i * b.column] : 0;
}

/* to[k][i] for i < HEIGHT: some columns of a transposed A. gcc would see a memcpy() for each k in
 * it, and for so few numbers the call takes longer than the copy. */
__attribute__((optimize("no-tree-loop-distribute-patterns"))) static void copy_columns(
    float *to, const float *a, int64_t a_column, int64_t depth, int64_t rows) {
    for (int64_t k = 0; k < depth; k++, to += HEIGHT, a += a_column) {
        int64_t i = 0;
        for (; i + LANES <= rows; i += LANES) *(Vector *)(to + i) = *(const Vector *)(a + i);
        for (; i < rows; i++) to[i] = a[i];
    }
}

/* All rows of C from column j on, `width` of them, and `depth` terms of the sums from k on. */
static void multiply_block(const Product *p, float *packed, int64_t j, int64_t width, int64_t k,
                           int64_t depth) {
    Matrix b = p->b;
    b.at += k * b.row + j * b.column;
    pack(packed, b, depth, width);
    float copy[DEPTH * HEIGHT];
    const float *base = k ? p->c : p->base;
    Tile t = {.b = packed, .c_row = p->c_row, .depth = depth};
    t.a_row = p->a.row, t.a_column = p->a.column;
    int64_t step = p->a.column == 1 ? p->m : HEIGHT;
    for (int64_t i = 0; i < p->m; i += step) {
        int64_t rows = p->m - i < step ? p->m - i : step;
        t.a = p->a.at + i * p->a.row + k * p->a.column;
        t.c = p->c + i * p->c_row + j;
        t.base = base ? base + i * p->c_row + j : NULL;
        if (p->a.column != 1) { /* its rows lie far apart: those of a block are brought together */
            copy_columns(copy, t.a, p->a.column, depth, rows);
            t.a = copy, t.a_row = 1, t.a_column = HEIGHT;
        }
        block(t, rows, width);
    }
}

void product(const Product *p) {
    _Alignas(64) float packed[DEPTH * (WIDTH + PANEL)];
    for (int64_t i = 0; i < p->m && p->k == 0; i++) /* the sum of nothing */
        for (int64_t j = 0, at = i * p->c_row; j < p->n; j++, at++)
            p->c[at] = p->base ? p->base[at] : 0;
    int64_t blocks = (p->k + DEPTH - 1) / DEPTH; /* of nearly the same depth */
    for (int64_t i = 0; i < blocks; i++) {
        int64_t k = i * p->k / blocks, depth = (i + 1) * p->k / blocks - k;
        for (int64_t j = 0; j < p->n; j += WIDTH)
            multiply_block(p, packed, j, p->n - j < WIDTH ? p->n - j : WIDTH, k, depth);
    }
}

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

/* Rows are cut if there are more of them than columns: then less is copied twice. */
Product product_part(const Product *p, int i, int parts) {
    Product part = *p;
    int by_rows = p->m >= p->n;
    int64_t total = by_rows ? p->m : p->n, unit = by_rows ? ROWS : PANEL;
    int64_t size = (total + parts - 1) / parts, least = by_rows ? LEAST_ROWS : LEAST_COLUMNS;
    size = ((size > least ? size : least) + unit - 1) / unit * unit;
    int64_t first = min(i * size, total), count = min(size, total - first);
    if (by_rows) {
        part.a.at += first * p->a.row, part.m = count;
    } else {
        part.b.at += first * p->b.column, part.n = count;
    }
    int64_t at = by_rows ? first * p->c_row : first;
    part.c += at;
    if (part.base) part.base += at;
    return part;
}
