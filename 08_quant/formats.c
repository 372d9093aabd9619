/*
 * Block by block: find the largest, make the scale, round. A block's numbers are visited by
 * FOR_BLOCK, a number's code is read and written by code_get() and code_put(), which alone know
 * where it lies.
 *
 * w is divided by the scale, not multiplied by its inverse: the two can differ in the last step.
 */
#include "08_quant/formats.h"

#include "common/core/memory.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

/* ---- what a format can write ---- */

float quant_largest(DType dtype) {
    switch (dtype) {
    case U8:
        return 127;
    case I4:
        return 7;
    case F8_E4M3:
        return 448;
    case F8_E5M2:
        return 57344;
    default:
        CHECK(0, "no format for quantised numbers: %s", dtype_name(dtype));
        return 0;
    }
}

static bool is_float8(DType dtype) { return dtype == F8_E4M3 || dtype == F8_E5M2; }

/* [quant_round] */
float quant_round(float x, DType dtype) {
    if (dtype == F8_E4M3) return e4m3_to_float(e4m3_from_float(x));
    if (dtype == F8_E5M2) return e5m2_to_float(e5m2_from_float(x));
    float most = dtype == U8 ? 127 : 7;
    return fminf(fmaxf(rintf(x), -most), most); /* rintf: a tie goes to the even number */
}

float quant_scale(float amax, const QuantFormat *format) {
    if (amax == 0) return 1;
    float scale = fmaxf(amax / quant_largest(format->dtype), FLT_MIN);
    if (format->scale == SCALE_BF16) return bf16_to_float(bf16_from_float(scale));
    return format->scale == SCALE_POWER_OF_TWO ? e8m0_to_float(e8m0_from_float(scale)) : scale;
}
/* [/quant_round] */

/* ---- blocks ---- */

/* A format with its zeros replaced by the sizes, and how many blocks there are each way. */
typedef struct Blocks {
    DType dtype;
    int64_t out, in, block_out, block_in, down, across;
} Blocks;

static Blocks blocks_of(const QuantFormat *f, int64_t out, int64_t in) {
    Blocks b = {.dtype = f->dtype, .out = out, .in = in};
    b.block_out = f->block_out ? f->block_out : out;
    b.block_in = f->block_in ? f->block_in : in;
    b.down = (out + b.block_out - 1) / b.block_out;
    b.across = (in + b.block_in - 1) / b.block_in;
    return b;
}

