/*
 * The grouped product on the CPU: products of one core each inside OpenMP.
 *
 * Each expert's product is cut into pieces, a block of its rows by a block of the output's columns,
 * and threads take pieces as they finish. How a piece is cut depends on the expert's own number of
 * rows and on the weights' sizes, never on the number of threads; so neither do the results. Blocks
 * of columns, rather than of rows only, because each piece copies its part of the weight into
 * tiles: with few rows an expert the weight is the larger matrix, and by columns each part of it is
 * copied once.
 */
#include "05_moe/grouped.h"
#include "common/core/cpu_matmul.h"
#include "common/core/fastmath.h"
#include "common/core/ops_kernels.h"

#include <string.h>

void grouped_reference_cpu(float *y, const float *x, const float *w, const int32_t *offsets,
                           GroupedShape shape) {
    int64_t in = shape.in, out = shape.out;
    for (int e = 0; e < shape.experts; e++)
        linear_reference_cpu(y + offsets[e] * out, NULL, x + offsets[e] * in, w + e * out * in,
                             NULL, offsets[e + 1] - offsets[e], in, out);
}

void grouped_backward_reference_cpu(float *dx, float *dw, const float *dy, const float *x,
                                    const float *w, const int32_t *offsets, GroupedShape shape) {
    int64_t in = shape.in, out = shape.out;
    float dbias[out]; /* experts have none */
    memset(dx, 0, (size_t)(shape.rows * in) * sizeof *dx);
    for (int e = 0; e < shape.experts; e++)
        linear_backward_reference_cpu(dx + offsets[e] * in, dw + e * out * in, dbias,
                                      dy + offsets[e] * out, x + offsets[e] * in, w + e * out * in,
                                      offsets[e + 1] - offsets[e], in, out);
}

/* ---- in use ---- */

enum { PIECE_ROWS = 512, PIECE_COLUMNS = 512 };

typedef struct Piece {
    int expert;
    int64_t row, column; /* where it begins; row counts from the first of all rows */
    int rows, columns;
} Piece;

/* Sizes up to `most`, nearly equal, in multiples of 8, so that whole vectors are stored. */
static int64_t piece_size(int64_t n, int64_t most) {
    int64_t pieces = (n + most - 1) / most;
    return pieces ? ((n + pieces - 1) / pieces + 7) / 8 * 8 : 8;
}

static int64_t piece_count(int64_t n, int64_t most) {
    int64_t size = piece_size(n, most);
    return (n + size - 1) / size;
}

/* first[e] = pieces of rows before expert e. Returns how many there are. */
static int64_t cut_rows(int64_t *first, const int32_t *offsets, int experts) {
    first[0] = 0;
    for (int e = 0; e < experts; e++)
        first[e + 1] = first[e] + piece_count(offsets[e + 1] - offsets[e], PIECE_ROWS);
    return first[experts];
}

/* Piece i of all: the columns' pieces of the first piece of rows, then those of the next. */
static Piece piece_at(int64_t i, const int64_t *first, const int32_t *offsets, int experts,
                      int64_t width) {
    int64_t column_pieces = piece_count(width, PIECE_COLUMNS), r = i / column_pieces;
    int low = 0, high = experts; /* first[low] <= r < first[high]: the expert is found by halving */
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (first[middle] <= r)
            low = middle;
        else
            high = middle;
    }
    int64_t n = offsets[low + 1] - offsets[low], size = piece_size(n, PIECE_ROWS);
    int64_t row = (r - first[low]) * size, step = piece_size(width, PIECE_COLUMNS);
    Piece piece = {.expert = low, .row = offsets[low] + row, .column = i % column_pieces * step};
    piece.rows = (int)(n - row < size ? n - row : size);
    piece.columns = (int)(width - piece.column < step ? width - piece.column : step);
    return piece;
}

/* y [rows, columns], one row every `stride`, = the piece's part of x W^T; w [E, out, in] */
static void multiply_piece(float *y, int64_t stride, const float *x, const float *w, Piece p,
                           int64_t in, int64_t out) {
    const float *part = w + (p.expert * out + p.column) * in;
    cpu_matmul(&(CpuMatmul){
        y, NULL, stride, {x + p.row * in, in, 1}, {part, 1, in}, p.rows, p.columns, in});
}

