/*
 * The tables of products: which kernel takes which product, and its pieces for the threads.
 *
 * Here is the one place that chooses on the CPU:
 *
 *     int8       quantised_products, U8 and I4     small whole numbers (quantised_int8.h)
 *     few rows   else, 1 to 8 rows of x            codes become numbers in registers
 *     panels     else                              codes become numbers in a cache
 *
 * Microseconds on one core of an AMD EPYC with AVX-512 VNNI (Zen 5), a weight 128 x 4096 that lies
 * in the second-level cache; beside them cpu_matmul() of F32 (08_quant/bench --what ways). Both
 * ways with x as it is give the same bits up to CPU_FEW_ROWS rows. With AVX2 alone panels are the
 * faster ones from 8 rows on, and for 256 rows faster than whole numbers of INT8, by a fourth.
 *
 *     rows    F32    INT8 g128: few panels  int8    INT4 g128: few panels  int8    FP8: few panels
 *        1     22                15     28     5                11     33     5          22     36
 *        4     38                29     51    13                24     53    13          35     58
 *        8     60                60     83    26                48     87    26          67     89
 *       16     96               122    136    58                95    133    59         134    138
 *      256   1109              2289   1162  1016              2037   1142  1061        2253   1153
 *
 * Outliers. One number of x of 6 or more (LLM.int8()'s threshold) takes the steps of INT8 away from
 * all that share its scale. With groups of up to 128 that stays among neighbours; where a whole row
 * has one scale, a row of x with such a number is multiplied as it is: it steps aside, by itself.
 *
 * A product is cut into pieces of columns of y, which are rows of W. Neither the way nor an
 * element's sum depends on the pieces.
 */
#include "08_quant/quantised_gpu.h"
#include "08_quant/quantised_int8.h"

#include "04_mla/mla.h"
#include "common/core/cpu_matmul.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

enum { REGISTER_ROWS = 8 };

/* ---- x in INT8, or not ---- */

/* Rows of x in codes, but for those that step aside; `step` from one of them to the next. */
typedef struct Rounded {
    QuantisedRows codes;
    const bool *aside; /* NULL: none does */
    int64_t step;
} Rounded;

static bool has_outlier(const float *x, int64_t n) {
    bool found = false;
    for (int64_t j = 0; j < n; j++) found |= !(fabsf(x[j]) < 6);
    return found;
}

static Rounded rounded(Context *ctx, const float *x, int64_t x_row, int64_t rows,
                       const QuantisedMatrix *w) {
    enum { NEIGHBOURS = 128 };
    Rounded all = {.codes = quantised_rows(ctx, x, x_row, rows, w), .step = 1};
    if (w->block_in <= NEIGHBOURS) return all;
    bool *aside = arena_alloc(&ctx->data, (size_t)rows * sizeof *aside);
    for (int64_t r = 0; r < rows; r++)
        if ((aside[r] = has_outlier(x + r * x_row, w->in))) all.aside = aside;
    return all;
}

static Rounded rounded_from(const Rounded *x, int64_t first, int64_t step) {
    return (Rounded){quantised_rows_from(x->codes, first, step),
                     x->aside ? x->aside + first * x->step : NULL, x->step * step};
}

/* ---- one core ---- */

static void multiply_numbers(const QuantisedProduct *p) {
    if (p->rows <= REGISTER_ROWS && quantised_few_rows_takes(&p->w))
        quantised_few_rows_cpu(p);
    else
        quantised_panels_cpu(p);
}

/* x: p's rows rounded, or NULL. */
static void multiply_here(const QuantisedProduct *p, const Rounded *x) {
    if (!x) {
        multiply_numbers(p);
        return;
    }
    for (int64_t r = 0, end; r < p->rows; r = end) { /* rows that go the same way */
        bool aside = x->aside && x->aside[r * x->step];
        for (end = r + 1; end < p->rows; end++)
            if (x->aside && x->aside[end * x->step] != aside) break;
        QuantisedProduct some = *p;
        some.rows = end - r, some.x += r * p->x_row, some.y += r * p->y_row;
        if (p->base) some.base += r * p->y_row;
        if (aside)
            multiply_numbers(&some);
        else
            quantised_int8_cpu(&some, quantised_rows_from(x->codes, r, 1));
    }
}

