/*
 * A few rows of x with codes that become numbers in registers, on the CPU.
 *
 * For a few rows a panel of numbers (quantised_cpu.c) would be written and read for little work. So
 * this is cpu_matmul.c's tile of dot products, four rows of W with some of x, that reads codes:
 * they are widened and scaled vector by vector, and memory sees four streams of codes.
 *
 * Invariant: the numbers, and the order in which each lane adds its products, are those of that
 * tile; so the results are, bit for bit, what cpu_matmul() makes of the panel.
 */
#include "08_quant/quantised.h"
#include "08_quant/quantised_lanes.h"

#include "common/core/cpu_matmul.h"

#include <math.h>

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

#ifdef __AVX512F__
enum { ROWS = 4 }; /* 16 sums, 4 of x */
#else
enum { ROWS = 2 };
#endif
enum { MOST = 4, COLUMNS = 4, LINE = 64 };

/* Four rows of W, from the first of those that are asked for; with some rows of x. */
typedef struct Tile {
    const QuantisedMatrix *w;
    const uint8_t *codes[COLUMNS];
    const float *scale[COLUMNS];
    const float *x;
    int64_t x_row, ahead; /* bytes from here to the codes that come after the next */
} Tile;

/* sum += LANES codes of each, from byte `at` on, times as many numbers of x, from k on. */
INLINE void add(Vector (*sum)[COLUMNS], const Tile *t, const Vector *scale, int64_t at, int64_t k,
                const int rows, const CodeKind kind) {
    Vector x[MOST];
    for (int r = 0; r < rows; r++) x[r] = *(const Vector *)(t->x + r * t->x_row + k);
    for (int c = 0; c < COLUMNS; c++) {
        Vector w = scale[c] * code_lanes(t->codes[c] + at, kind);
        for (int r = 0; r < rows; r++) sum[r][c] += w * x[r];
    }
}

INLINE void fetch(const Tile *t, int64_t at) {
    for (int c = 0; c < COLUMNS; c++) __builtin_prefetch(t->codes[c] + at + t->ahead);
}

INLINE void scales(Vector *scale, const Tile *t, int64_t g, const CodeKind kind) {
    for (int c = 0; c < COLUMNS; c++) scale[c] = t->scale[c][g] * code_unit(kind) - (Vector){0};
}

/* U8 and E4M3, block by block of the scales. */
INLINE void bytes_tile(Vector (*sum)[COLUMNS], const Tile *t, const int rows, const CodeKind kind) {
    Vector scale[COLUMNS];
    int64_t in = t->w->in;
    for (int64_t k = 0, g = 0; k < in; g++) {
        int64_t end = min(k + t->w->block_in, in);
        scales(scale, t, g, kind);
        for (; k + LINE <= end; k += LINE) {
            fetch(t, k);
            for (int l = 0; l < LINE; l += LANES) add(sum, t, scale, k + l, k + l, rows, kind);
        }
        for (; k + LANES <= end; k += LANES) add(sum, t, scale, k, k, rows, kind);
        if (k == end) continue;
        uint8_t codes[COLUMNS][LANES] = {0}; /* the row's last, fewer than a vector */
        Vector x[MOST];
        Tile last = {.x = (const float *)x, .x_row = LANES};
        for (int r = 0; r < rows; r++) x[r] = first_lanes(t->x + r * t->x_row + k, end - k);
        for (int c = 0; c < COLUMNS; c++)
            last.codes[c] = memcpy(codes[c], t->codes[c] + k, (size_t)(end - k));
        add(sum, &last, scale, 0, 0, rows, kind);
        k = end;
    }
}

/* I4: of each group first the low four bits, then the high ones, for that is the numbers' order. */
INLINE void nibbles_tile(Vector (*sum)[COLUMNS], const Tile *t, const int rows, const int group) {
    const int half = group / 2; /* bytes of a group */
    Vector scale[COLUMNS];
    for (int64_t at = 0, g = 0; at < t->w->in / 2; at += half, g++) {
        scales(scale, t, g, CODE_LOW);
        if (at % LINE == 0) fetch(t, at);
        for (int l = 0; l < half; l += LANES)
            add(sum, t, scale, at + l, g * group + l, rows, CODE_LOW);
        for (int l = 0; l < half; l += LANES)
            add(sum, t, scale, at + l, g * group + half + l, rows, CODE_HIGH);
    }
}

/* Rows r .. r + rows - 1 of y, columns i .. i + 3. As in cpu_matmul.c, past the last row of W that
 * comes again, and its sum is thrown away. */
INLINE void tile(const QuantisedProduct *p, int64_t r, int64_t i, const int rows,
                 const CodeKind kind, const int group) {
    const QuantisedMatrix *w = &p->w;
    int64_t bytes = kind == CODE_LOW ? w->in / 2 : w->in, there = p->first + p->count - i;
    Vector sum[MOST][COLUMNS] = {0};
    Tile t = {w, .x = p->x + r * p->x_row, .x_row = p->x_row, .ahead = COLUMNS * bytes};
    for (int c = 0; c < COLUMNS; c++) {
        int64_t j = i + min(c, there - 1);
        t.codes[c] = w->codes + j * bytes;
        t.scale[c] = w->scale + j / w->block_out * w->scale_row;
    }
    if (kind == CODE_LOW)
        nibbles_tile(sum, &t, rows, group);
    else
        bytes_tile(sum, &t, rows, kind);
    for (int n = 0; n < rows; n++) {
        Quarter total = add_lanes(sum[n]);
        for (int c = 0; c < COLUMNS && c < there; c++) {
            int64_t at = (r + n) * p->y_row + i + c;
            p->y[at] = p->base ? p->base[at] + total[c] : total[c];
        }
    }
}

