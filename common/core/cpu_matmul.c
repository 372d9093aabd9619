/*
 * The ways of cpu_matmul.h, from the plainest on, and the choice among them at the end.
 *
 * Both tiled ways hold a block of C in vector registers over many k, and for each k multiply some
 * numbers of A, broadcast, with a row of B's block. Unpacked, that row is read where B has it: best
 * where few rows of A would use the copy, or B is so narrow that its rows share cache lines with
 * their neighbours. Packed, blocks of B are first copied into the order in which the tile reads.
 */
#include "common/core/cpu_matmul.h"

#include "common/core/lanes.h"
#include "common/core/transpose8.h"

#include <omp.h>
#include <stdbool.h>
#include <string.h>

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- the definition ---- */

void cpu_matmul_reference(const CpuMatmul *p) {
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            double sum = p->base ? p->base[i * p->c_row + j] : 0;
            for (int64_t k = 0; k < p->k; k++)
                sum += (double)p->a.at[i * p->a.row + k * p->a.column] *
                       p->b.at[k * p->b.row + j * p->b.column];
            p->c[i * p->c_row + j] = (float)sum;
        }
}

/* ---- vectors ---- */

/* 12 x 2 of them hold C, with two of B and one of A: 27 of 32 registers, or half of the rows and 15
 * of 16. Unpacked it is 6 x 4, so each visit to a row of B reads more of it. */
#ifdef __AVX512F__
enum { ROWS = 12, VECTORS = 4 };
#else
enum { ROWS = 6, VECTORS = 2 };
#endif
enum { PANEL = 2 * LANES }; /* columns of a packed B that lie together, row by row */
enum { UNPACKED_ROWS = 6 };

/* ---- dot products: B is read once, as it lies ----
 * Four columns of B (rows of a weight [out, in]) with up to DOT_ROWS of A: their sums are in
 * registers, each lane has every LANES-th term, and the lanes are added at the end, in pairs.
 * Whatever tile a sum is in, its terms and their order are the same. */

static void put(const CpuMatmul *p, int64_t i, int64_t j, float sum) {
    int64_t at = i * p->c_row + j;
    p->c[at] = p->base ? p->base[at] + sum : sum;
}

#ifdef __AVX512F__
enum { DOT_ROWS = 6 }; /* at most: 24 sums, 6 of A and one of B in 32 registers */
#else
enum { DOT_ROWS = 3 }; /* 12, 3 and 1 in 16 */
#endif
enum { DOT_COLUMNS = 4, DOT_STEP = DOT_ROWS < 4 ? DOT_ROWS : 4 };

/*
 * Rows i .. i + rows - 1 with `columns` columns from j on. Past B's last column that comes again,
 * and its sum is thrown away. The columns after the next are asked for, unless another block of
 * rows has done so: the rows of a weight are too short for the hardware to run ahead.
 */
static inline __attribute__((always_inline)) void dot_tile(const CpuMatmul *p, int64_t i, int64_t j,
                                                           const int rows, const int columns) {
    const float *x = p->a.at + i * p->a.row, *w[DOT_COLUMNS];
    Vector sum[DOT_ROWS][4] = {0}; /* with fewer columns the rest stays zero */
    int64_t k = 0, depth = p->k, there = p->n - j;
    for (int c = 0; c < columns; c++) w[c] = p->b.at + min(j + c, p->n - 1) * p->b.column;
    for (; k + LANES <= depth; k += LANES) {
        Vector x_k[DOT_ROWS];
        for (int r = 0; r < rows; r++) x_k[r] = *(const Vector *)(x + r * p->a.row + k);
        for (int c = 0; c < columns; c++) {
            Vector w_k = *(const Vector *)(w[c] + k);
            if (rows > 1 && i == 0) __builtin_prefetch(w[c] + k + 2 * DOT_COLUMNS * p->b.column);
            for (int r = 0; r < rows; r++) sum[r][c] += w_k * x_k[r];
        }
    }
    for (int r = 0; r < rows && k < depth; r++)
        for (int c = 0; c < columns; c++)
            sum[r][c] +=
                first_lanes(w[c] + k, depth - k) * first_lanes(x + r * p->a.row + k, depth - k);
    for (int r = 0; r < rows; r++) {
        Quarter total = add_lanes(sum[r]);
        for (int c = 0; c < columns && c < there; c++) put(p, i + r, j + c, total[c]);
    }
}

