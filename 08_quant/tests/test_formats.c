/*
 * Formats against PyTorch, code by code, and against what must hold for any numbers.
 *
 * All comparisons with goldens are for equality: scales and codes are made by one division and one
 * rounding each, in F32 on both sides.
 */
#include "08_quant/formats.h"

#include "common/core/memory.h"
#include "common/program/testing.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#define GOLDEN "08_quant/goldens/formats.safetensors"

static const Tensor *get(SafeTensors *golden, const char *name) {
    const Tensor *t = safetensors_find(golden, name);
    cr_assert(t, "no tensor '%s' in " GOLDEN, name);
    return t;
}

/* The same number, bit by bit, or both NaN. */
static bool same(float a, float b) {
    return isnan(a) ? isnan(b) : a == b && !signbit(a) == !signbit(b);
}

static void check_bytes(const char *what, const uint8_t *a, const Tensor *expected) {
    const uint8_t *b = expected->data;
    for (int64_t i = 0; i < tensor_count(expected); i++)
        cr_assert(a[i] == b[i], "%s: byte %lld is 0x%02x, but should be 0x%02x", what, (long long)i,
                  a[i], b[i]);
}

/* ---- eight-bit floats ---- */

static const struct {
    const char *name;
    uint8_t (*from_float)(float);
    float (*to_float)(uint8_t);
} conversions[] = {
    {"e4m3", e4m3_from_float, e4m3_to_float},
    {"e5m2", e5m2_from_float, e5m2_to_float},
    {"e8m0", e8m0_from_float, e8m0_to_float},
};

Test(formats, every_code_is_pytorchs) {
    SafeTensors *golden = golden_open(GOLDEN);
    for (int f = 0; f < 3; f++) {
        char name[32];
        snprintf(name, sizeof name, "%s.values", conversions[f].name);
        const float *expected = golden_values(golden, name);
        for (int c = 0; c < 256; c++) {
            float value = conversions[f].to_float((uint8_t)c);
            cr_assert(same(value, expected[c]), "%s code 0x%02x is %.9g, but should be %.9g",
                      conversions[f].name, c, (double)value, (double)expected[c]);
        }
    }
}

Test(formats, every_code_comes_back) {
    for (int f = 0; f < 3; f++)
        for (int c = 0; c < 256; c++) {
            float value = conversions[f].to_float((uint8_t)c);
            if (isinf(value) || (f == 2 && c == 0)) continue; /* saturate: see below */
            int back = conversions[f].from_float(value);
            if (isnan(value)) /* of E5M2's three NaNs one is written, with its sign lost or not */
                cr_assert(isnan(conversions[f].to_float((uint8_t)back)),
                          "%s NaN 0x%02x became 0x%02x", conversions[f].name, c, back);
            else
                cr_assert(back == c, "%s 0x%02x came back as 0x%02x", conversions[f].name, c, back);
        }
}

Test(formats, floats_round_as_pytorchs) {
    SafeTensors *golden = golden_open(GOLDEN);
    for (int f = 0; f < 3; f++) {
        char name[32];
        snprintf(name, sizeof name, "%s.%s", f == 2 ? "positive" : "floats", conversions[f].name);
        const float *x = golden_values(golden, f == 2 ? "positive" : "floats");
        const uint8_t *expected = get(golden, name)->data;
        for (int64_t i = 0; i < tensor_count(get(golden, name)); i++) {
            uint8_t code = conversions[f].from_float(x[i]);
            bool nan = isnan(x[i]) && isnan(conversions[f].to_float(code));
            cr_assert(nan || code == expected[i], "%s of %.9g is 0x%02x, but should be 0x%02x",
                      conversions[f].name, (double)x[i], code, expected[i]);
        }
    }
}

Test(formats, what_is_too_large_saturates) {
    check_all(e4m3_from_float(INFINITY) == 0x7e, e4m3_from_float(-INFINITY) == 0xfe,
              e4m3_from_float(1e9f) == 0x7e, e5m2_from_float(INFINITY) == 0x7b,
              e5m2_from_float(-1e9f) == 0xfb, e8m0_from_float(INFINITY) == 254,
              e8m0_from_float(0) == 1, e8m0_from_float(FLT_MAX) == 254,
              e8m0_from_float(1e-45f) == 1);
}