/* [grouped_forward] */
void grouped_forward_cpu(float *y, const float *x, const float *w, const int32_t *offsets,
                         GroupedShape shape) {
    int64_t first[shape.experts + 1];
    int64_t pieces =
        cut_rows(first, offsets, shape.experts) * piece_count(shape.out, PIECE_COLUMNS);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < pieces; i++) {
        Piece p = piece_at(i, first, offsets, shape.experts, shape.out);
        multiply_piece(y + p.row * shape.out + p.column, shape.out, x, w, p, shape.in, shape.out);
    }
}
/* [/grouped_forward] */

/*
 * Both products of a piece, then silu(g) u while they are in the cache. When g is not kept it is
 * made in h's own place.
 */
void grouped_swiglu_forward_cpu(float *h, float *g, float *u, const float *x, const float *gate,
                                const float *up, const int32_t *offsets, GroupedShape shape) {
    int64_t in = shape.in, out = shape.out, first[shape.experts + 1];
    int64_t pieces = cut_rows(first, offsets, shape.experts) * piece_count(out, PIECE_COLUMNS);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < pieces; i++) {
        Piece p = piece_at(i, first, offsets, shape.experts, out);
        int64_t at = p.row * out + p.column;
        float *hp = h + at, *gp = g ? g + at : hp, *up_ = u + at;
        multiply_piece(gp, out, x, gate, p, in, out);
        multiply_piece(up_, out, x, up, p, in, out);
        for (int r = 0; r < p.rows; r++)
#pragma omp simd
            for (int64_t j = 0; j < p.columns; j++) {
                float a = gp[r * out + j];
                hp[r * out + j] = a / (1.0f + fast_exp(-a)) * up_[r * out + j];
            }
    }
}

void grouped_backward_input_cpu(float *dx, int add, const float *dy, const float *w,
                                const int32_t *offsets, GroupedShape shape) {
    int64_t in = shape.in, out = shape.out, first[shape.experts + 1];
    int64_t pieces = cut_rows(first, offsets, shape.experts) * piece_count(in, PIECE_COLUMNS);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < pieces; i++) {
        Piece p = piece_at(i, first, offsets, shape.experts, in);
        float *c = dx + p.row * in + p.column;
        cpu_matmul(&(CpuMatmul){.c = c,
                                .base = add ? c : NULL,
                                .c_row = in,
                                .a = {dy + p.row * out, out, 1},
                                .b = {w + p.expert * out * in + p.column, in, 1},
                                .m = p.rows,
                                .n = p.columns,
                                .k = out});
    }
    int64_t used = offsets[shape.experts];
    if (!add) memset(dx + used * in, 0, (size_t)((shape.rows - used) * in) * sizeof *dx);
}

void grouped_swiglu_backward_input_cpu(float *dx, int add, const float *dg, const float *gate,
                                       const float *du, const float *up, const int32_t *offsets,
                                       GroupedShape shape) {
    grouped_backward_input_cpu(dx, add, dg, gate, offsets, shape);
    grouped_backward_input_cpu(dx, 1, du, up, offsets, shape);
}

void grouped_backward_weight_cpu(float *dw, int add, const float *dy, const float *x,
                                 const int32_t *offsets, GroupedShape shape) {
    int64_t in = shape.in, out = shape.out, size = piece_size(out, PIECE_COLUMNS);
    int64_t per_expert = piece_count(out, PIECE_COLUMNS);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < shape.experts * per_expert; i++) {
        int64_t e = i / per_expert, row = i % per_expert * size, n = offsets[e + 1] - offsets[e];
        int64_t rows = out - row < size ? out - row : size;
        float *piece = dw + (e * out + row) * in;
        if (n > 0)
            cpu_matmul(&(CpuMatmul){.c = piece,
                                    .base = add ? piece : NULL,
                                    .c_row = in,
                                    .a = {dy + offsets[e] * out + row, 1, out},
                                    .b = {x + offsets[e] * in, in, 1},
                                    .m = rows,
                                    .n = in,
                                    .k = n});
        else if (!add)
            memset(piece, 0, (size_t)(rows * in) * sizeof *piece);
    }
}
