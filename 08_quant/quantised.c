/*
 * The tables of products: what each of them is made of, piece by piece.
 *
 * A product is cut into pieces of some columns (rows of W), one core each; which ones depends on
 * the sizes alone, and no element's sum depends on its piece.
 */
#include "08_quant/quantised.h"

#include "04_mla/mla.h"
#include "common/core/cpu_matmul.h"

#include <omp.h>
#include <stdlib.h>

enum { PIECE = 64 }; /* columns of one piece */

static void on_the_cpu(Context *ctx, const Tensor *w) {
    CHECK(ctx->device == CPU, "%s: no products with %s on %s", w->name, dtype_name(w->dtype),
          device_name(ctx->device));
}

/* The pieces of one product. */
static void multiply(const QuantisedProduct *whole) {
    int64_t pieces = (whole->w.out + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) if (!omp_in_parallel())
    for (int64_t i = 0; i < pieces; i++) {
        QuantisedProduct p = *whole;
        p.first = i * PIECE;
        p.count = p.w.out - p.first < PIECE ? p.w.out - p.first : PIECE;
        quantised_weight_only_cpu(&p);
    }
}

static void linear_weight_only(Context *ctx, void *y, const void *base, const void *x,
                               const Tensor *w, const void *bias, int64_t rows) {
    on_the_cpu(ctx, w);
    QuantisedMatrix matrix = quantised_matrix(w, 0);
    int64_t out = matrix.out;
    multiply(&(QuantisedProduct){
        .y = y, .base = base, .x = x, .y_row = out, .x_row = matrix.in, .rows = rows, .w = matrix});
    for (int64_t i = 0; i < rows * out && bias; i++)
        ((float *)y)[i] += ((const float *)bias)[i % out];
}

static void grouped_weight_only(Context *ctx, void *y, const void *x, const Tensor *w,
                                const int32_t *offsets, int64_t rows) {
    on_the_cpu(ctx, w);
    (void)rows;
    for (int64_t e = 0; e < tensor_dim(w, 0); e++) {
        QuantisedMatrix matrix = quantised_matrix(w, e);
        QuantisedProduct p = {.y = (float *)y + offsets[e] * matrix.out,
                              .x = (const float *)x + offsets[e] * matrix.in,
                              .y_row = matrix.out,
                              .x_row = matrix.in,
                              .rows = offsets[e + 1] - offsets[e],
                              .w = matrix};
        if (p.rows) multiply(&p);
    }
}

/* The rows of kv_b that belong to head h: [nope + v, kv_lora_rank], as numbers. */
static float *head_numbers(const QuantisedMatrix *kv_b, int64_t h, int64_t first, int64_t count,
                           MlaShape s) {
    float *numbers = must_alloc((size_t)(count * kv_b->in), sizeof *numbers);
    quantised_numbers_cpu(numbers, kv_b, h * (s.nope + s.v) + first, count);
    return numbers;
}

/* q_absorbed[:, h] = [q_nope[:, h] W_uk[h] | q_rope[:, h]] */
static void absorb_query(Context *ctx, void *q_absorbed, const void *q, const Tensor *kv_b,
                         int64_t rows, MlaShape s) {
    on_the_cpu(ctx, kv_b);
    QuantisedMatrix matrix = quantised_matrix(kv_b, 0);
    int64_t rank = s.kv_lora_rank, from_row = s.heads * (s.nope + s.rope);
    int64_t to_row = s.heads * (rank + s.rope);
#pragma omp parallel for
    for (int64_t h = 0; h < s.heads; h++) {
        const float *from = (const float *)q + h * (s.nope + s.rope);
        float *to = (float *)q_absorbed + h * (rank + s.rope);
        float *w_uk = head_numbers(&matrix, h, 0, s.nope, s); /* [nope, rank] */
        cpu_matmul(&(CpuMatmul){
            to, NULL, to_row, {from, from_row, 1}, {w_uk, rank, 1}, rows, rank, s.nope});
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < s.rope; i++)
                to[r * to_row + rank + i] = from[r * from_row + s.nope + i];
        free(w_uk);
    }
}

/* o[:, h] = o_latent[:, h] W_uv[h]^T */
static void absorb_output(Context *ctx, void *o, const void *o_latent, const Tensor *kv_b,
                          int64_t rows, MlaShape s) {
    on_the_cpu(ctx, kv_b);
    QuantisedMatrix matrix = quantised_matrix(kv_b, 0);
    int64_t rank = s.kv_lora_rank;
#pragma omp parallel for
    for (int64_t h = 0; h < s.heads; h++) {
        float *w_uv = head_numbers(&matrix, h, s.nope, s.v, s); /* [v, rank] */
        cpu_matmul(&(CpuMatmul){.c = (float *)o + h * s.v,
                                .c_row = (int64_t)s.heads * s.v,
                                .a = {(const float *)o_latent + h * rank, s.heads * rank, 1},
                                .b = {w_uv, 1, rank},
                                .m = rows,
                                .n = s.v,
                                .k = rank});
        free(w_uv);
    }
}

static void dequantise(Context *ctx, void *to, const Tensor *w, int64_t first, int64_t count) {
    on_the_cpu(ctx, w);
    int64_t out = tensor_dim(w, -2), in = tensor_dim(w, -1);
    for (int64_t i = first, n; i < first + count; i += n) { /* expert by expert */
        QuantisedMatrix matrix = quantised_matrix(w, i / out);
        n = out - i % out < first + count - i ? out - i % out : first + count - i;
        quantised_numbers_cpu((float *)to + (i - first) * in, &matrix, i % out, n);
    }
}

const QuantisedProducts quantised_weight_only = {linear_weight_only, grouped_weight_only,
                                                 absorb_query, absorb_output, dequantise};
const QuantisedProducts quantised_products = {linear_weight_only, grouped_weight_only, absorb_query,
                                              absorb_output, dequantise};