Test(formats, power_of_two_scales_are_not_below_what_they_stand_for) {
    for (int i = 0; i < 2000; i++) {
        float x = exp2f((float)i * 0.05f - 50) * (1 + (float)(i % 7) * 0.1f);
        float power = e8m0_to_float(e8m0_from_float(x));
        cr_assert(power >= x && power < 2 * x, "%g became %g", (double)x, (double)power);
    }
}

/* ---- matrices ---- */

static const struct {
    const char *name;
    QuantFormat format;
} cases[] = {
    {"u8.tensor", {U8, 0, 0, false}},
    {"u8.channel", {U8, 1, 0, false}},
    {"u8.group", {U8, 1, 16, false}},
    {"u8.column", {U8, 0, 1, false}},
    {"i4.48", {I4, 1, 0, false}},
    {"i4.16", {I4, 1, 16, false}},
    {"i4.8", {I4, 1, 8, false}},
    {"e4m3", {F8_E4M3, 4, 20, false}},
    {"e4m3_ue8m0", {F8_E4M3, 4, 20, true}},
    {"e5m2", {F8_E5M2, 1, 0, false}},
};
enum { CASES = sizeof cases / sizeof cases[0] };

/* "NAME.codes" and so on; "e4m3" itself is also the name of the conversions' values. */
static const Tensor *part(SafeTensors *golden, const char *name, const char *suffix) {
    char text[64];
    snprintf(text, sizeof text, "%s.%s", name, suffix);
    return get(golden, text);
}

Test(formats, matrices_are_quantised_as_by_pytorch) {
    SafeTensors *golden = golden_open(GOLDEN);
    const Tensor *w = get(golden, "w");
    int64_t out = w->shape[0], in = w->shape[1];
    for (int c = 0; c < CASES; c++) {
        const QuantFormat *f = &cases[c].format;
        const Tensor *codes = part(golden, cases[c].name, "codes");
        const Tensor *scales = part(golden, cases[c].name, "scales");
        int64_t bytes = (int64_t)quant_code_bytes(f, out, in), n = quant_scale_count(f, out, in);
        cr_assert(bytes == tensor_count(codes) && n == tensor_count(scales), "%s: sizes",
                  cases[c].name);
        cr_assert(quant_scale_columns(f, in) == scales->shape[1]);
        uint8_t *q = must_alloc((size_t)bytes, 1), *again = must_alloc((size_t)bytes, 1);
        float *s = test_floats(n), *back = test_floats(out * in), *trip = test_floats(out * in);
        check_ok(quantise(q, s, w->data, out, in, f, &err), &err);
        check_close(cases[c].name, s, scales->data, n, 0);
        check_bytes(cases[c].name, q, codes);
        dequantise(back, q, s, out, in, f);
        check_ok(quant_round_trip(trip, NULL, w->data, out, in, f, &err), &err);
        check_close("round trip", trip, back, out * in, 0);
        /* What was written is written again as the same codes. */
        check_ok(quantise_with(again, s, back, out, in, f, &err), &err);
        check_bytes("written again", again, codes);
    }
}

Test(formats, zero_points_are_pytorchs) {
    SafeTensors *golden = golden_open(GOLDEN);
    const Tensor *w = get(golden, "shifted");
    int64_t out = w->shape[0], in = w->shape[1];
    for (int c = 0; c < 2; c++) {
        const char *name = c ? "affine4" : "affine";
        QuantFormat f = {c ? I4 : U8, 1, 16, false};
        int64_t n = quant_scale_count(&f, out, in);
        uint8_t *q = must_alloc(quant_code_bytes(&f, out, in), 1), *z = must_alloc((size_t)n, 1);
        float *s = test_floats(n), *back = test_floats(out * in);
        check_ok(quantise_affine(q, s, z, w->data, out, in, &f, &err), &err);
        check_close(name, s, part(golden, name, "scales")->data, n, 0);
        check_bytes(name, z, part(golden, name, "zeros"));
        check_bytes(name, q, part(golden, name, "codes"));
        dequantise_affine(back, q, s, z, out, in, &f);
        const float *x = w->data;
        for (int64_t i = 0; i < out * in; i++) /* half a step, and a hair for F32 */
            cr_assert(fabsf(back[i] - x[i]) <= 0.5001f * s[i / 16], "%lld: %g became %g",
                      (long long)i, (double)x[i], (double)back[i]);
    }
}