static void dots(const CpuMatmul *p) {
    enum { LARGE = 1 << 22 }; /* numbers of B that no cache holds: one stream is read fastest */
    bool one_stream = p->m == 1 && p->n * p->k > LARGE;
    for (int64_t j = 0; j < p->n && one_stream; j++) dot_tile(p, 0, j, 1, 1);
    for (int64_t j = 0; j < p->n && !one_stream; j += DOT_COLUMNS) {
        int64_t i = 0;
        for (; p->m - i > DOT_ROWS; i += DOT_STEP) dot_tile(p, i, j, DOT_STEP, DOT_COLUMNS);
        if (p->m - i == 6) dot_tile(p, i, j, DOT_ROWS < 6 ? 1 : 6, DOT_COLUMNS);
        if (p->m - i == 5) dot_tile(p, i, j, DOT_ROWS < 5 ? 1 : 5, DOT_COLUMNS);
        if (p->m - i == 4) dot_tile(p, i, j, DOT_ROWS < 4 ? 1 : 4, DOT_COLUMNS);
        if (p->m - i == 3) dot_tile(p, i, j, 3, DOT_COLUMNS);
        if (p->m - i == 2) dot_tile(p, i, j, 2, DOT_COLUMNS);
        if (p->m - i == 1) dot_tile(p, i, j, 1, DOT_COLUMNS);
    }
}

/* ---- the tile ---- */

/* What a tile needs; the pointers are at its corner. */
typedef struct Tile {
    float *c;
    const float *base, *a, *b;
    int64_t c_row, a_row, a_column, b_row, depth;
    int columns; /* how many of the tile's exist */
} Tile;

/*
 * rows, vectors and unpacked are constants wherever this is called, so that sum lives in registers.
 * Unpacked, B comes from memory, in pieces too short for the hardware to see a pattern: so what is
 * needed next is asked for here. That is worth a tenth of the time.
 */
