/*
 * What a number is: its format, its size, its name in files, and its conversion to and from float.
 */
#ifndef COMMON_DTYPE_H
#define COMMON_DTYPE_H

#include <stddef.h>
#include <stdint.h>

__BEGIN_DECLS

typedef enum DType {
    F32,
    BF16,
    F16,
    F8_E4M3,
    F8_E5M2,
    F8_E8M0,
    I8,
    U8,
    I32,
    I64,
    I4,
    DTYPE_COUNT
} DType;

size_t dtype_size(DType dtype); /* bytes of one element; of I4 there are none: it aborts */
size_t dtype_bytes(DType dtype, int64_t count); /* of so many; of I4 two share a byte */
/* "F32", "BF16", ...: the names of safetensors; I4 lives in memory alone (quantised.h). */
const char *dtype_name(DType dtype);

/* Round to nearest, ties to even; NaN stays NaN. One BF16 is the upper half of an F32. */
uint16_t bf16_from_float(float x);
float bf16_to_float(uint16_t x);

/* IEEE half precision to F32; exact. */
float f16_to_float(uint16_t x);

/*
 * Eight bits (Micikevicius et al. 2022, table 1). To F32 exactly; from F32 to the nearest, ties to
 * even, and what is too large, infinity too, becomes the largest number. NaN stays NaN.
 *
 *     E4M3   sign, 4 bits of exponent, 3 of fraction: up to 448; no infinity, one NaN for each sign
 *     E5M2   sign, 5, 2: up to 57344; infinities and NaNs as IEEE has them
 */
uint8_t e4m3_from_float(float x);
float e4m3_to_float(uint8_t code);
uint8_t e5m2_from_float(float x);
float e5m2_to_float(uint8_t code);

/*
 * E8M0, a scale that is a power of two: 2^(code - 127), and 255 for NaN. From a positive number
 * always UP, so that what is divided by the scale does not grow beyond the format that it was
 * chosen for; at least 2^-126, at most 2^127.
 */
uint8_t e8m0_from_float(float x);
float e8m0_to_float(uint8_t code);

__END_DECLS
#endif