Test(formats, a_zero_point_keeps_zero) {
    float w[8] = {0, 1.7f, 2.3f, 5.1f, 0, -0.9f, 3.3f, 4}, s, back[8];
    uint8_t q[8], z;
    check_ok(quantise_affine(q, &s, &z, w, 1, 8, &(QuantFormat){U8, 1, 0, false}, &err), &err);
    dequantise_affine(back, q, &s, &z, 1, 8, &(QuantFormat){U8, 1, 0, false});
    check_all(back[0] == 0, back[4] == 0, z == q[0], z > 0);
}

Test(formats, nf4_is_bitsandbytes) {
    SafeTensors *golden = golden_open(GOLDEN);
    const float *w = get(golden, "w")->data;
    uint8_t q[48];
    float s[5], back[95];
    check_close("table", quant_nf4, golden_values(golden, "nf4.table"), 16,
                2e-7); /* published in 8 digits */
    check_ok(quantise_nf4(q, s, w, 95, 20, &err), &err);
    check_bytes("nf4", q, get(golden, "nf4.codes"));
    check_close("nf4", s, golden_values(golden, "nf4.scales"), 5, 0);
    dequantise_nf4(back, q, s, 95, 20);
    for (int i = 0; i < 95; i++) /* half of the widest gap, from -1 to -0.696 */
        cr_assert(fabsf(back[i] - w[i]) <= 0.1520f * s[i / 20], "%d: %g became %g", i, (double)w[i],
                  (double)back[i]);
}

/* ---- by hand ---- */

Test(formats, a_tie_goes_to_the_even_number) {
    check_all(quant_round(0.5f, U8) == 0, quant_round(1.5f, U8) == 2, quant_round(2.5f, I4) == 2,
              quant_round(-2.5f, I4) == -2, quant_round(-3.5f, U8) == -4,
              quant_round(17, F8_E4M3) == 16, quant_round(19, F8_E4M3) == 20,
              quant_round(200, U8) == 127, quant_round(-9, I4) == -7,
              quant_round(1e6f, F8_E4M3) == 448);
}

Test(formats, nibbles_lie_as_the_door_says) {
    float w[8] = {1, 2, 3, 4, 5, 6, 7, -7}, s[2];
    uint8_t q[4];
    check_ok(quantise(q, s, w, 1, 8, &(QuantFormat){I4, 1, 0, false}, &err), &err);
    check_all(s[0] == 1, q[0] == (0xd << 4 | 0x9), q[1] == (0xe << 4 | 0xa),
              q[2] == (0xf << 4 | 0xb), q[3] == (0x1 << 4 | 0xc));
    w[4] = 14; /* two groups of four: now the second has a scale of 2 */
    check_ok(quantise(q, s, w, 1, 8, &(QuantFormat){I4, 1, 4, false}, &err), &err);
    check_all(s[1] == 2, q[2] == (0xc << 4 | 0xf), q[3] == (0x4 << 4 | 0xb)); /* 14 6 | 7 -7 */
}

Test(formats, a_block_of_zeros_has_the_scale_one) {
    float w[256] = {0}, s[4], back[256];
    uint8_t q[256];
    const QuantFormat formats[] = {{U8, 1, 128, false},
                                   {I4, 1, 128, false},
                                   {F8_E4M3, 1, 128, false},
                                   {F8_E4M3, 1, 128, true}};
    for (int f = 0; f < 4; f++) {
        w[200] = 1; /* beside it a block that is not zero */
        check_ok(quantise(q, s, w, 1, 256, &formats[f], &err), &err);
        dequantise(back, q, s, 1, 256, &formats[f]);
        check_all(s[0] == 1, s[1]<1, back[0] == 0, back[127] == 0, back[199] == 0, back[200]> 0);
    }
    memset(w, 0, sizeof w);
    uint8_t z[2];
    check_ok(quantise_affine(q, s, z, w, 1, 256, &formats[0], &err), &err);
    check_all(s[0] == 1, z[0] == 0, q[0] == 0);
    check_ok(quantise_nf4(q, s, w, 256, 128, &err), &err);
    check_all(s[0] == 1, q[0] == 0x77);
}

