/*
 * Figures of chapter 08 for the book: the error of a row of weights by format and by who shares a
 * scale, with an outlier of the reader's size; the reader's own numbers, rounded.
 */
#include "08_quant/formats.h"
#include "common/program/web.h"

#include <math.h>
#include <stdlib.h>

enum { ROWS = 16, IN = 512, COUNT = ROWS * IN, FORMATS = 5, NF4 = 4, MOST = 32 };

static const DType dtypes[FORMATS - 1] = {U8, F8_E4M3, F8_E5M2, I4};

/* w as it is after a round trip in one of the formats; `block` numbers of a row share a scale, 0:
 * the row. Returns the bits of a number. */
static double round_trip(float *to, const float *w, int64_t out, int64_t in, int format,
                         int block) {
    Error err;
    if (format == NF4) {
        int64_t count = out * in, share = block ? block : in;
        uint8_t *codes = must_alloc((size_t)(count + 1) / 2, 1);
        float *scales = must_alloc((size_t)((count + share - 1) / share), sizeof *scales);
        if (quantise_nf4(codes, scales, w, count, (int)share, &err)) fatal("%s", err.text);
        dequantise_nf4(to, codes, scales, count, (int)share);
        free(codes), free(scales);
        return 4 + 32.0 / (double)share;
    }
    QuantFormat f = {dtypes[format], 1, block, SCALE_ANY};
    if (quant_round_trip(to, NULL, w, out, in, &f, &err)) fatal("%s", err.text);
    return quant_bits(&f, out, in);
}

/* outlier, at every n-th place none, block -> errors [5] and bits [5] of INT8, E4M3, E5M2, INT4 and
 * NF4: of all numbers but the outlier's. */
WEB(error) {
    static const int blocks[] = {0, 128, 64, 32, 16};
    int block = blocks[web_int("block", 0, 4)];
    float outlier = (float)web_number("outlier", 1, 1e6), *w = must_alloc(COUNT, sizeof *w);
    float *back = must_alloc(COUNT, sizeof *back);
    double error[FORMATS], bits[FORMATS];
    for (int i = 0; i < COUNT; i++) w[i] = rng_normal(1, 8, (uint64_t)i);
    for (int r = 0; r < ROWS && outlier > 1; r++) w[r * IN] = outlier;
    for (int f = 0; f < FORMATS; f++) {
        double off = 0, all = 0;
        bits[f] = round_trip(back, w, ROWS, IN, f, block);
        for (int i = 0; i < COUNT; i++) {
            if (outlier > 1 && i % IN == 0) continue;
            off += ((double)back[i] - w[i]) * ((double)back[i] - w[i]), all += (double)w[i] * w[i];
        }
        error[f] = sqrt(off / all);
    }
    web_doubles("error", error, FORMATS);
    web_doubles("bits", bits, FORMATS);
    free(w), free(back);
}

/* numbers (the reader's, a block with one scale), format -> back [n], scale: the step of whole
 * numbers; error. */
WEB(numbers) {
    float w[MOST], back[MOST], amax = 0;
    int format = web_int("format", 0, FORMATS - 1), n = web_list(w, MOST - 1, "numbers", -1e6, 1e6);
    web_value("count", n);
    if (!n) return;
    int padded = n + n % 2; /* codes of four bits come in pairs */
    for (int i = n; i < padded; i++) w[i] = 0;
    for (int i = 0; i < n; i++) amax = fmaxf(amax, fabsf(w[i]));
    round_trip(back, w, 1, padded, format, 0);
    QuantFormat f = {format == NF4 ? I4 : dtypes[format], 1, 0, SCALE_ANY};
    web_floats("numbers", w, n);
    web_floats("back", back, n);
    web_value("scale", format == NF4 ? amax : quant_scale(amax, &f));
    web_value("error", quant_error(back, w, n));
}