static inline __attribute__((always_inline)) void tile(const Tile *t, const int rows,
                                                       const int vectors, const int unpacked) {
    enum { AHEAD = 16 }; /* rows of B that are asked for before they are needed */
    Vector sum[ROWS][VECTORS];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) sum[i][v] = (Vector){0};
    for (int i = 0; i < rows; i++) /* C is not in the cache yet, and will be needed at the end */
        for (int v = 0; v < vectors; v++) __builtin_prefetch(t->c + i * t->c_row + v * LANES, 1);
    const float *a = t->a, *b = t->b;
    for (int64_t k = 0; k < t->depth; k++, a += t->a_column, b += t->b_row) {
        if (unpacked && t->a_column == 1 && k % 16 == 0) /* A's rows for the next tile */
            for (int i = 0; i < rows; i++) __builtin_prefetch(a + (rows + i) * t->a_row);
        Vector row[VECTORS];
        for (int v = 0; v < vectors && unpacked; v++)
            __builtin_prefetch(b + AHEAD * t->b_row + v * LANES);
        for (int v = 0; v < vectors; v++) row[v] = *(const Vector *)(b + v * LANES);
        for (int i = 0; i < rows; i++) /* unrolled: every sum[i][v] is a register */
            for (int v = 0; v < vectors; v++) sum[i][v] += a[i * t->a_row] * row[v];
    }
    if (t->columns == vectors * LANES) {
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++) {
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

/* To the tile `rows` further down, or `columns` to the right. */
static inline void step_down(Tile *t, int64_t rows) {
    t->a += rows * t->a_row, t->c += rows * t->c_row;
    if (t->base) t->base += rows * t->c_row;
}

static inline void step_right(Tile *t, int64_t columns, int64_t b) {
    t->b += b, t->c += columns;
    if (t->base) t->base += columns;
}

/* ---- unpacked: panel by panel of B, all rows of A with each ---- */

static inline __attribute__((always_inline)) void unpacked_panel(Tile t, int64_t m,
                                                                 const int vectors) {
    t.columns = vectors * LANES;
    for (; m >= UNPACKED_ROWS; m -= UNPACKED_ROWS, step_down(&t, UNPACKED_ROWS))
        tile(&t, UNPACKED_ROWS, vectors, 1);
    if (m == 5) tile(&t, 5, vectors, 1);
    if (m == 4) tile(&t, 4, vectors, 1);
    if (m == 3) tile(&t, 3, vectors, 1);
    if (m == 2) tile(&t, 2, vectors, 1);
    if (m == 1) tile(&t, 1, vectors, 1);
}

static void unpacked(const CpuMatmul *p) {
    enum { WIDE = VECTORS * LANES };
    Tile t = {p->c, p->base, p->a.at, p->b.at, p->c_row, p->a.row, p->a.column, p->b.row, p->k, 0};
    int64_t n = p->n;
    for (; n >= WIDE; n -= WIDE, step_right(&t, WIDE, WIDE)) unpacked_panel(t, p->m, VECTORS);
    for (; n > 0; n -= LANES, step_right(&t, LANES, LANES)) unpacked_panel(t, p->m, 1);
}

/* ---- packed: blocks of B are copied first (Goto & van de Geijn 2008) ---- */

/* Blocks: DEPTH x WIDTH of B is packed at a time, for half of a second-level cache; of a transposed
 * A, DEPTH x HEIGHT. */
enum { DEPTH = 256, WIDTH = 256, HEIGHT = 8 * ROWS };

/* `rows` rows of A with all panels of the block of B, width columns of C. */
static inline __attribute__((always_inline)) void sweep(Tile t, const int rows, int64_t width) {
    for (int64_t j = 0; j < width; j += PANEL, step_right(&t, PANEL, PANEL * t.depth)) {
        t.columns = (int)min(PANEL, width - j);
        tile(&t, rows, 2, 0);
    }
}

static void block(Tile t, int64_t rows, int64_t width) {
    for (int64_t count; rows > 0; rows -= count, step_down(&t, count)) {
        count = rows >= ROWS ? ROWS : rows >= 8 ? 8 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
        if (count == ROWS)
            sweep(t, ROWS, width);
        else if (count == 8)
            sweep(t, ROWS < 8 ? 1 : 8, width); /* (with six rows there is never this case) */
        else if (count == 4)
            sweep(t, 4, width);
        else if (count == 2)
            sweep(t, 2, width);
        else
            sweep(t, 1, width);
    }
}

/*
 * A block of B in panels, [width / PANEL][depth][PANEL]; zeros where there are no more columns. Row
 * by row, or eight columns at a time: as B lies in memory.
 */
static void pack(float *to, CpuMatrix b, int64_t depth, int64_t width) {
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
static void multiply_block(const CpuMatmul *p, float *panels, int64_t j, int64_t width, int64_t k,
                           int64_t depth) {
    CpuMatrix b = p->b;
    b.at += k * b.row + j * b.column;
    pack(panels, b, depth, width);
    float copy[DEPTH * HEIGHT];
    const float *base = k ? p->c : p->base;
    Tile t = {p->c + j,
              base ? base + j : NULL,
              p->a.at + k * p->a.column,
              panels,
              p->c_row,
              p->a.row,
              p->a.column,
              PANEL,
              depth,
              0};
    if (p->a.column == 1) return block(t, p->m, width);
    for (int64_t i = 0; i < p->m; i += HEIGHT, step_down(&t, HEIGHT)) {
        Tile some = t; /* A's rows lie far apart: those of a block are brought together */
        int64_t rows = min(HEIGHT, p->m - i);
        copy_columns(copy, t.a, p->a.column, depth, rows);
        some.a = copy, some.a_row = 1, some.a_column = HEIGHT;
        block(some, rows, width);
    }
}

static void packed(const CpuMatmul *p) {
    _Alignas(64) float panels[DEPTH * (WIDTH + PANEL)];
    for (int64_t i = 0; i < p->m && p->k == 0; i++) /* the sum of nothing */
        for (int64_t j = 0; j < p->n; j++) put(p, i, j, 0);
    int64_t blocks = (p->k + DEPTH - 1) / DEPTH; /* of nearly the same depth */
    for (int64_t i = 0; i < blocks; i++) {
        int64_t k = i * p->k / blocks, depth = (i + 1) * p->k / blocks - k;
        for (int64_t j = 0; j < p->n; j += WIDTH)
            multiply_block(p, panels, j, min(WIDTH, p->n - j), k, depth);
    }
}

/* ---- turned: C^T = B^T A^T, so that it is A, the smaller one, which is copied ---- */

enum { TURNED_ROWS = 2 * PANEL };

static void turned(const CpuMatmul *p) {
    enum { COLUMNS = 256 };
    float block[COLUMNS * TURNED_ROWS];
    for (int64_t j = 0; j < p->n; j += COLUMNS) {
        CpuMatmul t = {block, NULL, p->m, .m = min(COLUMNS, p->n - j), .n = p->m, .k = p->k};
        t.a = (CpuMatrix){p->b.at + j * p->b.column, p->b.column, p->b.row};
        t.b = (CpuMatrix){p->a.at, p->a.column, p->a.row};
        packed(&t);
        for (int64_t i = 0; i < p->m; i++)
            for (int64_t q = 0; q < t.m; q++) put(p, i, j + q, block[q * p->m + i]);
    }
}

/* ---- the choice ---- */

int cpu_matmul_takes(const CpuMatmul *p, CpuMatmulWay way) {
    int a_along = p->a.column == 1, b_along = p->b.row == 1; /* k runs along their memory */
    return way == MATMUL_UNPACKED ? p->b.column == 1 && p->n % LANES == 0
           : way == MATMUL_TURNED ? p->m <= TURNED_ROWS && b_along
                                  : way == MATMUL_PACKED || (a_along && b_along);
}

static int rows_alike;

int cpu_matmul_rows_alike(int on) {
    int was = rows_alike;
    rows_alike = on;
    return was;
}

/* cpu_matmul.h has the measurements. */
static CpuMatmulWay choose(const CpuMatmul *p) {
    int64_t m = p->m, n = p->n, k = p->k;
    if (rows_alike && p->b.row == 1) return MATMUL_PACKED;
    int few = m <= 24 || (n <= 512 && m <= 128), narrow = n <= 256 && m * k <= 1 << 18;
    if (cpu_matmul_takes(p, MATMUL_UNPACKED) && (few || narrow)) return MATMUL_UNPACKED;
    if (cpu_matmul_takes(p, MATMUL_DOTS) && m <= CPU_FEW_ROWS) return MATMUL_DOTS;
    if (cpu_matmul_takes(p, MATMUL_TURNED) && m > 24 && n * k >= 1 << 20) return MATMUL_TURNED;
    return MATMUL_PACKED;
}

/* Part i of `parts`, nearly equal and possibly empty: a block of C's rows or of its columns. Rows
 * are cut if there are more of them than columns: then less is copied twice. */
static CpuMatmul part_of(const CpuMatmul *p, CpuMatmulWay way, int i, int parts) {
    CpuMatmul part = *p;
    int by_rows = p->m >= p->n && way != MATMUL_DOTS && way != MATMUL_TURNED;
    int64_t total = by_rows ? p->m : p->n, size = (total + parts - 1) / parts;
    int64_t unit = by_rows ? ROWS : PANEL, least = 2 * unit;
    size = ((size > least ? size : least) + unit - 1) / unit * unit;
    int64_t first = min(i * size, total), count = min(size, total - first);
    if (by_rows)
        part.a.at += first * p->a.row, part.m = count;
    else
        part.b.at += first * p->b.column, part.n = count;
    int64_t at = by_rows ? first * p->c_row : first;
    part.c += at;
    if (part.base) part.base += at;
    return part;
}

/* Less work than this, in multiply-adds, is done before the other threads are awake. */
enum { THREADS_FROM = 1 << 18 };

void cpu_matmul_by(CpuMatmulWay way, const CpuMatmul *p) {
    static void (*const ways[])(const CpuMatmul *) = {dots, unpacked, turned, packed};
    int parts = omp_get_max_threads();
    if (parts == 1 || p->m * p->n * p->k <= THREADS_FROM || omp_in_parallel()) return ways[way](p);
#pragma omp parallel for schedule(static, 1)
    for (int i = 0; i < parts; i++) {
        CpuMatmul part = part_of(p, way, i, parts);
        ways[way](&part);
    }
}

void cpu_matmul(const CpuMatmul *p) { cpu_matmul_by(choose(p), p); }