Test(formats, the_smallest_numbers_make_no_infinity) {
    float w[4] = {1e-45f, -3e-42f, 0, 1e-40f}, s, back[4];
    uint8_t q[4];
    for (int f = 0; f < 3; f++) {
        QuantFormat format = {f ? F8_E4M3 : U8, 1, 0, f == 2};
        check_ok(quantise(q, &s, w, 1, 4, &format, &err), &err);
        dequantise(back, q, &s, 1, 4, &format);
        check_all(s == FLT_MIN, isfinite(back[0]), isfinite(back[1]), isfinite(back[3]));
    }
}

/* How far a number can be off: half a step of the block for integers; for E4M3 a sixteenth of
 * itself, or half of its smallest subnormal number. */
Test(formats, errors_stay_within_half_a_step) {
    const struct {
        int64_t out, in;
        QuantFormat format;
    } sizes[] = {{1, 1, {U8, 1, 0, false}},
                 {3, 31, {U8, 1, 0, false}},
                 {5, 33, {F8_E4M3, 128, 128, false}},
                 {129, 257, {F8_E4M3, 128, 128, false}},
                 {129, 257, {F8_E4M3, 128, 128, true}},
                 {7, 256, {I4, 1, 128, false}},
                 {2, 96, {I4, 2, 32, false}},
                 {65, 127, {U8, 64, 0, false}}};
    Context ctx = test_context(CPU, F32);
    for (size_t c = 0; c < sizeof sizes / sizeof sizes[0]; c++) {
        int64_t out = sizes[c].out, in = sizes[c].in;
        const QuantFormat *f = &sizes[c].format;
        Tensor *t = test_normal(&ctx, "w", c, SHAPE(out, in));
        const float *w = t->data;
        float *s = test_floats(quant_scale_count(f, out, in)), *back = test_floats(out * in);
        uint8_t *q = must_alloc(quant_code_bytes(f, out, in), 1);
        check_ok(quantise(q, s, w, out, in, f, &err), &err);
        dequantise(back, q, s, out, in, f);
        for (int64_t i = 0; i < out * in; i++) {
            int64_t rows = f->block_out ? f->block_out : out,
                    columns = f->block_in ? f->block_in : in;
            float scale = s[i / in / rows * quant_scale_columns(f, in) + i % in / columns];
            float step =
                f->dtype == F8_E4M3 ? fmaxf(fabsf(w[i]) / 16, scale * 0x1p-10f) : scale / 2;
            cr_assert(fabsf(back[i] - w[i]) <= 1.0001f * step, "case %zu, %lld: %g became %g", c,
                      (long long)i, (double)w[i], (double)back[i]);
        }
    }
}

/* Errors of normal numbers, 1024 a row: what a table of the lesson says, within 3 % of it. */
Test(formats, errors_are_as_known) {
    const struct {
        QuantFormat format;
        double error;
    } known[] = {{{U8, 1, 0, false}, 0.0079},       {{U8, 1, 128, false}, 0.0065},
                 {{I4, 1, 0, false}, 0.143},        {{I4, 1, 128, false}, 0.118},
                 {{I4, 1, 32, false}, 0.097},       {{F8_E4M3, 128, 128, false}, 0.026},
                 {{F8_E4M3, 128, 128, true}, 0.026}};
    enum { ROWS = 64, IN = 1024 };
    Context ctx = test_context(CPU, F32);
    const float *w = test_normal(&ctx, "w", 1, SHAPE(ROWS, IN))->data;
    float *back = test_floats(ROWS * IN);
    for (size_t c = 0; c < sizeof known / sizeof known[0]; c++) {
        check_ok(quant_round_trip(back, NULL, w, ROWS, IN, &known[c].format, &err), &err);
        double error = quant_error(back, w, ROWS * IN);
        cr_expect(fabs(error / known[c].error - 1) < 0.03, "case %zu: %g", c, error);
    }
    uint8_t *q = must_alloc(ROWS * IN / 2, 1);
    float *s = test_floats(ROWS * IN / 64);
    check_ok(quantise_nf4(q, s, w, ROWS * IN, 64, &err), &err);
    dequantise_nf4(back, q, s, ROWS * IN, 64);
    double error = quant_error(back, w, ROWS * IN);
    cr_expect(fabs(error / 0.092 - 1) < 0.03, "NF4: %g", error);
}

