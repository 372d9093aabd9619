/*
 * The inner loop of tiled attention on the CPU: one small matrix product that all seven products of
 * attention use.
 *
 * A lane is a query. LANES queries are worked on together, and every array of a tile has them side
 * by side in its last dimension: scores [key][lane], output [column][lane]. So the maximum and the
 * sum of a row of the softmax, which are awkward inside a vector, become plain loops over keys in
 * which no two lanes ever meet.
 */
#ifndef CAUSAL_TILE_H
#define CAUSAL_TILE_H

#include "02_causal/causal.h"

#include "common/core/transpose8.h"

#include <stdint.h>
#include <string.h>

/*
 * ROWS x 2 vectors of sums stay in registers: enough independent multiply-adds to hide their
 * latency (4 cycles), and few enough that none is spilled (AVX-512 has 32 registers, others 16).
 */
#if defined(__AVX512F__)
enum { VECTOR = 16, ROWS = 8 };
#elif defined(__AVX__)
enum { VECTOR = 8, ROWS = 4 };
#else /* SSE, NEON */
enum { VECTOR = 4, ROWS = 4 };
#endif
enum { LANES = 2 * VECTOR };
enum { MAX_DIM = ATTENTION_MAX_DIM };

typedef float Vector __attribute__((vector_size(VECTOR * 4)));

static inline Vector load(const float *p) {
    Vector v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void store(float *p, Vector v) { memcpy(p, &v, sizeof v); }

/* c[r][0..LANES) += sum_k a[r * a_row + k * a_col] * b[k][0..LANES); rows is a constant. */
static inline __attribute__((always_inline)) void tile_rows(float *c, int64_t c_row, const float *a,
                                                            int64_t a_row, int64_t a_col,
                                                            const float *b, int64_t b_row,
                                                            int depth, const int rows) {
    Vector left[ROWS], right[ROWS];
    for (int r = 0; r < rows; r++) {
        left[r] = load(c + r * c_row);
        right[r] = load(c + r * c_row + VECTOR);
    }
    for (int k = 0; k < depth; k++) {
        Vector b_left = load(b + k * b_row), b_right = load(b + k * b_row + VECTOR);
        for (int r = 0; r < rows; r++) {
            float x = a[r * a_row + k * a_col];
            left[r] += x * b_left;
            right[r] += x * b_right;
        }
    }
    for (int r = 0; r < rows; r++) {
        store(c + r * c_row, left[r]);
        store(c + r * c_row + VECTOR, right[r]);
    }
}

/* The same for any number of rows. */
static inline void tile_product(float *c, int64_t c_row, const float *a, int64_t a_row,
                                int64_t a_col, const float *b, int64_t b_row, int depth, int rows) {
    int r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        tile_rows(c + r * c_row, c_row, a + r * a_row, a_row, a_col, b, b_row, depth, ROWS);
    for (; r < rows; r++)
        tile_rows(c + r * c_row, c_row, a + r * a_row, a_row, a_col, b, b_row, depth, 1);
}

/* to[column][lane] = from[lane][column]; lanes without a query are zero. */
static inline void lanes_from_rows(float *to, const float *from, int64_t from_row, int rows,
                                   int columns) {
    int lane = 0;
    for (; lane + 8 <= rows; lane += 8) {
        int column = 0;
        for (; column + 8 <= columns; column += 8)
            transpose8(to + column * LANES + lane, LANES, from + lane * from_row + column,
                       from_row);
        for (; column < columns; column++)
            for (int i = lane; i < lane + 8; i++)
                to[column * LANES + i] = from[i * from_row + column];
    }
    for (int column = 0; column < columns; column++)
        for (int i = lane; i < LANES; i++)
            to[column * LANES + i] = i < rows ? from[i * from_row + column] : 0.0f;
}

/* to[lane][column] = from[column][lane], or += when add. */
static inline void rows_from_lanes(float *to, int64_t to_row, const float *from, int rows,
                                   int columns, int add) {
    int lane = 0;
    for (; lane + 8 <= rows && !add; lane += 8) {
        int column = 0;
        for (; column + 8 <= columns; column += 8)
            transpose8(to + lane * to_row + column, to_row, from + column * LANES + lane, LANES);
        for (; column < columns; column++)
            for (int i = lane; i < lane + 8; i++)
                to[i * to_row + column] = from[column * LANES + i];
    }
    for (; lane < rows; lane++)
        for (int column = 0; column < columns; column++) {
            float x = from[column * LANES + lane];
            to[lane * to_row + column] = add ? to[lane * to_row + column] + x : x;
        }
}

#endif
