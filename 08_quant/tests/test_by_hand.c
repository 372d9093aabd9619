/*
 * The numbers that the lesson works out by hand, through the chapter's own functions. Nearly all
 * are sums of a few powers of two, and compared for equality.
 */
#include "08_quant/formats.h"
#include "08_quant/methods/gptq.h"
#include "common/program/testing.h"

#include <math.h>
#include <string.h>

static const float eight[8] = {1.125f, -0.25f, 0.5f, -1.75f, 0.0625f, 0.875f, -0.625f, 0.375f};

static void check_numbers(const char *what, const float *got, const float *want, int count) {
    for (int i = 0; i < count; i++)
        cr_expect(got[i] == want[i], "%s: number %d is %g, not %g", what, i, (double)got[i],
                  (double)want[i]);
}

Test(by_hand, eight_numbers_in_four_bits) {
    static const float row[8] = {1, -0.25f, 0.5f, -1.75f, 0, 1, -0.5f, 0.5f};
    static const float halves[8] = {1, -0.25f, 0.5f, -1.75f, 0, 0.875f, -0.625f, 0.375f};
    static const uint8_t bytes[4] = {0x8c, 0xc7, 0x6a, 0xa1};
    uint8_t codes[4];
    float scale[2], back[8];
    QuantFormat f = {I4, 1, 0, false};
    check_ok(quantise(codes, scale, eight, 1, 8, &f, &err), &err);
    cr_expect(scale[0] == 0.25f && memcmp(codes, bytes, 4) == 0, "%02x %02x %02x %02x", codes[0],
              codes[1], codes[2], codes[3]);
    dequantise(back, codes, scale, 1, 8, &f);
    check_numbers("a row", back, row, 8);
    f.block_in = 4;
    check_ok(quant_round_trip(back, scale, eight, 1, 8, &f, &err), &err);
    check_all(scale[0] == 0.25f, scale[1] == 0.125f);
    check_numbers("two groups", back, halves, 8);
}

Test(by_hand, an_outlier_and_the_others) {
    float w[8], back[8], scale;
    static const float nothing[8] = {112, 0, 0, 0, 0, 0, 0, 0};
    memcpy(w, eight, sizeof w);
    w[0] = 112;
    check_ok(quant_round_trip(back, &scale, w, 1, 8, &(QuantFormat){I4, 1, 0, false}, &err), &err);
    cr_expect(scale == 16);
    check_numbers("INT4", back, nothing, 8);
    check_ok(quant_round_trip(back, &scale, w, 1, 8, &(QuantFormat){F8_E4M3, 1, 0, false}, &err),
             &err);
    cr_expect(scale == 0.25f);
    check_numbers("E4M3", back, w, 8);
}

Test(by_hand, codes_of_e4m3) {
    static const struct {
        float x;
        uint8_t code;
    } codes[] = {{1, 0x38},       {1.125f, 0x39},   {-2, 0xc0},  {448, 0x7e},
                 {17, 0x58},      {19, 0x5a},       {300, 0x79}, {0.015625f, 0x08},
                 {0x1p-9f, 0x01}, {0x1p-10f, 0x00}, {1000, 0x7e}};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        cr_expect(e4m3_from_float(codes[i].x) == codes[i].code, "%g is 0x%02x, not 0x%02x",
                  (double)codes[i].x, e4m3_from_float(codes[i].x), codes[i].code);
}

/* Three tokens, two outputs. In INT8 the scale of both rows is 127 / 127 = 1. */
static const float tokens[3][3] = {{4, 0, 0}, {2, 4, 0}, {3, 2, 4}};
static const float gram[9] = {29, 14, 12, 14, 20, 8, 12, 8, 16}; /* X^T X */
static const float weights[6] = {1.4f, 2.4f, 127, -0.7f, 127, 0.3f};
static const float nearest[6] = {1, 2, 127, -1, 127, 0};
static const float by_gptq[6] = {1, 3, 127, -1, 127, 1};

/* ||X (w - right)^T||^2 of one row */
static double lost(const float *w, const float *right) {
    double sum = 0;
    for (int t = 0; t < 3; t++) {
        double y = 0;
        for (int j = 0; j < 3; j++) y += (double)tokens[t][j] * ((double)w[j] - right[j]);
        sum += y * y;
    }
    return sum;
}

Test(by_hand, gptq) {
    float w[6], scales[2];
    QuantFormat f = {U8, 1, 0, false};
    memcpy(w, weights, sizeof w);
    check_ok(gptq(w, scales, gram, 2, 3, &f, (GptqSettings){0}, &err), &err);
    check_all(scales[0] == 1, scales[1] == 1);
    check_numbers("GPTQ", w, by_gptq, 6);
    /* Sums of squares of decimal numbers. */
    check_all(fabs(lost(nearest, weights) - 12.32) < 1e-5, fabs(lost(w, weights) - 5.12) < 1e-5,
              fabs(lost(nearest + 3, weights + 3) - 6.21) < 1e-5,
              fabs(lost(w + 3, weights + 3) - 5.41) < 1e-5);
}
