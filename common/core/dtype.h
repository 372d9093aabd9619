/*
 * What a number is: its format, its size, its name in files, and its conversion to and from float.
 */
#ifndef COMMON_DTYPE_H
#define COMMON_DTYPE_H

#include <stddef.h>
#include <stdint.h>

__BEGIN_DECLS

typedef enum DType { F32, BF16, F16, F8_E4M3, F8_E5M2, I8, U8, I32, I64, DTYPE_COUNT } DType;

size_t dtype_size(DType dtype);      /* bytes of one element */
const char *dtype_name(DType dtype); /* "F32", "BF16", ...: the names of safetensors */

/* Round to nearest, ties to even; NaN stays NaN. One BF16 is the upper half of an F32. */
uint16_t bf16_from_float(float x);
float bf16_to_float(uint16_t x);

/* IEEE half precision to F32; exact. */
float f16_to_float(uint16_t x);

__END_DECLS
#endif
