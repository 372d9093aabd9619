/*
 * A few rows of x with codes that become numbers in registers, on the CPU.
 *
 * For a few rows a panel of numbers (quantised_cpu.c) would be written and read for little work. So
 * the codes of one row of W are widened vector by vector, scaled, and multiplied with all rows of x
 * at once: what memory sees is one stream of codes. The numbers are those of the panel to the bit;
 * their sum is taken in 4 vectors in turn, for a processor that waits for one sum before it begins
 * the next would read no faster than it does F32.
 */
#include "08_quant/quantised.h"

#include <math.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

#ifdef __AVX512F__
enum { LANES = 16, ROWS = 4 };
#elif defined __AVX__
enum { LANES = 8, ROWS = 2 };
#else
enum { LANES = 4, ROWS = 2 };
#endif
enum { TURNS = 4, MOST = 4, BLOCK = TURNS * LANES, AHEAD = 1024 };
typedef uint8_t Codes __attribute__((vector_size(LANES), aligned(1), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* What a code is: U8, F8_E4M3, and of I4 the low and the high four bits. */
enum { WHOLE, FLOAT, LOW, HIGH };

INLINE Ints widened(const uint8_t *codes) { /* GCC 12 does not find these by itself */
#if defined __AVX512F__
    return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)codes));
#elif defined __AVX2__
    return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)codes));
#else
    return __builtin_convertvector(*(const Codes *)codes, Ints);
#endif
}

/*
 * E4M3 has an exponent that is one bit shorter than F16's, and counts it from 7 instead of 15:
 * moved to where F16 has them, the bits are those of the number times 2^-8, subnormal ones too.
 */
INLINE Floats e4m3_256th(const uint8_t *codes) {
#if defined __AVX512F__ && defined __AVX512VL__
    __m256i c = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)codes));
    __m256i half = _mm256_and_si256(_mm256_slli_epi16(c, 7), _mm256_set1_epi16((short)0xbf80));
    return (Floats)_mm512_cvtph_ps(half);
#elif defined __F16C__
    __m128i c = _mm_cvtepi8_epi16(_mm_loadl_epi64((const void *)codes));
    __m128i half = _mm_and_si128(_mm_slli_epi16(c, 7), _mm_set1_epi16((short)0xbf80));
    return (Floats)_mm256_cvtph_ps(half);
#else
    Ints c = widened(codes);
    return (Floats)((c & 127) << 20 | (c & 128) << 24) * 0x1p112f;
#endif
}