/* All columns, on all threads. */
static void multiply(const QuantisedProduct *whole, const Rounded *x) {
    enum { THREADS_FROM = 1 << 18 }; /* as in cpu_matmul.c: less is done before they are awake */
    int64_t out = whole->w.out, parts = omp_get_max_threads();
    if (whole->rows * out * whole->w.in <= THREADS_FROM) parts = 1;
#pragma omp parallel for schedule(static, 1) if (parts > 1)
    for (int64_t i = 0; i < parts; i++) {
        QuantisedProduct p = *whole;
        p.first = out * i / parts, p.count = out * (i + 1) / parts - p.first;
        multiply_here(&p, x);
    }
}

static void linear_by(bool int8, Context *ctx, void *y, const void *base, const void *x,
                      const Tensor *w, const float *bias, int64_t rows) {
    if (ctx->device == CUDA) {
        quantised_on_gpu.linear(ctx, y, base, x, w, bias, rows);
        return;
    }
    QuantisedMatrix matrix = quantised_matrix(w, 0);
    QuantisedProduct p = {.y = y,
                          .base = base,
                          .x = x,
                          .y_row = matrix.out,
                          .x_row = matrix.in,
                          .rows = rows,
                          .w = matrix};
    ArenaMark mark = arena_mark(&ctx->data);
    Rounded codes;
    int8 = int8 && quantised_int8_takes(&matrix);
    if (int8) codes = rounded(ctx, x, p.x_row, rows, &matrix);
    multiply(&p, int8 ? &codes : NULL);
    arena_release(&ctx->data, mark);
    for (int64_t r = 0; r < rows && bias; r++)
        for (int64_t i = 0; i < p.y_row; i++) p.y[r * p.y_row + i] += bias[i];
}

/* Experts one after the other would leave threads waiting: pieces of all of them are one list. */
static void grouped_by(bool int8, Context *ctx, void *y, const void *x, const Tensor *w,
                       const int32_t *offsets, int64_t rows) {
    enum { PIECE = 128 };
    if (ctx->device == CUDA) {
        quantised_on_gpu.grouped(ctx, y, x, w, offsets, rows);
        return;
    }
    int64_t experts = tensor_dim(w, 0), pieces = (tensor_dim(w, 1) + PIECE - 1) / PIECE;
    QuantisedMatrix first = quantised_matrix(w, 0);
    ArenaMark mark = arena_mark(&ctx->data);
    Rounded codes;
    CHECK(offsets[experts] <= rows, "%s: experts with more rows than there are", w->name);
    int8 = int8 && quantised_int8_takes(&first);
    if (int8) codes = rounded(ctx, x, first.in, offsets[experts], &first);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < experts * pieces; i++) {
        int64_t e = i / pieces, begin = offsets[e], column = i % pieces * PIECE;
        QuantisedProduct p = {.y = (float *)y + begin * first.out,
                              .x = (const float *)x + begin * first.in,
                              .y_row = first.out,
                              .x_row = first.in,
                              .rows = offsets[e + 1] - begin,
                              .w = quantised_matrix(w, e),
                              .first = column,
                              .count = min(PIECE, first.out - column)};
        Rounded its;
        if (int8) its = rounded_from(&codes, begin, 1);
        if (p.rows) multiply_here(&p, int8 ? &its : NULL);
    }
    arena_release(&ctx->data, mark);
}

/* ---- latent attention ---- */

/* y [rows, in] = x times some rows of W, on one core: for a few rows with numbers in registers. */
static void multiply_turned(const QuantisedProduct *p) {
    if (p->rows <= REGISTER_ROWS && quantised_turned_takes(&p->w)) {
        quantised_turned_cpu(p);
        return;
    }
    float *numbers = must_realloc(NULL, (size_t)(p->count * p->w.in), sizeof *numbers);
    quantised_numbers_cpu(numbers, &p->w, p->first, p->count);
    cpu_matmul(&(CpuMatmul){.c = p->y,
                            .c_row = p->y_row,
                            .a = {p->x, p->x_row, 1},
                            .b = {numbers, p->w.in, 1},
                            .m = p->rows,
                            .n = p->w.in,
                            .k = p->count});
    free(numbers);
}

/*
 * q_absorbed[:, h] = [q_nope[:, h] W_uk[h] | q_rope[:, h]]. Here the sum runs over rows of W, which
 * have scales of their own, so whole numbers could not be summed: codes become numbers.
 */
