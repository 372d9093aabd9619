/*
 * The demo's first half, on numbers alone: normally distributed ones, as weights are, and then the
 * same with one that is far larger than its neighbours, as activations have them.
 */
#include "08_quant/demo.h"

#include "common/core/rng.h"
#include "common/program/plot.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- 1. formats ---- */

enum { ROWS = 64, IN = 1024 };

/* A format by its name; NF4 has a function of its own. */
static const struct {
    const char *name;
    DType dtype;
    bool nf4;
} formats[] = {{"INT8", U8, false},
               {"E4M3", F8_E4M3, false},
               {"E5M2", F8_E5M2, false},
               {"INT4", I4, false},
               {"NF4", I4, true}};
enum { FORMATS = sizeof formats / sizeof *formats };

static float *normal_numbers(uint64_t seed, int64_t count) {
    float *x = must_alloc((size_t)count, sizeof *x);
    for (int64_t i = 0; i < count; i++) x[i] = rng_normal(seed, 0, (uint64_t)i);
    return x;
}

/* Error of a row's numbers in blocks of so many. */
static double error_of(const float *w, int format, int block) {
    float *back = must_alloc(ROWS * IN, sizeof *back);
    if (formats[format].nf4) {
        uint8_t *codes = must_alloc(ROWS * IN / 2, 1);
        float *scales = must_alloc((size_t)(ROWS * IN / block), sizeof *scales);
        quantise_nf4(codes, scales, w, ROWS * IN, block, NULL);
        dequantise_nf4(back, codes, scales, ROWS * IN, block);
        free(codes);
        free(scales);
    } else {
        const QuantFormat f = {formats[format].dtype, 1, block, false};
        quant_round_trip(back, NULL, w, ROWS, IN, &f, NULL);
    }
    double error = quant_error(back, w, ROWS * IN);
    free(back);
    return error;
}

/* The positive numbers of a format, its largest as 1: what the chart of ticks is drawn from. */
static void list_numbers(const Demo *d) {
    Csv csv = figure_open(&d->ctx, DEMO_OUT "numbers.csv", "format,value");
    for (int k = 1; k <= 127; k++) csv_row(&csv, "INT8,%.9g", k / 127.0);
    for (int c = 1; c < 127; c++)
        csv_row(&csv, "E4M3,%.9g", (double)e4m3_to_float((uint8_t)c) / 448);
    for (int k = 1; k <= 7; k++) csv_row(&csv, "INT4,%.9g", k / 7.0);
    for (int c = 8; c < 16; c++) csv_row(&csv, "NF4,%.9g", (double)quant_nf4[c]);
    figure_close(&csv, "08_quant/figures/numbers");
}

void demo_formats(const Demo *d) {
    static const int blocks[] = {1024, 128, 64, 32};
    float *w = normal_numbers(d->options.common.seed, ROWS * IN);
    Csv csv = figure_open(&d->ctx, DEMO_OUT "bits.csv", "format,block,bits,error");
    printf("1. Formats: %d x %d normal numbers, rounded and back\n"
           "   bits of a number with its share of the scales (F32), and the error that is\n"
           "   left, ||w' - w|| / ||w||, in per cent\n\n"
           "   a scale for      a row           128            64            32 numbers\n"
           "                 bits  error    bits  error    bits  error    bits  error\n",
           ROWS, IN);
    for (int f = 0; f < FORMATS; f++) {
        printf("   %-12s", formats[f].name);
        for (int b = 0; b < 4; b++) {
            const QuantFormat format = {formats[f].dtype, 1, blocks[b], false};
            double bits = quant_bits(&format, ROWS, IN), error = error_of(w, f, blocks[b]);
            printf("%s%5.2f %6.2f", b ? "   " : "", bits, 100 * error);
            csv_row(&csv, "%s,%d,%.4f,%.6f", formats[f].name, blocks[b], bits, error);
        }
        printf("\n");
    }
    printf("\n   Whole numbers gain by smaller blocks: their steps are as wide as the block's\n"
           "   largest number asks for. Floats hardly do: each brings its own exponent.\n");
    figure_close(&csv, "08_quant/figures/bits");
    list_numbers(d);
    printf("\n");
    free(w);
}

/* ---- 2. an outlier ---- */

enum { TOKENS = 16, WIDTH = 4096, OUTLIER = 7 };

/* Error of all columns but the outlier's. */
static double error_beside(const float *x, float *back, const QuantFormat *format) {
    double lost = 0, all = 0;
    quant_round_trip(back, NULL, x, TOKENS, WIDTH, format, NULL);
    for (int64_t i = 0; i < TOKENS * WIDTH; i++) {
        if (i % WIDTH == OUTLIER) continue;
        lost += ((double)back[i] - x[i]) * ((double)back[i] - x[i]);
        all += (double)x[i] * x[i];
    }
    return sqrt(lost / all);
}

void demo_outliers(const Demo *d) {
    static const float factors[] = {1, 3, 10, 30, 100, 300, 1e3f, 1e4f, 1e5f, 1e6f};
    enum { FACTORS = sizeof factors / sizeof *factors, SHOWN = 4 };
    static const QuantFormat ways[] = {
        {U8, 1, 0, false}, {U8, 1, 128, false}, {F8_E4M3, 1, 0, false}, {F8_E4M3, 1, 128, false}};
    static const char *const names[] = {"INT8, a token", "INT8, 1 x 128", "E4M3, a token",
                                        "E4M3, 1 x 128"};
    float *x = normal_numbers(d->options.common.seed + 1, TOKENS * WIDTH);
    float *back = must_alloc(TOKENS * WIDTH, sizeof *back);
    double shown[SHOWN] = {0};
    Csv csv = figure_open(&d->ctx, DEMO_OUT "outliers.csv",
                          "outlier,int8_token,int8_block,e4m3_token,e4m3_block");
    printf("2. An outlier: %d tokens of %d normal numbers, of which one is far larger\n"
           "   error of all the others, in per cent\n\n"
           "   it is         INT8, one scale a          E4M3, one scale a\n"
           "                 token     1 x 128          token     1 x 128\n",
           TOKENS, WIDTH);
    for (int f = 0; f < FACTORS; f++) {
        double error[4];
        for (int t = 0; t < TOKENS; t++) x[t * WIDTH + OUTLIER] = factors[f];
        for (int way = 0; way < 4; way++) error[way] = error_beside(x, back, &ways[way]);
        printf("   %-10.0f %8.2f %11.2f     %10.2f %11.2f\n", (double)factors[f], 100 * error[0],
               100 * error[1], 100 * error[2], 100 * error[3]);
        csv_row(&csv, "%g,%.6f,%.6f,%.6f,%.6f", (double)factors[f], error[0], error[1], error[2],
                error[3]);
        for (int way = 0; way < 4 && factors[f] == 100; way++) shown[way] = 100 * error[way];
    }
    printf("\n   At an outlier of 100, in per cent:\n");
    text_bars(names, shown, SHOWN, "%");
    printf("   INT8's steps are even: an outlier of 10 trebles them for all who share its\n"
           "   scale. E4M3's steps shrink with the number: it does not notice until the\n"
           "   small ones fall beneath its smallest, and then blocks help it, too.\n");
    figure_close(&csv, "08_quant/figures/outliers");
    printf("\n");
    free(x);
    free(back);
}