Test(formats, bits_count_the_scales) {
    check_all(quant_bits(&(QuantFormat){U8, 1, 0, false}, 8, 32) == 9,
              quant_bits(&(QuantFormat){I4, 1, 32, false}, 8, 64) == 5,
              quant_bits(&(QuantFormat){I4, 1, 32, SCALE_BF16}, 8, 64) == 4.5,
              quant_bits(&(QuantFormat){F8_E4M3, 128, 128, true}, 128, 128) == 8 + 8 / 16384.0);
}

/* A scale of BF16 may be smaller than the largest number asks for, which is then cut off, by less
 * than a rounding. */
Test(formats, scales_of_bf16) {
    const QuantFormat f = {U8, 1, 8, SCALE_BF16};
    uint8_t q[8];
    for (int i = 0; i < 1000; i++) {
        float largest = 1 + (float)i / 1000, s, back[8];
        const float w[8] = {largest, -largest, 0.1f, 0.2f, -0.3f, 0.4f, 0.5f, 0};
        check_ok(quantise(q, &s, w, 1, 8, &f, &err), &err);
        cr_assert(s == bf16_to_float(bf16_from_float(largest / 127)), "%.9g of %g", s, largest);
        dequantise(back, q, &s, 1, 8, &f);
        for (int j = 0; j < 8; j++) cr_assert(fabsf(back[j] - w[j]) <= 0.5f * s, "%g", w[j]);
    }
}

/* ---- bad input ---- */

Test(formats, what_does_not_fit_is_named) {
    const struct {
        QuantFormat format;
        int64_t out, in;
        const char *message;
    } bad[] = {
        {{U8, 1, 128, false}, 4, 192, "rows of 192 numbers cannot be cut into groups of 128"},
        {{I4, 1, 64, false}, 4, 32, "rows of 32 numbers cannot be cut into groups of 64"},
        {{I4, 1, 0, false}, 4, 33, "groups of 33 numbers cannot be packed two a byte"},
        {{I4, 1, 3, false}, 4, 33, "groups of 3 numbers cannot be packed two a byte"},
        {{U8, 1, -1, false}, 4, 32, "blocks of 1 x -1"},
        {{BF16, 1, 0, false}, 4, 32, "no format for quantised numbers: BF16"},
        {{U8, 1, 0, false}, 0, 32, "a matrix of 0 x 32"},
    };
    float w[4 * 192] = {0}, s[8];
    uint8_t q[4 * 192];
    for (size_t c = 0; c < sizeof bad / sizeof bad[0]; c++) {
        cr_expect(quantise(q, s, w, bad[c].out, bad[c].in, &bad[c].format, &err) == -1, "%zu", c);
        cr_expect(strstr(err.text, bad[c].message), "%s", err.text);
    }
}

Test(formats, numbers_that_are_none_are_named_with_their_place) {
    float w[3 * 32] = {0}, s[3], back[3 * 32];
    uint8_t q[3 * 32], z[3];
    QuantFormat f = {U8, 1, 0, false};
    w[2 * 32 + 17] = NAN;
    cr_expect(quantise(q, s, w, 3, 32, &f, &err) == -1);
    cr_expect(strstr(err.text, "number [2, 17] of [3, 32] is nan"), "%s", err.text);
    w[2 * 32 + 17] = -INFINITY;
    cr_expect(quant_round_trip(back, s, w, 3, 32, &f, &err) == -1);
    cr_expect(strstr(err.text, "number [2, 17] of [3, 32] is -inf"), "%s", err.text);
    check_all(quantise_with(q, s, w, 3, 32, &f, NULL) == -1,
              quantise_affine(q, s, z, w, 3, 32, &f, NULL) == -1,
              quantise_nf4(q, s, w, 96, 32, NULL) == -1);
}

Test(formats, scales_that_are_none_are_named) {
    float w[2 * 32] = {1}, s[4] = {1, 1, 0, 1};
    uint8_t q[2 * 32];
    const float bad[] = {0, -1, NAN, INFINITY};
    for (int c = 0; c < 4; c++) {
        s[2] = bad[c];
        cr_expect(quantise_with(q, s, w, 2, 32, &(QuantFormat){U8, 1, 16, false}, &err) == -1);
        cr_expect(strstr(err.text, "scale [1, 0] is "), "%s", err.text);
    }
}