/* Runs over the numbers [i, j] of block n, row by row. */
#define FOR_BLOCK(b, n, i, j)                                                         \
    for (int64_t i = (n) / (b).across * (b).block_out, i##_end = i + (b).block_out;   \
         i < i##_end && i < (b).out; i++)                                             \
        for (int64_t j = (n) % (b).across * (b).block_in, j##_end = j + (b).block_in; \
             j < j##_end && j < (b).in; j++)

int quant_check(const QuantFormat *f, int64_t out, int64_t in, Error *err) {
    if (f->dtype != U8 && f->dtype != I4 && !is_float8(f->dtype))
        return error_set(err,
                         "no format for quantised numbers: %s; there are U8, I4, F8_E4M3 and "
                         "F8_E5M2",
                         dtype_name(f->dtype));
    if (f->block_out < 0 || f->block_in < 0)
        return error_set(err, "blocks of %d x %d numbers; a size must be 0 (all) or positive",
                         f->block_out, f->block_in);
    if (out < 1 || in < 1)
        return error_set(err, "a matrix of %lld x %lld has no numbers to quantise", (long long)out,
                         (long long)in);
    Blocks b = blocks_of(f, out, in);
    if (!is_float8(f->dtype) && in % b.block_in)
        return error_set(err,
                         "rows of %lld numbers cannot be cut into groups of %lld; choose a "
                         "group that divides them, or leave this matrix as it is",
                         (long long)in, (long long)b.block_in);
    if (f->dtype == I4 && b.block_in % 2)
        return error_set(err,
                         "groups of %lld numbers cannot be packed two a byte; choose an even "
                         "size",
                         (long long)b.block_in);
    return 0;
}

size_t quant_code_bytes(const QuantFormat *f, int64_t out, int64_t in) {
    return (size_t)(out * in) / (f->dtype == I4 ? 2 : 1);
}

int64_t quant_scale_columns(const QuantFormat *f, int64_t in) { return blocks_of(f, 1, in).across; }

int64_t quant_scale_count(const QuantFormat *f, int64_t out, int64_t in) {
    Blocks b = blocks_of(f, out, in);
    return b.down * b.across;
}

double quant_bits(const QuantFormat *f, int64_t out, int64_t in) {
    static const double kinds[] = {[SCALE_ANY] = 32, [SCALE_POWER_OF_TWO] = 8, [SCALE_BF16] = 16};
    double scale_bits = kinds[f->scale];
    double bits = 8 * (double)quant_code_bytes(f, out, in);
    return (bits + scale_bits * (double)quant_scale_count(f, out, in)) / (double)(out * in);
}

/* ---- where a code lies ---- */

/* The byte of number [i, j], and whether it is the upper half of it. */
static int64_t nibble(const Blocks *b, int64_t i, int64_t j, bool *high) {
    int64_t half = b->block_in / 2, group = j / b->block_in, place = j % b->block_in;
    *high = place >= half;
    return (i * b->in + group * b->block_in) / 2 + place % half;
}

static void code_put(void *codes, const Blocks *b, int64_t i, int64_t j, uint8_t code) {
    uint8_t *bytes = codes;
    if (b->dtype != I4) {
        bytes[i * b->in + j] = code;
        return;
    }
    bool high;
    uint8_t *byte = bytes + nibble(b, i, j, &high);
    *byte = (uint8_t)(high ? (*byte & 0x0f) | code << 4 : (*byte & 0xf0) | code);
}

static uint8_t code_get(const void *codes, const Blocks *b, int64_t i, int64_t j) {
    const uint8_t *bytes = codes;
    if (b->dtype != I4) return bytes[i * b->in + j];
    bool high;
    uint8_t byte = bytes[nibble(b, i, j, &high)];
    return high ? byte >> 4 : byte & 15;
}

/* ---- absmax ---- */

static uint8_t code_of(float x, DType dtype) {
    if (dtype == F8_E4M3) return e4m3_from_float(x);
    if (dtype == F8_E5M2) return e5m2_from_float(x);
    return (uint8_t)((int)quant_round(x, dtype) + (dtype == U8 ? 128 : 8));
}

static float value_of(uint8_t code, DType dtype) {
    if (dtype == F8_E4M3) return e4m3_to_float(code);
    if (dtype == F8_E5M2) return e5m2_to_float(code);
    return (float)(code - (dtype == U8 ? 128 : 8));
}

static int check_numbers(const float *w, int64_t out, int64_t in, Error *err) {
    for (int64_t i = 0; i < out * in; i++)
        if (!isfinite(w[i]))
            return error_set(err,
                             "number [%lld, %lld] of [%lld, %lld] is %g, which has no place "
                             "among quantised numbers; look for the step that made it",
                             (long long)(i / in), (long long)(i % in), (long long)out,
                             (long long)in, (double)w[i]);
    return 0;
}

/* [absmax] */
static void absmax_scales(float *scales, const float *w, const Blocks *b, const QuantFormat *f) {
    for (int64_t n = 0; n < b->down * b->across; n++) {
        float amax = 0;
        FOR_BLOCK(*b, n, i, j) amax = fmaxf(amax, fabsf(w[i * b->in + j]));
        scales[n] = quant_scale(amax, f);
    }
}

static void write_codes(void *codes, const float *scales, const float *w, const Blocks *b) {
    for (int64_t n = 0; n < b->down * b->across; n++) FOR_BLOCK(*b, n, i, j)
    code_put(codes, b, i, j, code_of(w[i * b->in + j] / scales[n], b->dtype));
}

int quantise(void *codes, float *scales, const float *w, int64_t out, int64_t in,
             const QuantFormat *format, Error *err) {
    if (quant_check(format, out, in, err) || check_numbers(w, out, in, err)) return -1;
    Blocks b = blocks_of(format, out, in);
    absmax_scales(scales, w, &b, format);
    write_codes(codes, scales, w, &b);
    return 0;
}

void dequantise(float *w, const void *codes, const float *scales, int64_t out, int64_t in,
                const QuantFormat *format) {
    Blocks b = blocks_of(format, out, in);
    for (int64_t n = 0; n < b.down * b.across; n++) FOR_BLOCK(b, n, i, j)
    w[i * in + j] = scales[n] * value_of(code_get(codes, &b, i, j), b.dtype);
}
/* [/absmax] */

int quantise_with(void *codes, const float *scales, const float *w, int64_t out, int64_t in,
                  const QuantFormat *format, Error *err) {
    if (quant_check(format, out, in, err) || check_numbers(w, out, in, err)) return -1;
    Blocks b = blocks_of(format, out, in);
    for (int64_t n = 0; n < b.down * b.across; n++)
        if (!(scales[n] > 0 && isfinite(scales[n])))
            return error_set(err, "scale [%lld, %lld] is %g; a scale must be positive and finite",
                             (long long)(n / b.across), (long long)(n % b.across),
                             (double)scales[n]);
    write_codes(codes, scales, w, &b);
    return 0;
}

int quant_round_trip(float *to, float *scales, const float *w, int64_t out, int64_t in,
                     const QuantFormat *format, Error *err) {
    if (quant_check(format, out, in, err) || check_numbers(w, out, in, err)) return -1;
    Blocks b = blocks_of(format, out, in);
    float *own = scales ? NULL : must_alloc((size_t)(b.down * b.across), sizeof *own);
    if (!scales) scales = own;
    absmax_scales(scales, w, &b, format);
    for (int64_t n = 0; n < b.down * b.across; n++) FOR_BLOCK(b, n, i, j)
    to[i * in + j] = scales[n] * quant_round(w[i * in + j] / scales[n], b.dtype);
    free(own);
    return 0;
}

double quant_error(const float *a, const float *b, int64_t count) {
    double error = 0, all = 0;
    for (int64_t i = 0; i < count; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        all += (double)b[i] * b[i];
    }
    return error == 0 ? 0 : sqrt(error / all);
}

/* ---- a zero point ---- */

static float affine_most(DType dtype) { return dtype == U8 ? 255 : 15; }

int quantise_affine(void *codes, float *scales, uint8_t *zeros, const float *w, int64_t out,
                    int64_t in, const QuantFormat *format, Error *err) {
    if (quant_check(format, out, in, err) || check_numbers(w, out, in, err)) return -1;
    CHECK(!is_float8(format->dtype), "quantise_affine: %s has a sign", dtype_name(format->dtype));
    Blocks b = blocks_of(format, out, in);
    float most = affine_most(b.dtype);
    for (int64_t n = 0; n < b.down * b.across; n++) {
        float low = 0, high = 0; /* the range holds 0 */
        FOR_BLOCK(b, n, i, j) {
            low = fminf(low, w[i * in + j]);
            high = fmaxf(high, w[i * in + j]);
        }
        float scale = low == high ? 1 : fmaxf(high / most - low / most, FLT_MIN);
        float zero = rintf(-low / scale);
        scales[n] = scale;
        zeros[n] = (uint8_t)zero;
        FOR_BLOCK(b, n, i, j) {
            float q = rintf(w[i * in + j] / scale) + zero;
            code_put(codes, &b, i, j, (uint8_t)fminf(fmaxf(q, 0), most));
        }
    }
    return 0;
}

void dequantise_affine(float *w, const void *codes, const float *scales, const uint8_t *zeros,
                       int64_t out, int64_t in, const QuantFormat *format) {
    Blocks b = blocks_of(format, out, in);
    for (int64_t n = 0; n < b.down * b.across; n++) FOR_BLOCK(b, n, i, j)
    w[i * in + j] = scales[n] * (float)(code_get(codes, &b, i, j) - zeros[n]);
}

/* ---- NF4 ---- */

const float quant_nf4[16] = {-1.0f,        -0.69619280f, -0.52507305f, -0.39491749f,
                             -0.28444138f, -0.18477343f, -0.09105004f, 0.0f,
                             0.07958030f,  0.16093020f,  0.24611230f,  0.33791524f,
                             0.44070983f,  0.56261700f,  0.72295684f,  1.0f};

static uint8_t nf4_nearest(float x) {
    uint8_t best = 0;
    for (uint8_t c = 1; c < 16; c++)
        if (fabsf(x - quant_nf4[c]) < fabsf(x - quant_nf4[best])) best = c;
    return best;
}

int quantise_nf4(uint8_t *codes, float *scales, const float *w, int64_t count, int block,
                 Error *err) {
    CHECK(block > 0, "quantise_nf4: blocks of %d", block);
    if (check_numbers(w, 1, count, err)) return -1;
    for (int64_t i = 0; i < count; i += block) {
        int64_t end = i + block < count ? i + block : count;
        float amax = 0;
        for (int64_t j = i; j < end; j++) amax = fmaxf(amax, fabsf(w[j]));
        float scale = scales[i / block] = amax == 0 ? 1 : amax;
        for (int64_t j = i; j < end; j++) {
            uint8_t code = nf4_nearest(w[j] / scale), *byte = codes + j / 2;
            *byte = (uint8_t)(j % 2 ? (*byte & 0xf0) | code : code << 4);
        }
    }
    return 0;
}

void dequantise_nf4(float *w, const uint8_t *codes, const float *scales, int64_t count, int block) {
    for (int64_t i = 0; i < count; i++)
        w[i] = scales[i / block] * quant_nf4[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4];
}
