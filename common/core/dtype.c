/*
 * The formats in one table, and conversions by their bits.
 *
 * BF16 is F32's upper half: rounding to nearest, ties to even, is an addition to the lower one.
 */
#include "common/core/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[DTYPE_COUNT] = {
    [F32] = {"F32", 4},         [BF16] = {"BF16", 2},       [F16] = {"F16", 2},
    [F8_E4M3] = {"F8_E4M3", 1}, [F8_E5M2] = {"F8_E5M2", 1}, [I8] = {"I8", 1},
    [U8] = {"U8", 1},           [I32] = {"I32", 4},         [I64] = {"I64", 8},
};

size_t dtype_size(DType dtype) { return dtypes[dtype].size; }

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
