/*
 * The formats in one table, and conversions by their bits.
 *
 * BF16 is F32's upper half: rounding to nearest, ties to even, is an addition to the lower one. So
 * it is for the normal numbers of an F8, where more bits fall away and the exponent is counted from
 * somewhere else; its subnormal ones are whole multiples of the smallest of them.
 */
#include "common/core/dtype.h"

#include "common/core/error.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bits;
} dtypes[DTYPE_COUNT] = {
    [F32] = {"F32", 32},        [BF16] = {"BF16", 16},      [F16] = {"F16", 16},
    [F8_E4M3] = {"F8_E4M3", 8}, [F8_E5M2] = {"F8_E5M2", 8}, [F8_E8M0] = {"F8_E8M0", 8},
    [I8] = {"I8", 8},           [U8] = {"U8", 8},           [I32] = {"I32", 32},
    [I64] = {"I64", 64},        [I4] = {"I4", 4},
};

size_t dtype_size(DType dtype) {
    CHECK(dtype != I4, "one number of I4 is half a byte: ask dtype_bytes()");
    return dtypes[dtype].bits / 8;
}

size_t dtype_bytes(DType dtype, int64_t count) {
    return ((size_t)count * dtypes[dtype].bits + 7) / 8;
}

const char *dtype_name(DType dtype) { return dtypes[dtype].name; }

uint16_t bf16_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40); /* quiet NaN */
    bits += 0x7fffu + (bits >> 16 & 1); /* a tie goes to the even upper half */
    return (uint16_t)(bits >> 16);
}

float bf16_to_float(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float f16_to_float(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 1023;
    union {
        uint32_t bits;
        float value;
    } f;
    if (exponent == 0) { /* zero or subnormal: fraction x 2^-24, which F32 holds exactly */
        f.value = (float)fraction * 0x1p-24f;
        f.bits |= sign;
    } else {
        uint32_t wide = exponent == 31 ? 255 : exponent + 127 - 15;
        f.bits = sign | wide << 23 | fraction << 13;
    }
    return f.value;
}

/* ---- eight bits ---- */

typedef struct Float8 {
    int fraction, bias; /* bits of the fraction; what is added to an exponent */
    float least;        /* the smallest subnormal number */
    uint8_t largest;    /* the code of the largest number */
} Float8;

static const Float8 e4m3 = {3, 7, 0x1p-9f, 0x7e}, e5m2 = {2, 15, 0x1p-16f, 0x7b};

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint8_t f8_from_float(float x, Float8 f) {
    uint32_t bits = bits_of(x), sign = bits >> 24 & 0x80, away = 23 - (uint32_t)f.fraction, code;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint8_t)(sign | 0x7f);
    if (bits >> 23 > (uint32_t)(127 - f.bias)) { /* at least 2^(1 - bias): normal here, too */
        bits += (1u << (away - 1)) - 1 + (bits >> away & 1); /* a tie goes to the even one */
        code = (bits >> away) - ((uint32_t)(127 - f.bias) << f.fraction);
    } else { /* dividing by a power of two rounds nothing, rintf() does; up to the least normal */
        code = (uint32_t)rintf(float_of(bits) / f.least);
    }
    return (uint8_t)(sign | (code < f.largest ? code : f.largest));
}

static float f8_to_float(uint8_t code, Float8 f) {
    uint32_t sign = (uint32_t)(code & 0x80) << 24, rest = code & 0x7f,
             away = 23 - (uint32_t)f.fraction;
    if (rest >> f.fraction == 0) /* zero or subnormal */
        return copysignf((float)rest * f.least, float_of(sign));
    return float_of(sign | ((rest << away) + ((uint32_t)(127 - f.bias) << 23)));
}

uint8_t e4m3_from_float(float x) { return f8_from_float(x, e4m3); }
float e4m3_to_float(uint8_t code) { return (code & 0x7f) == 0x7f ? NAN : f8_to_float(code, e4m3); }

uint8_t e5m2_from_float(float x) { return f8_from_float(x, e5m2); }

float e5m2_to_float(uint8_t code) {
    if ((code & 0x7f) > 0x7c) return NAN;
    return (code & 0x7f) == 0x7c ? copysignf(INFINITY, code & 0x80 ? -1 : 1)
                                 : f8_to_float(code, e5m2);
}

uint8_t e8m0_from_float(float x) {
    uint32_t bits = bits_of(x);
    uint32_t up = (bits >> 23 & 255) + ((bits & 0x7fffff) != 0);
    if (isnan(x)) return 255;
    return (uint8_t)(up < 1 ? 1 : up > 254 ? 254 : up);
}

float e8m0_to_float(uint8_t code) {
    if (code == 255) return NAN;
    return code ? float_of((uint32_t)code << 23) : 0x1p-127f; /* F32 has it as a subnormal */
}
