/*
 * Methods on plain matrices: against our own float64 implementations in Python, which go another
 * way (tools/goldens/08_quant.py), and against what must hold for any numbers.
 */
#include "08_quant/methods/awq.h"
#include "08_quant/methods/gptq.h"
#include "08_quant/methods/int8.h"
#include "common/core/cpu_matmul.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define GOLDEN "08_quant/goldens/methods.safetensors"

/*
 * Of the goldens' rounding decisions none is closer than 2e-5 of a step. Between them is F32 with
 * sums of up to 160 products, so 1e-6 or so, on numbers that a wrong decision changes by 1/7.
 */
#define CLOSE 2e-5

static float *copy(const float *x, int64_t n) {
    float *y = test_floats(n);
    memcpy(y, x, (size_t)n * sizeof *y);
    return y;
}

static InputStats stats_of(const float *x, int64_t rows, int64_t in) {
    InputStats stats;
    input_stats_init(&stats, in, rows);
    input_stats_add(&stats, x, rows);
    return stats;
}

/* ||X (a - b)^T|| / ||X b^T|| */
static double output_error(const InputStats *stats, const float *a, const float *b, int64_t out) {
    float *d = test_floats(out * stats->in);
    for (int64_t i = 0; i < out * stats->in; i++) d[i] = a[i] - b[i];
    return sqrt(input_square(stats, d, out) / input_square(stats, b, out));
}

/* ---- GPTQ ---- */

enum { DEAD = 5 };

/* As in the script: X^T X of inputs that are all alike, more so where they are near. */
static float *toeplitz(int in) {
    float *gram = test_floats(in * in);
    for (int i = 0; i < in; i++)
        for (int j = 0; j < in; j++) {
            double a = i == DEAD ? 0 : 1 + i * 7 % 5, b = j == DEAD ? 0 : 1 + j * 7 % 5;
            gram[i * in + j] = (float)((0.5 + 0.5 * pow(0.9, abs(i - j))) * a * b);
        }
    return gram;
}

Test(gptq, eliminates_as_by_hand) {
    const struct {
        const char *name, *w;
        int out, in, group;
        bool act_order;
    } cases[] = {{"row", "gptq.w", 5, 160, 0, false},
                 {"group", "gptq.w", 5, 160, 32, false},
                 {"order", "gptq.w", 5, 160, 32, true},
                 {"wide", "gptq.wide.w", 6, 384, 192, false}};
    SafeTensors *golden = golden_open(GOLDEN);
    for (int c = 0; c < 4; c++) {
        char name[32];
        int out = cases[c].out, in = cases[c].in;
        QuantFormat f = {I4, 1, cases[c].group, false};
        int64_t n = quant_scale_count(&f, out, in);
        float *w = copy(golden_values(golden, cases[c].w), out * in), *s = test_floats(n);
        check_ok(
            gptq(w, s, toeplitz(in), out, in, &f, (GptqSettings){0.01f, cases[c].act_order}, &err),
            &err);
        snprintf(name, sizeof name, "gptq.%s.scales", cases[c].name);
        check_close(name, s, golden_values(golden, name), n, CLOSE);
        snprintf(name, sizeof name, "gptq.%s", cases[c].name);
        check_close(name, w, golden_values(golden, name), out * in, CLOSE);
        /* Codes for these scales are worth exactly what it left. */
        uint8_t q[6 * 384];
        float *back = test_floats(out * in);
        check_ok(quantise_with(q, s, w, out, in, &f, &err), &err);
        dequantise(back, q, s, out, in, &f);
        check_close("codes", back, w, out * in, 0);
    }
}

/* Inputs that have nothing to do with each other cannot make up for each other. */
Test(gptq, uncorrelated_inputs_leave_rounding_to_nearest) {
    Context ctx = test_context(CPU, F32);
    const float *w = test_normal(&ctx, "w", 1, SHAPE(9, 64))->data;
    float gram[64 * 64] = {0}, s[18], nearest_s[18], *nearest = test_floats(9 * 64);
    for (int j = 0; j < 64; j++) gram[j * 65] = (float)(1 + j % 3);
    QuantFormat f = {I4, 1, 32, false};
    check_ok(quant_round_trip(nearest, nearest_s, w, 9, 64, &f, &err), &err);
    for (int order = 0; order < 2; order++) {
        float *ours = copy(w, 9 * 64);
        check_ok(gptq(ours, s, gram, 9, 64, &f, (GptqSettings){0.01f, order}, &err), &err);
        check_close("weights", ours, nearest, 9 * 64, 0);
        check_close("scales", s, nearest_s, 18, 0);
    }
}