static void absorb_query(Context *ctx, void *q_absorbed, const void *q, const Tensor *kv_b,
                         int64_t rows, MlaShape s) {
    if (ctx->device == CUDA) {
        quantised_on_gpu.absorb_query(ctx, q_absorbed, q, kv_b, rows, s);
        return;
    }
    int64_t rank = s.kv_lora_rank, x_row = s.heads * (s.nope + s.rope);
    int64_t y_row = s.heads * (rank + s.rope);
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < s.heads; h++) {
        QuantisedProduct p = {.y = (float *)q_absorbed + h * (rank + s.rope),
                              .x = (const float *)q + h * (s.nope + s.rope),
                              .y_row = y_row,
                              .x_row = x_row,
                              .rows = rows,
                              .w = quantised_matrix(kv_b, 0),
                              .first = h * (s.nope + s.v),
                              .count = s.nope};
        multiply_turned(&p);
        for (int64_t r = 0; r < rows && s.rope; r++)
            memcpy(p.y + r * y_row + rank, p.x + r * x_row + s.nope,
                   (size_t)s.rope * sizeof(float));
    }
}

/* o[:, h] = o_latent[:, h] W_uv[h]^T */
static void absorb_output_by(bool int8, Context *ctx, void *o, const void *o_latent,
                             const Tensor *kv_b, int64_t rows, MlaShape s) {
    if (ctx->device == CUDA) {
        quantised_on_gpu.absorb_output(ctx, o, o_latent, kv_b, rows, s);
        return;
    }
    QuantisedMatrix w = quantised_matrix(kv_b, 0);
    int64_t rank = s.kv_lora_rank, H = s.heads;
    ArenaMark mark = arena_mark(&ctx->data);
    Rounded codes;
    int8 = int8 && quantised_int8_takes(&w);
    if (int8) codes = rounded(ctx, o_latent, rank, rows * H, &w);
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < H; h++) {
        QuantisedProduct p = {.x = (const float *)o_latent + h * rank,
                              .y_row = H * s.v,
                              .x_row = H * rank,
                              .rows = rows,
                              .w = w,
                              .first = h * (s.nope + s.v) + s.nope,
                              .count = s.v};
        p.y = (float *)o + h * s.v - p.first; /* row `first` of W makes the head's first number */
        Rounded its;
        if (int8) its = rounded_from(&codes, h, H);
        multiply_here(&p, int8 ? &its : NULL);
    }
    arena_release(&ctx->data, mark);
}

static void dequantise(Context *ctx, void *to, const Tensor *w, int64_t first, int64_t count) {
    if (ctx->device == CUDA) {
        quantised_on_gpu.dequantise(ctx, to, w, first, count);
        return;
    }
    int64_t out = tensor_dim(w, -2), in = tensor_dim(w, -1);
    for (int64_t i = first, n; i < first + count; i += n) { /* expert by expert */
        QuantisedMatrix matrix = quantised_matrix(w, i / out);
        n = min(out - i % out, first + count - i);
        quantised_numbers_cpu((float *)to + (i - first) * in, &matrix, i % out, n);
    }
}

/* ---- the tables ---- */

#define TABLE(name, int8)                                                             \
    static void name##_linear(Context *ctx, void *y, const void *base, const void *x, \
                              const Tensor *w, const void *bias, int64_t rows) {      \
        linear_by(int8, ctx, y, base, x, w, bias, rows);                              \
    }                                                                                 \
    static void name##_grouped(Context *ctx, void *y, const void *x, const Tensor *w, \
                               const int32_t *offsets, int64_t rows) {                \
        grouped_by(int8, ctx, y, x, w, offsets, rows);                                \
    }                                                                                 \
    static void name##_absorb_output(Context *ctx, void *o, const void *o_latent,     \
                                     const Tensor *kv_b, int64_t rows, MlaShape s) {  \
        absorb_output_by(int8, ctx, o, o_latent, kv_b, rows, s);                      \
    }                                                                                 \
    const QuantisedProducts name = {name##_linear, name##_grouped, absorb_query,      \
                                    name##_absorb_output, dequantise};

TABLE(quantised_weight_only, false)
TABLE(quantised_products, true)