INLINE Floats number_of(const uint8_t *codes, const int kind) {
    Ints c = widened(codes);
    if (kind == WHOLE) return __builtin_convertvector(c - 128, Floats);
    if (kind == FLOAT) { /* the last code is NaN */
        Ints no_number = (c & 127) == 127;
        return (Floats)((Ints)(e4m3_256th(codes) * 256.0f) | (no_number & 0x7fc00000));
    }
#ifdef __AVX512F__
    static const float table[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    __m512i index = (__m512i)(kind == HIGH ? c >> 4 : c); /* of which the low four bits count */
    return (Floats)_mm512_permutexvar_ps(index, _mm512_loadu_ps(table));
#else
    return __builtin_convertvector((kind == HIGH ? c >> 4 : c & 15) - 8, Floats);
#endif
}

/* The rows of x that a row of W is multiplied with. */
typedef struct Rows {
    const float *x;
    int64_t row;
} Rows;

INLINE void add(Floats (*sum)[TURNS], int turn, Floats w, Rows x, int64_t k, const int rows) {
    for (int r = 0; r < rows; r++) sum[r][turn] += w * *(const Floats *)(x.x + r * x.row + k);
}

/* U8 and E4M3: block by block of the row's scales. */
INLINE void bytes_row(Floats (*sum)[TURNS], const QuantisedMatrix *w, Rows x, int64_t i,
                      const int rows, const int kind) {
    const uint8_t *codes = w->codes + i * w->in;
    const float *scale = w->scale + i / w->block_out * w->scale_row;
    for (int64_t k = 0; k < w->in; scale++) {
        int64_t end = min(k + w->block_in, w->in);
        for (; k + BLOCK <= end; k += BLOCK) {
            __builtin_prefetch(codes + k + AHEAD);
            for (int t = 0; t < TURNS; t++)
                add(sum, t, *scale * number_of(codes + k + t * LANES, kind), x, k + t * LANES,
                    rows);
        }
        for (; k + LANES <= end; k += LANES)
            add(sum, 0, *scale * number_of(codes + k, kind), x, k, rows);
        if (k == end) continue;
        uint8_t last[LANES] = {0}; /* fewer than a vector: zeros of x behind them */
        float some[MOST][LANES] = {0};
        memcpy(last, codes + k, (size_t)(end - k));
        for (int r = 0; r < rows; r++)
            memcpy(some[r], x.x + r * x.row + k, (size_t)(end - k) * sizeof(float));
        add(sum, 0, *scale * number_of(last, kind), (Rows){some[0], LANES}, 0, rows);
        k = end;
    }
}

/* I4: a block of bytes may be of several groups, or a group of several blocks. */
INLINE void nibbles_row(Floats (*sum)[TURNS], const QuantisedMatrix *w, Rows x, int64_t i,
                        const int rows, const int group) {
    const int half = group / 2; /* bytes of a group, too */
    const uint8_t *codes = w->codes + i * w->in / 2;
    const float *scale = w->scale + i * w->scale_row;
    for (int64_t at = 0; at < w->in / 2; at += BLOCK) {
        __builtin_prefetch(codes + at + AHEAD);
        for (int t = 0; t < TURNS; t++) {
            int64_t byte = at + t * LANES, g = byte / half, k = byte + g * half;
            if (at + BLOCK > w->in / 2 && byte >= w->in / 2) break;
            add(sum, t, scale[g] * number_of(codes + byte, LOW), x, k, rows);
            add(sum, t, scale[g] * number_of(codes + byte, HIGH), x, k + half, rows);
        }
    }
}

/* to[r] = the row of W with row r of x */
INLINE void one_row(float *to, const QuantisedMatrix *w, Rows x, int64_t i, const int rows,
                    const int kind, const int group) {
    Floats sum[MOST][TURNS] = {0};
    if (kind == LOW)
        nibbles_row(sum, w, x, i, rows, group);
    else
        bytes_row(sum, w, x, i, rows, kind);
    for (int r = 0; r < rows; r++) {
        Floats all = (sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3]);
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int l = 0; l < half; l++) all[l] += all[l + half];
        to[r] = all[0];
    }
}

typedef void RowKernel(float *to, const QuantisedMatrix *w, Rows x, int64_t i);

#define OF_ROWS(name, rows, kind, group)                                                \
    static void name##_##rows(float *to, const QuantisedMatrix *w, Rows x, int64_t i) { \
        one_row(to, w, x, i, rows, kind, group);                                        \
    }
#define KERNELS(name, kind, group) /* of 1, 2 and 4 rows of x */ \
    OF_ROWS(name, 1, kind, group)                                \
    OF_ROWS(name, 2, kind, group)                                \
    OF_ROWS(name, 4, kind, group)                                \
    static RowKernel *const name[] = {name##_1, name##_2, name##_4};
KERNELS(u8, WHOLE, 0)
KERNELS(e4m3, FLOAT, 0)
KERNELS(i4_32, LOW, 32)
KERNELS(i4_64, LOW, 64)
KERNELS(i4_128, LOW, 128)

void quantised_few_rows_cpu(const QuantisedProduct *p) {
    RowKernel *const *kernels = p->w.dtype == U8        ? u8
                                : p->w.dtype == F8_E4M3 ? e4m3
                                : p->w.block_in == 32   ? i4_32
                                : p->w.block_in == 64   ? i4_64
                                                        : i4_128;
    for (int64_t i = p->first; i < p->first + p->count; i++)
        for (int64_t r = 0, rows; r < p->rows; r += rows) {
            float sum[MOST];
            int k = ROWS == 4 && p->rows - r >= 4 ? 2 : p->rows - r >= 2;
            rows = 1 << k;
            kernels[k](sum, &p->w, (Rows){p->x + r * p->x_row, p->x_row}, i);
            for (int64_t n = 0; n < rows; n++) {
                int64_t at = (r + n) * p->y_row + i;
                p->y[at] = p->base ? p->base[at] + sum[n] : sum[n];
            }
        }
}