/* Correlated inputs X = Z A with the same A: x [rows, in]. */
static float *correlated(Context *ctx, uint64_t stream, int64_t rows, int64_t in) {
    const float *z = test_normal(ctx, "z", stream, SHAPE(rows, in / 2))->data;
    const float *a = test_normal(ctx, "a", 99, SHAPE(in, in / 2))->data;
    float *x = test_floats(rows * in);
    const float *noise = test_normal(ctx, "noise", stream + 50, SHAPE(rows, in))->data;
    cpu_matmul_reference(&(CpuMatmul){.c = x,
                                      .c_row = in,
                                      .a = {z, in / 2, 1},
                                      .b = {a, 1, in / 2},
                                      .m = rows,
                                      .n = in,
                                      .k = in / 2});
    for (int64_t i = 0; i < rows * in; i++) x[i] += noise[i];
    return x;
}

/* On a text that it has not seen it must win, too. Ragged sizes: the last batch is a short one. */
Test(gptq, loses_less_than_rounding_to_nearest) {
    const struct {
        int64_t out, in;
        int group;
        bool act_order;
    } cases[] = {{33, 128, 0, false},  {17, 192, 64, false}, {31, 192, 64, true},
                 {7, 256, 256, false}, {1, 96, 32, false},   {5, 512, 256, false}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        Context ctx = test_context(CPU, F32);
        int64_t out = cases[c].out, in = cases[c].in;
        QuantFormat f = {I4, 1, cases[c].group, false};
        const float *w = test_normal(&ctx, "w", 7, SHAPE(out, in))->data;
        InputStats seen = stats_of(correlated(&ctx, 1, 4 * in, in), 4 * in, in);
        InputStats unseen = stats_of(correlated(&ctx, 2, in, in), in, in);
        float *nearest = test_floats(out * in), *ours = copy(w, out * in);
        float *s = test_floats(quant_scale_count(&f, out, in));
        check_ok(quant_round_trip(nearest, NULL, w, out, in, &f, &err), &err);
        check_ok(
            gptq(ours, s, seen.gram, out, in, &f, (GptqSettings){0.01f, cases[c].act_order}, &err),
            &err);
        double plain = output_error(&unseen, nearest, w, out),
               less = output_error(&unseen, ours, w, out);
        cr_expect(less < 0.75 * plain, "case %zu: %g, rounding to nearest %g", c, less, plain);
    }
}

Test(gptq, too_little_text_is_said) {
    float w[2 * 32] = {1}, s[2], gram[32 * 32];
    for (int i = 0; i < 32 * 32; i++) gram[i] = 1; /* one token */
    QuantFormat f = {I4, 1, 0, false};
    cr_expect(gptq(w, s, gram, 2, 32, &f, (GptqSettings){1e-30f, false}, &err) == -1);
    cr_expect(strstr(err.text, "not positive definite") && strstr(err.text, "longer text"), "%s",
              err.text);
    w[40] = NAN;
    cr_expect(gptq(w, s, gram, 2, 32, &f, (GptqSettings){0.01f, false}, &err) == -1);
    cr_expect(strstr(err.text, "number [1, 8]"), "%s", err.text);
    f.block_in = 24;
    cr_expect(gptq(w, s, gram, 2, 32, &f, (GptqSettings){0.01f, false}, &err) == -1);
    cr_expect(strstr(err.text, "groups of 24"), "%s", err.text);
}

/* Nothing was seen of an input: its weight is rounded by itself, and nothing is not a number. */
Test(gptq, without_any_input_it_rounds_to_nearest) {
    Context ctx = test_context(CPU, F32);
    const float *w = test_normal(&ctx, "w", 3, SHAPE(3, 32))->data;
    float gram[32 * 32] = {0}, s[3], nearest[3 * 32], *ours = copy(w, 3 * 32);
    QuantFormat f = {I4, 1, 0, false};
    check_ok(quant_round_trip(nearest, NULL, w, 3, 32, &f, &err), &err);
    check_ok(gptq(ours, s, gram, 3, 32, &f, (GptqSettings){0.01f, true}, &err), &err);
    check_close("weights", ours, nearest, 3 * 32, 0);
}

/* ---- AWQ ---- */

Test(awq, scales_and_clips_as_by_trying_all) {
    SafeTensors *golden = golden_open(GOLDEN);
    const float *x = golden_values(golden, "x");
    float *a = copy(golden_values(golden, "a"), 12 * 32),
          *b = copy(golden_values(golden, "b"), 7 * 32);
    InputStats stats = stats_of(x, 60, 32);
    float mean[32], s[32];
    for (int j = 0; j < 32; j++) mean[j] = stats.sum_abs[j] / 60;
    QuantFormat f = {I4, 1, 16, false};
    InputReader readers[] = {{&stats, a, 12}, {&stats, b, 7}};
    double r = awq_scales(s, readers, 2, mean, 32, &f);
    cr_assert(fabs(r - (double)golden_values(golden, "awq.r")[0]) < 1e-6, "r = %g", r);
    check_close("s", s, golden_values(golden, "awq.s"), 32, 1e-5); /* powf of a mean of 60 */
    awq_clip(a, 12, &stats, &f);
    check_close("clipped", a, golden_values(golden, "awq.clip"), 12 * 32, 1e-6);
}

