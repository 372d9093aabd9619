/*
 * Codes become numbers, a vector of them at a time: LANES codes, not yet scaled.
 *
 * Internal to the kernels on the CPU. `kind` is a constant wherever these are called.
 */
#ifndef QUANTISED_LANES_H
#define QUANTISED_LANES_H

#include "common/core/lanes.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* What a code is: U8, F8_E4M3, and of I4 the low and the high four bits. */
typedef enum CodeKind { CODE_U8, CODE_E4M3, CODE_LOW, CODE_HIGH } CodeKind;

typedef int32_t IntLanes __attribute__((vector_size(4 * LANES)));

INLINE IntLanes widened(const uint8_t *codes) { /* GCC 12 does not find these by itself */
#if defined __AVX512F__
    return (IntLanes)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)codes));
#elif defined __AVX2__
    return (IntLanes)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)codes));
#else
    IntLanes wide;
    for (int l = 0; l < LANES; l++) wide[l] = codes[l];
    return wide;
#endif
}

/*
 * E4M3 has an exponent that is one bit shorter than F16's, and counts it from 7 instead of 15:
 * moved to where F16 has them, the bits are those of the number times 2^-8, subnormal ones too.
 * (The same can be done with F32's bits, but those would be subnormal there as well, and processors
 * are slow with such.)
 */
INLINE Vector e4m3_lanes(const uint8_t *codes) {
#if defined __AVX512F__ && defined __AVX512VL__
    __m256i c = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)codes));
    __m256i half = _mm256_and_si256(_mm256_slli_epi16(c, 7), _mm256_set1_epi16((short)0xbf80));
    return (Vector)_mm512_cvtph_ps(half);
#elif defined __F16C__ && !defined __AVX512F__
    __m128i c = _mm_cvtepi8_epi16(_mm_loadl_epi64((const void *)codes));
    __m128i half = _mm_and_si128(_mm_slli_epi16(c, 7), _mm_set1_epi16((short)0xbf80));
    return (Vector)_mm256_cvtph_ps(half);
#else
    IntLanes c = widened(codes);
    return (Vector)((c & 127) << 20 | (c & 128) << 24) * 0x1p112f;
#endif
}

/* What the numbers of code_lanes() have to be multiplied with, beside their scale. */
INLINE float code_unit(const CodeKind kind) { return kind == CODE_E4M3 ? 256 : 1; }

/* E4M3's NaN is not one here: has_nan() looks for it. */
INLINE Vector code_lanes(const uint8_t *codes, const CodeKind kind) {
    if (kind == CODE_E4M3) return e4m3_lanes(codes);
    IntLanes c = widened(codes);
    if (kind == CODE_U8) return __builtin_convertvector(c - 128, Vector);
#ifdef __AVX512F__
    static const float table[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    __m512i index = (__m512i)(kind == CODE_HIGH ? c >> 4 : c); /* the low four bits count */
    return (Vector)_mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
#else
    return __builtin_convertvector((kind == CODE_HIGH ? c >> 4 : c & 15) - 8, Vector);
#endif
}

static inline int has_nan(const uint8_t *codes, int64_t count) {
    uint8_t found = 0;
    for (int64_t k = 0; k < count; k++) found |= (codes[k] & 127) == 127;
    return found;
}

#endif
