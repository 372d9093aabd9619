/*
 * exp() for loops that the compiler is to vectorise.
 *
 * libm's expf is exact to the last bit but is a call for each element. This one is a polynomial
 * without branches: x = n ln 2 + r with |r| <= ln 2 / 2, exp(x) = 2^n exp(r). The relative error is
 * below 1e-7 (a test sweeps the range). Below -87.3, where F32 leaves its normal numbers, the
 * result is 0; above 88 it stays at exp(88). NaN stays NaN.
 */
#ifndef COMMON_FASTMATH_H
#define COMMON_FASTMATH_H

#include <stdint.h>
#include <string.h>

static inline float fast_exp(float x) {
    float clamped = x > 88.0f ? 88.0f : x;
    clamped = clamped < -87.3f ? -87.3f : clamped;
    /* Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the sum. */
    float shifted = clamped * 1.44269504f + 12582912.0f;
    float n = shifted - 12582912.0f;
    float r = clamped - n * 0.693359375f;
    r += n * 2.12194440e-4f; /* ln 2 in two parts, so that n ln 2 is exact enough */
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23; /* 2^n as a float: only the exponent's bits survive the shift */
    float power;
    memcpy(&power, &bits, sizeof power);
    return x < -87.3f ? 0.0f : p * power;
}

#endif