/* A few channels with large inputs, as models have them: finer steps there are worth it. */
Test(awq, loses_less_than_rounding_to_nearest) {
    enum { ROWS = 200, WIDTH = 128, HIGH = 24 };
    Context ctx = test_context(CPU, F32);
    const float *z = test_normal(&ctx, "x", 1, SHAPE(ROWS, WIDTH))->data;
    float *w = test_normal(&ctx, "w", 2, SHAPE(HIGH, WIDTH))->data, *x = copy(z, ROWS * WIDTH);
    for (int i = 0; i < ROWS; i++) x[i * WIDTH + 9] *= 20, x[i * WIDTH + 70] *= 30;
    InputStats stats = stats_of(x, ROWS, WIDTH);
    QuantFormat f = {I4, 1, 64, false};
    float *nearest = test_floats(HIGH * WIDTH), *ours = copy(w, HIGH * WIDTH), s[WIDTH],
          mean[WIDTH];
    check_ok(quant_round_trip(nearest, NULL, w, HIGH, WIDTH, &f, &err), &err);
    for (int j = 0; j < WIDTH; j++) mean[j] = stats.sum_abs[j] / ROWS;
    InputReader reader = {&stats, w, HIGH};
    cr_expect(awq_scales(s, &reader, 1, mean, WIDTH, &f) > 0);
    check_all(s[9] > s[8], s[70] > s[71]);
    for (int i = 0; i < HIGH * WIDTH; i++) ours[i] *= s[i % WIDTH];
    check_ok(quant_round_trip(ours, NULL, ours, HIGH, WIDTH, &f, &err), &err);
    for (int i = 0; i < HIGH * WIDTH; i++) ours[i] /= s[i % WIDTH];
    double plain = output_error(&stats, nearest, w, HIGH),
           less = output_error(&stats, ours, w, HIGH);
    cr_expect(less < 0.6 * plain, "%g, rounding to nearest %g", less, plain);
}

Test(awq, channels_without_input_do_no_harm) {
    float x[4 * 8] = {0}, w[8] = {1, -2, 3, 4, 5, 6, 7, 8}, s[8], mean[8] = {0};
    for (int i = 0; i < 4; i++) mean[2] = x[i * 8 + 2] = 3;
    InputStats stats = stats_of(x, 4, 8);
    QuantFormat f = {I4, 1, 0, false};
    awq_scales(s, &(InputReader){&stats, w, 1}, 1, mean, 8, &f);
    for (int j = 0; j < 8; j++)
        cr_assert(s[j] > 0 && isfinite(s[j]), "s[%d] = %g", j, (double)s[j]);
    awq_clip(w, 1, &stats, &f);
    cr_assert(fabsf(w[7]) <= 8 && isfinite(w[7]));
}

/* ---- INT8 activations ---- */

Test(int8, smoothquant_is_equation_4) {
    SafeTensors *golden = golden_open(GOLDEN);
    const float *x = golden_values(golden, "x"), *a = golden_values(golden, "a");
    const float *b = golden_values(golden, "b");
    InputStats stats = stats_of(x, 60, 32);
    float max_w[32] = {0}, s[32], zeros[32] = {0};
    for (int i = 0; i < 12 * 32; i++) max_w[i % 32] = fmaxf(max_w[i % 32], fabsf(a[i]));
    for (int i = 0; i < 7 * 32; i++) max_w[i % 32] = fmaxf(max_w[i % 32], fabsf(b[i]));
    smoothquant_scales(s, stats.max_abs, max_w, 32, 0.5f);
    check_close("s", s, golden_values(golden, "smooth.s"), 32, 1e-6);
    smoothquant_scales(s, zeros, zeros, 32, 0.5f); /* both as 1e-5 */
    cr_assert(fabsf(s[0] - 1) < 1e-6f, "%g", (double)s[0]);
}

