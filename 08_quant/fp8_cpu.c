/*
 * FP8 on the CPU: plain loops that define it, and products fast enough to train a small model in it
 * where no GPU has FP8.
 *
 * A product dequantises both operands and multiplies in F32: what a tensor core does with E4M3 but
 * for the order of summation. So a training run here has FP8's rounding and none of its speed.
 */
#include "08_quant/fp8.h"

#include "common/core/cpu_matmul.h"
#include "common/core/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

float fp8_scale(float amax, int power_of_two) {
    float s = fmaxf(amax, 1e-4f) / 448;
    if (power_of_two) {
        uint32_t bits;
        memcpy(&bits, &s, sizeof bits);
        bits = (bits + 0x7fffff) & 0x7f800000; /* any fraction: to the next exponent */
        memcpy(&s, &bits, sizeof bits);
    }
    return s;
}

/* The numbers x[i * step], i < count, that share a scale: their codes, at codes[i]. */
static float quantise_strided(uint8_t *codes, const float *x, int64_t step, int64_t count,
                              int power_of_two) {
    float amax = 0;
    for (int64_t i = 0; i < count; i++) amax = fmaxf(amax, fabsf(x[i * step]));
    float s = fp8_scale(amax, power_of_two);
    for (int64_t i = 0; i < count; i++) codes[i] = e4m3_from_float(x[i * step] / s);
    return s;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void fp8_quantise_rows_cpu(uint8_t *codes, float *scales, const float *x, int64_t rows,
                           int64_t cols, int power_of_two) {
    int64_t blocks = fp8_blocks(cols), stride = fp8_scale_stride(rows);
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t at = row * cols + b * FP8_STEP;
            scales[b * stride + row] = quantise_strided(
                codes + at, x + at, 1, least(FP8_STEP, cols - b * FP8_STEP), power_of_two);
        }
}

void fp8_quantise_columns_cpu(uint8_t *codes, float *scales, const float *x, const int32_t *offsets,
                              int experts, int64_t rows, int64_t cols, int power_of_two) {
    int64_t padded = fp8_padded_rows(rows, offsets ? experts : 1), block = 0;
    for (int e = 0; e < (offsets ? experts : 1); e++) {
        int64_t begin = offsets ? offsets[e] : 0, end = offsets ? offsets[e + 1] : rows;
        for (int64_t row = begin; row < end; row += FP8_STEP, block++) {
            int64_t count = least(FP8_STEP, end - row);
#pragma omp parallel for
            for (int64_t c = 0; c < cols; c++) {
                uint8_t *to = codes + c * padded + block * FP8_STEP;
                scales[block * fp8_scale_stride(cols) + c] =
                    quantise_strided(to, x + row * cols + c, cols, count, power_of_two);
                memset(to + count, 0, (size_t)(FP8_STEP - count));
            }
        }
    }
}

void fp8_quantise_blocks_cpu(uint8_t *codes, float *scales, uint8_t *codes_t, float *scales_t,
                             const float *w, int experts, int64_t out, int64_t in,
                             int power_of_two) {
    int64_t down = fp8_blocks(out), across = fp8_blocks(in);
#pragma omp parallel for collapse(3)
    for (int64_t e = 0; e < experts; e++)
        for (int64_t i = 0; i < down; i++)
            for (int64_t j = 0; j < across; j++) {
                const int64_t first = i * FP8_STEP, from = j * FP8_STEP;
                int64_t r1 = least(first + FP8_STEP, out), c1 = least(from + FP8_STEP, in);
                const float *x = w + e * out * in;
                float amax = 0;
                for (int64_t r = first; r < r1; r++)
                    for (int64_t c = from; c < c1; c++) amax = fmaxf(amax, fabsf(x[r * in + c]));
                float s = fp8_scale(amax, power_of_two);
                if (codes) scales[(e * down + i) * across + j] = s;
                if (codes_t) scales_t[(e * across + j) * down + i] = s;
                for (int64_t r = first; r < r1; r++)
                    for (int64_t c = from; c < c1; c++) {
                        uint8_t q = e4m3_from_float(x[r * in + c] / s);
                        if (codes) codes[(e * out + r) * in + c] = q;
                        if (codes_t) codes_t[(e * in + c) * out + r] = q;
                    }
            }
}

/* ---- the definition of the products, in double precision ---- */

/* sum over k < count of a[k] b[k] */
static double dot(const uint8_t *a, const uint8_t *b, int64_t count) {
    double sum = 0;
    for (int64_t k = 0; k < count; k++) sum += (double)e4m3_to_float(a[k]) * e4m3_to_float(b[k]);
    return sum;
}

void fp8_product_reference_cpu(float *d, const float *base, const uint8_t *a, const float *a_scale,
                               const uint8_t *b, const float *b_scale, int64_t m, int64_t n,
                               int64_t k) {
    int64_t steps = fp8_blocks(k), stride = fp8_scale_stride(m);
#pragma omp parallel for
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = base ? base[i * n + j] : 0;
            for (int64_t s = 0; s < steps; s++) {
                int64_t at = s * FP8_STEP;
                sum += (double)a_scale[s * stride + i] * b_scale[j / FP8_STEP * steps + s] *
                       dot(a + i * k + at, b + j * k + at, least(FP8_STEP, k - at));
            }
            d[i * n + j] = (float)sum;
        }
}