typedef void Kernel(const QuantisedProduct *p, int64_t r, int64_t i);

#define OF_ROWS(name, rows, kind, group)                                         \
    static void name##_##rows(const QuantisedProduct *p, int64_t r, int64_t i) { \
        tile(p, r, i, rows, kind, group);                                        \
    }
#define KERNELS(name, kind, group) /* of 1, 2 and 4 rows of x */ \
    OF_ROWS(name, 1, kind, group)                                \
    OF_ROWS(name, 2, kind, group)                                \
    OF_ROWS(name, 4, kind, group)                                \
    static Kernel *const name[] = {name##_1, name##_2, name##_4};
KERNELS(u8, CODE_U8, 0)
KERNELS(e4m3, CODE_E4M3, 0)
KERNELS(i4_32, CODE_LOW, 32)
KERNELS(i4_64, CODE_LOW, 64)
KERNELS(i4_128, CODE_LOW, 128)

bool quantised_few_rows_takes(const QuantisedMatrix *w) {
    return w->block_in % LANES == 0 || w->scale_row == 1;
}

void quantised_few_rows_cpu(const QuantisedProduct *p) {
    const QuantisedMatrix *w = &p->w;
    Kernel *const *kernels = w->dtype == U8        ? u8
                             : w->dtype == F8_E4M3 ? e4m3
                             : w->block_in == 32   ? i4_32
                             : w->block_in == 64   ? i4_64
                                                   : i4_128;
    int64_t last = p->first + p->count;
    for (int64_t i = p->first; i < last; i += COLUMNS)
        for (int64_t r = 0, rows; r < p->rows; r += rows) {
            int k = ROWS == 4 && p->rows - r >= 4 ? 2 : p->rows - r >= 2;
            rows = 1 << k;
            kernels[k](p, r, i);
        }
    for (int64_t i = p->first; i < last && w->dtype == F8_E4M3; i++) /* NaN, whatever x is */
        if (has_nan(w->codes + i * w->in, w->in))
            for (int64_t r = 0; r < p->rows; r++) p->y[r * p->y_row + i] = NAN;
}

/* ---- y = x W ---- */

/* Four vectors of y's columns from one place of a row of W on: of I4 two of low and two of high
 * bits. Each is summed over W's rows from the first to the last, as cpu_matmul() does. */
INLINE void turned_tile(const QuantisedProduct *p, int64_t r, int64_t at, const int rows,
                        const CodeKind kind) {
    const QuantisedMatrix *w = &p->w;
    const int nibbles = kind == CODE_LOW, vectors = nibbles ? 2 : 4;
    int64_t row = nibbles ? w->in / 2 : w->in, bytes = nibbles ? w->block_in / 2 : w->block_in;
    const uint8_t *codes = w->codes + p->first * row + at;
    const float *scale = w->scale + p->first * w->scale_row, *x = p->x + r * p->x_row;
    Vector sum[MOST][4] = {0};
    for (int64_t i = 0; i < p->count; i++, codes += row, scale += w->scale_row)
        for (int v = 0; v < vectors; v++) {
            float s = scale[(at + v * LANES) / bytes];
            Vector low = s * code_lanes(codes + v * LANES, kind), high;
            if (nibbles) high = s * code_lanes(codes + v * LANES, CODE_HIGH);
            for (int n = 0; n < rows; n++) {
                sum[n][v] += x[n * p->x_row + i] * low;
                if (nibbles) sum[n][2 + v] += x[n * p->x_row + i] * high;
            }
        }
    for (int n = 0; n < rows; n++)
        for (int v = 0; v < vectors; v++) {
            int64_t byte = at + v * LANES, k = nibbles ? byte + byte / bytes * bytes : byte;
            float *y = p->y + (r + n) * p->y_row + k;
            *(Vector *)y = sum[n][v];
            if (nibbles) *(Vector *)(y + bytes) = sum[n][2 + v];
        }
}

bool quantised_turned_takes(const QuantisedMatrix *w) {
    return (w->dtype == U8 && w->in % (4 * LANES) == 0 && w->block_in % LANES == 0) ||
           (w->dtype == I4 && w->in % (4 * LANES) == 0);
}

void quantised_turned_cpu(const QuantisedProduct *p) {
    for (int64_t r = 0, rows; r < p->rows; r += rows) {
        rows = p->rows - r >= 2 ? 2 : 1;
        if (p->w.dtype == U8)
            for (int64_t at = 0; at < p->w.in; at += 4 * LANES)
                rows == 2 ? turned_tile(p, r, at, 2, CODE_U8) : turned_tile(p, r, at, 1, CODE_U8);
        else
            for (int64_t at = 0; at < p->w.in / 2; at += 2 * LANES)
                rows == 2 ? turned_tile(p, r, at, 2, CODE_LOW) : turned_tile(p, r, at, 1, CODE_LOW);
    }
}