Test(int8, the_product_is_bitsandbytes) {
    SafeTensors *golden = golden_open(GOLDEN);
    const float *x = golden_values(golden, "few"), *a = golden_values(golden, "a");
    uint8_t q[12 * 32], outlier[32];
    float s[12], y[9 * 12], rounded[9 * 32], w[12 * 32], again[9 * 12];
    check_ok(quantise(q, s, a, 12, 32, &(QuantFormat){U8, 1, 0, false}, &err), &err);
    int8_linear(y, x, q, s, 9, 32, 12, LLMINT8_THRESHOLD);
    check_close("y", y, golden_values(golden, "llmint8"), 9 * 12, 1e-6);
    check_all(int8_outliers(outlier, x, 9, 32, 6) == 2, outlier[7], outlier[20], !outlier[8]);

    /* What int8_activations() leaves, times the dequantised weights, is the same product. */
    for (int threshold = 0; threshold < 2; threshold++) {
        float limit = threshold ? LLMINT8_THRESHOLD : INFINITY;
        int8_linear(y, x, q, s, 9, 32, 12, limit);
        int8_activations(rounded, x, 9, 32, limit);
        dequantise(w, q, s, 12, 32, &(QuantFormat){U8, 1, 0, false});
        cpu_matmul_reference(&(CpuMatmul){.c = again,
                                          .c_row = 12,
                                          .a = {rounded, 32, 1},
                                          .b = {w, 1, 32},
                                          .m = 9,
                                          .n = 12,
                                          .k = 32});
        check_close("again", again, y, 9 * 12, 1e-6);
    }
}

/* The scale is a token's, along the sum: a large token does not harm the others. */
Test(int8, a_token_has_its_own_scale) {
    float x[3 * 16], rounded[3 * 16];
    for (int i = 0; i < 3 * 16; i++) x[i] = (i / 16 == 1 ? 1000.f : 1.f) * (float)(i % 16 - 8) / 8;
    int8_activations(rounded, x, 3, 16, INFINITY);
    for (int i = 0; i < 3 * 16; i++) {
        float step = (i / 16 == 1 ? 1000.f : 1.f) / 127;
        cr_assert(fabsf(rounded[i] - x[i]) <= 0.5001f * step, "%d: %g became %g", i, (double)x[i],
                  (double)rounded[i]);
    }
}

Test(int8, what_is_no_number_stays_none) {
    float x[2 * 4] = {1, NAN, 2, 3, 4, 5, INFINITY, 6}, y[8];
    int8_activations(y, x, 2, 4, INFINITY);
    check_all(isnan(y[1]), isinf(y[6]), fabsf(y[3] - 3) < 0.03f, fabsf(y[7] - 6) < 0.03f);
    memset(x, 0, sizeof x);
    int8_activations(y, x, 2, 4, 6);
    check_all(y[0] == 0, y[7] == 0);
}

/* ---- what is known of inputs ---- */

Test(inputs, sums_are_those_of_the_rows) {
    enum { ROWS = 300, WIDTH = 17, HIGH = 5 };
    Context ctx = test_context(CPU, F32);
    const float *x = test_normal(&ctx, "x", 1, SHAPE(ROWS, WIDTH))->data;
    const float *w = test_normal(&ctx, "w", 2, SHAPE(HIGH, WIDTH))->data;
    InputStats s, all, part;
    input_stats_init(&s, WIDTH, ROWS);
    for (int i = 0; i < ROWS; i += 100) input_stats_add(&s, x + i * WIDTH, 100);
    double square = 0, most = 0, sum = 0;
    for (int i = 0; i < ROWS; i++) {
        most = fmax(most, fabs((double)x[i * WIDTH + 3]));
        sum += fabs((double)x[i * WIDTH + 3]);
        for (int o = 0; o < HIGH; o++) {
            double y = 0;
            for (int j = 0; j < WIDTH; j++) y += (double)x[i * WIDTH + j] * w[o * WIDTH + j];
            square += y * y;
        }
    }
    check_all(s.rows == ROWS, s.samples == 100, s.stride == 3, s.sample[WIDTH] == x[3 * WIDTH],
              s.max_abs[3] == (float)most, fabs(s.sum_abs[3] / sum - 1) < 1e-6,
              fabs(input_square(&s, w, HIGH) / square - 1) < 1e-5);

    input_stats_init(&all, WIDTH, ROWS); /* two halves joined */
    input_stats_add(&all, x, 100);
    part = stats_of(x + 100 * WIDTH, 200, WIDTH);
    input_stats_join(&all, &part);
    check_close("gram", all.gram, s.gram, WIDTH * WIDTH, 1e-5);
    check_all(all.rows == ROWS, all.max_abs[3] == s.max_abs[3]);

    float by[WIDTH], *divided = copy(x, ROWS * WIDTH); /* X / s, seen anew or reckoned */
    for (int j = 0; j < WIDTH; j++) by[j] = 0.5f + (float)j;
    for (int i = 0; i < ROWS * WIDTH; i++) divided[i] /= by[i % WIDTH];
    part = stats_of(divided, ROWS, WIDTH);
    input_stats_divide(&s, by);
    check_close("gram", s.gram, part.gram, WIDTH * WIDTH, 1e-5);
    check_close("sum", s.sum_abs, part.sum_abs, WIDTH, 1e-5);
    check_close("sample", s.sample, part.sample, 100 * WIDTH, 1e-6);
    input_stats_free(&s);
}