void fp8_grouped_reference_cpu(float *y, const float *base, const uint8_t *x, const float *x_scale,
                               const uint8_t *w, const float *w_scale, const int32_t *offsets,
                               GroupedShape s) {
    int64_t steps = fp8_blocks(s.in), down = fp8_blocks(s.out), stride = fp8_scale_stride(s.rows);
    for (int64_t e = 0; e < s.experts; e++)
#pragma omp parallel for
        for (int64_t i = offsets[e]; i < offsets[e + 1]; i++)
            for (int64_t j = 0; j < s.out; j++) {
                double sum = base ? base[i * s.out + j] : 0;
                for (int64_t b = 0; b < steps; b++) {
                    int64_t at = b * FP8_STEP;
                    sum += (double)x_scale[b * stride + i] *
                           w_scale[(e * down + j / FP8_STEP) * steps + b] *
                           dot(x + i * s.in + at, w + (e * s.out + j) * s.in + at,
                               least(FP8_STEP, s.in - at));
                }
                y[i * s.out + j] = (float)sum;
            }
}

void fp8_weight_reference_cpu(float *dw, int add, const uint8_t *dy_t, const float *dy_scale,
                              const uint8_t *x_t, const float *x_scale, const int32_t *offsets,
                              GroupedShape s) {
    int64_t experts = offsets ? s.experts : 1, padded = fp8_padded_rows(s.rows, (int)experts);
    for (int64_t e = 0, first = 0; e < experts; e++) {
        int64_t count = fp8_blocks(offsets ? offsets[e + 1] - offsets[e] : s.rows);
#pragma omp parallel for
        for (int64_t i = 0; i < s.out; i++)
            for (int64_t j = 0; j < s.in; j++) {
                float *to = dw + (e * s.out + i) * s.in + j;
                double sum = add ? *to : 0;
                for (int64_t b = first; b < first + count; b++)
                    sum += (double)dy_scale[b * fp8_scale_stride(s.out) + i] *
                           x_scale[b * fp8_scale_stride(s.in) + j] *
                           dot(dy_t + i * padded + b * FP8_STEP, x_t + j * padded + b * FP8_STEP,
                               FP8_STEP);
                *to = (float)sum;
            }
        first += count;
    }
}

void fp8_clear_rest_cpu(float *y, const int32_t *offsets, int experts, int64_t rows, int64_t cols) {
    int64_t from = offsets[experts] * cols;
    memset(y + from, 0, (size_t)(rows * cols - from) * sizeof *y);
}

/* ---- in use: dequantised, and one matrix product ---- */

/* Rows [rows, k] of scales 1 x 128 whose first is number `row` of `stride`. */
static float *rows_of_codes(const uint8_t *codes, const float *scales, int64_t row, int64_t rows,
                            int64_t stride, int64_t k) {
    float *x = must_alloc((size_t)(rows * k) + 1, sizeof *x);
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < k; c++)
            x[r * k + c] =
                e4m3_to_float(codes[r * k + c]) * scales[c / FP8_STEP * stride + row + r];
    return x;
}

static float *blocks_of_codes(const uint8_t *codes, const float *scales, int64_t rows, int64_t k) {
    float *x = must_alloc((size_t)(rows * k) + 1, sizeof *x);
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < k; c++)
            x[r * k + c] = e4m3_to_float(codes[r * k + c]) *
                           scales[r / FP8_STEP * fp8_blocks(k) + c / FP8_STEP];
    return x;
}

void fp8_grouped_cpu(float *y, const float *base, const uint8_t *x, const float *x_scale,
                     const uint8_t *w, const float *w_scale, const int32_t *offsets,
                     GroupedShape s) {
    int64_t scales = fp8_blocks(s.out) * fp8_blocks(s.in), size = s.out * s.in;
    for (int64_t e = 0; e < (offsets ? s.experts : 1); e++) {
        int64_t row = offsets ? offsets[e] : 0, rows = (offsets ? offsets[e + 1] : s.rows) - row;
        if (!rows) continue;
        float *xf =
            rows_of_codes(x + row * s.in, x_scale, row, rows, fp8_scale_stride(s.rows), s.in);
        float *wf = blocks_of_codes(w + e * size, w_scale + e * scales, s.out, s.in);
        cpu_matmul(&(CpuMatmul){y + row * s.out,
                                base ? base + row * s.out : NULL,
                                s.out,
                                {xf, s.in, 1},
                                {wf, 1, s.in},
                                rows,
                                s.out,
                                s.in});
        free(xf), free(wf);
    }
}

void fp8_product_cpu(float *d, const float *base, const uint8_t *a, const float *a_scale,
                     const uint8_t *b, const float *b_scale, int64_t m, int64_t n, int64_t k) {
    fp8_grouped_cpu(d, base, a, a_scale, b, b_scale, NULL, (GroupedShape){m, k, n, 1});
}

void fp8_weight_cpu(float *dw, int add, const uint8_t *dy_t, const float *dy_scale,
                    const uint8_t *x_t, const float *x_scale, const int32_t *offsets,
                    GroupedShape s) {
    int64_t experts = offsets ? s.experts : 1, padded = fp8_padded_rows(s.rows, (int)experts);
    float *dy = rows_of_codes(dy_t, dy_scale, 0, s.out, fp8_scale_stride(s.out), padded);
    float *x = rows_of_codes(x_t, x_scale, 0, s.in, fp8_scale_stride(s.in), padded);
    for (int64_t e = 0, first = 0; e < experts; e++) {
        int64_t rows = offsets ? offsets[e + 1] - offsets[e] : s.rows;
        float *to = dw + e * s.out * s.in;
        cpu_matmul(&(CpuMatmul){to,
                                add ? to : NULL,
                                s.in,
                                {dy + first, padded, 1},
                                {x + first, 1, padded},
                                s.out,
                                s.in,
                                rows});
        first += fp8_blocks(rows) * FP8_STEP;
    }
    free(dy), free(x);
}
