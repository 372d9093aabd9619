/*
 * Products of whole numbers on the CPU: the definition, x in codes, and the kernel.
 *
 * The kernel takes one row of W at a time, so that what is read is one stream, with up to ROWS rows
 * of x. Where groups are shorter than a vector of codes, its lanes belong to several of them, and
 * so do those of the scales. Sums stay in lanes up to the end of the row.
 */
#include "08_quant/quantised_int8.h"
#include "08_quant/quantised_lanes.h"

#include <math.h>

enum { LONGEST = 1 << 17 }; /* 127 * 127 * LONGEST < 2^31 */

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

bool quantised_int8_takes(const QuantisedMatrix *w) {
    return (w->dtype == U8 || w->dtype == I4) && w->in <= LONGEST;
}

/* ---- the definition ---- */

/* codes[0 .. n - 1] of x; returns the scale. A NaN or an infinity makes that NaN or infinite, and
 * with it every product. */
static float quantise(int8_t *codes, const float *x, int64_t n) {
    int32_t most = 0; /* absolute values, compared by their bits: NaN is above all numbers */
    for (int64_t j = 0; j < n; j++) {
        int32_t bits;
        memcpy(&bits, x + j, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float amax;
    memcpy(&amax, &most, sizeof amax);
    float times = amax >= 0x1p-120f && isfinite(amax) ? 127 / amax : 0; /* 127 / 0 is no number */
    for (int64_t j = 0; j < n; j++) codes[j] = (int8_t)(int)rintf(times > 0 ? x[j] * times : 0);
    return amax / 127;
}

/* q[i, j], without the scale */
static int code_at(const QuantisedMatrix *w, int64_t i, int64_t j) {
    int64_t at = i * w->in + j, k = j % w->block_in, half = w->block_in / 2;
    if (w->dtype == U8) return w->codes[at] - 128;
    int byte = w->codes[(at - k) / 2 + k % half];
    return (k < half ? byte & 15 : byte >> 4) - 8;
}

void quantised_int8_reference_cpu(const QuantisedProduct *p) {
    int64_t in = p->w.in, group = p->w.block_in;
    int8_t codes[in];
    float scale[in / group];
    for (int64_t r = 0; r < p->rows; r++) {
        for (int64_t j = 0; j < in; j += group)
            scale[j / group] = quantise(codes + j, p->x + r * p->x_row + j, group);
        for (int64_t i = p->first; i < p->first + p->count; i++) {
            double y = p->base ? p->base[r * p->y_row + i] : 0;
            for (int64_t g = 0; g < in / group; g++) {
                int64_t sum = 0;
                for (int64_t j = g * group; j < (g + 1) * group; j++)
                    sum += code_at(&p->w, i, j) * codes[j];
                y += (double)(p->w.scale[i * p->w.scale_row + g] * scale[g]) * (double)sum;
            }
            p->y[r * p->y_row + i] = (float)y;
        }
    }
}

/* ---- vectors ---- */

#ifdef __AVX512F__
enum { ROWS = 8 };
#else
enum { ROWS = 4 };
#endif
enum { BYTES = 4 * LANES, MOST = 8, COLUMNS = 4, AHEAD = 8192 };
typedef uint8_t Codes __attribute__((vector_size(BYTES), aligned(1), may_alias));
typedef int8_t Signed __attribute__((vector_size(BYTES), aligned(1), may_alias));
typedef int32_t Ints __attribute__((vector_size(BYTES)));
typedef int32_t Ints4 __attribute__((vector_size(16), aligned(4), may_alias));

/* sum + w a: lane l gets products 4 l .. 4 l + 3. nibbles: w is below 16. */
static inline Ints dot(Ints sum, Codes w, Signed a, const int nibbles) {
#if defined __AVX512VNNI__
    (void)nibbles;
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)a);
#elif defined __AVXVNNI__
    (void)nibbles;
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, (__m256i)a);
#elif defined __AVX2__ && !defined __AVX512F__
    const __m256i ones = _mm256_set1_epi16(1);
    if (nibbles) /* two products are below 2^12 */
        return sum + (Ints)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)w, (__m256i)a), ones);
    /* Two of 255 * 127 are too large for 16 bits: bytes with even places, then with odd ones. */
    __m256i even = _mm256_and_si256((__m256i)w, _mm256_set1_epi16(255));
    __m256i odd = _mm256_srli_epi16((__m256i)w, 8);
    __m256i a_even = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)a, 8), 8);
    __m256i a_odd = _mm256_srai_epi16((__m256i)a, 8);
    return sum + (Ints)_mm256_madd_epi16(even, a_even) + (Ints)_mm256_madd_epi16(odd, a_odd);
#else
    (void)nibbles;
    for (int l = 0; l < BYTES; l++) sum[l / 4] += w[l] * a[l];
    return sum;
#endif
}

typedef int64_t Longs2 __attribute__((vector_size(16)));

static inline Longs2 two_of(const void *from) { /* of four bytes each */
    int64_t two;
    memcpy(&two, from, sizeof two);
    return (Longs2){two, 0};
}

/* One number for each of a vector's groups (1, 2 or 4): in the first lane of each, or in all. */
static inline Ints begin(const int32_t *shift, const int groups) {
    if (groups == 1) return (Ints){*shift};
    Ints4 four = groups == 4 ? *(const Ints4 *)shift : (Ints4)two_of(shift);
#ifdef __AVX512F__
    Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (Ints)_mm512_maskz_permutexvar_epi32(groups == 4 ? 0x1111 : 0x0101,
                                                (__m512i)(lane * groups / LANES),
                                                _mm512_castsi128_si512((__m128i)four));
#else
    return __builtin_shufflevector(four, (Ints4){0}, 0, 4, 4, 4, 1, 4, 4, 4);
#endif
}

static inline Vector spread(const float *scale, const int groups) {
    if (groups == 1) return *scale - (Vector){0};
    Quarter four = groups == 4 ? *(const Quarter *)scale : (Quarter)two_of(scale);
#ifdef __AVX512F__
    Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (Vector)_mm512_permutexvar_ps((__m512i)(lane * groups / LANES),
                                         _mm512_castps128_ps512((__m128)four));
#else
    return __builtin_shufflevector(four, four, 0, 0, 0, 0, 1, 1, 1, 1);
#endif
}

static inline int32_t whole(Ints sum) {
#ifdef __AVX512F__
    return _mm512_reduce_add_epi32((__m512i)sum);
#else
    for (int l = 1; l < LANES; l++) sum[0] += sum[l];
    return sum[0];
#endif
}

static inline Codes first_codes(const uint8_t *from, int64_t count) {
    Codes codes = {0};
    memcpy(&codes, from, (size_t)min(count, BYTES));
    return codes;
}

static inline Signed signed_at(const int8_t *from) { return *(const Signed *)from; }

/* ---- one row of W with some rows of x ---- */

QuantisedRows quantised_rows_from(QuantisedRows x, int64_t first, int64_t step) {
    x.codes += first * x.code_row, x.scale += first * x.scale_row, x.shift += first * x.scale_row;
    x.code_row *= step, x.scale_row *= step;
    return x;
}

/*
 * Some bytes of a row of W: one group of several vectors, or a vector of several groups. w and
 * scale are of these, `at` and g say where they stand in x.
 */
INLINE void step(Vector *sum, const Codes *w, const float *scale, QuantisedRows x, int64_t at,
                 int64_t g, const int rows, const int nibbles, const int vectors,
                 const int groups) {
    Vector scale_w = spread(scale, groups);
    for (int r = 0; r < rows; r++) {
        const int8_t *a = x.codes + r * x.code_row + at;
        Ints products = begin(x.shift + r * x.scale_row + g, groups);
        for (int v = 0; v < vectors; v++) {
            Codes low = w[v] & (uint8_t)(nibbles ? 15 : 255);
            products = dot(products, low, signed_at(a + v * BYTES), nibbles);
            if (nibbles)
                products = dot(products, w[v] >> 4, signed_at(a + x.part + v * BYTES), nibbles);
        }
        sum[r] += __builtin_convertvector(products, Vector) *
                  (scale_w * spread(x.scale + r * x.scale_row + g, groups));
    }
}

/* Groups of 32, 64 or 128. */
INLINE void short_groups(Vector *to, const QuantisedMatrix *w, QuantisedRows x, int64_t i,
                         const int rows, const int nibbles, const int group) {
    const int bytes = nibbles ? group / 2 : group, vectors = bytes > BYTES ? bytes / BYTES : 1;
    const int groups = bytes < BYTES ? BYTES / bytes : 1;
    const float *scale = w->scale + i * w->scale_row;
    int64_t row = nibbles ? w->in / 2 : w->in, at = 0, g = 0;
    const uint8_t *codes = w->codes + i * row;
    Vector sum[MOST] = {0};
    Codes some[128 / BYTES];
    for (; at + vectors * BYTES <= row; at += vectors * BYTES, g += groups) {
        for (int v = 0; v < vectors; v++) {
            some[v] = *(const Codes *)(codes + at + v * BYTES);
            __builtin_prefetch(codes + at + v * BYTES + AHEAD);
        }
        step(sum, some, scale + g, x, at, g, rows, nibbles, vectors, groups);
    }
    if (vectors == 1 &&
        at < row) { /* fewer groups than a vector holds; those behind them weigh nothing */
        float last[4] = {0};
        memcpy(last, scale + g, (size_t)(w->scale_row - g) * sizeof *last);
        some[0] = first_codes(codes + at, row - at);
        step(sum, some, last, x, at, g, rows, nibbles, vectors, groups);
    }
    for (int r = 0; r < rows; r++) to[r * COLUMNS] = sum[r];
}

/* U8 in groups of any size. That of a whole row is summed as a whole number to the end. */
INLINE void long_groups(Vector *to, const QuantisedMatrix *w, QuantisedRows x, int64_t i,
                        const int rows) {
    int64_t group = w->block_in;
    const uint8_t *codes = w->codes + i * w->in;
    Vector sum[MOST] = {0};
    for (int64_t g = 0; g < w->scale_row; g++) {
        float scale = w->scale[i * w->scale_row + g];
        int64_t at = g * group, end = at + group;
        Ints products[MOST];
        for (int r = 0; r < rows; r++) products[r] = begin(x.shift + r * x.scale_row + g, 1);
        for (; at < end; at += BYTES) {
            Codes some =
                end - at < BYTES ? first_codes(codes + at, end - at) : *(const Codes *)(codes + at);
            __builtin_prefetch(codes + at + AHEAD);
            for (int r = 0; r < rows; r++)
                products[r] = dot(products[r], some, signed_at(x.codes + r * x.code_row + at), 0);
        }
        for (int r = 0; r < rows; r++) {
            float both = scale * x.scale[r * x.scale_row + g];
            if (w->scale_row == 1) {
                sum[r] = (Vector){(float)whole(products[r]) * both};
            } else {
                sum[r] += __builtin_convertvector(products[r], Vector) * both;
            }
        }
    }
    for (int r = 0; r < rows; r++) to[r * COLUMNS] = sum[r];
}

/* Rows of y from r on, columns i .. i + 3, as far as they are asked for. group 0: of any size */
INLINE void tile(const QuantisedProduct *p, QuantisedRows x, int64_t r, int64_t i, const int rows,
                 const int nibbles, const int group) {
    int64_t there = min(COLUMNS, p->first + p->count - i);
    Vector sum[MOST][COLUMNS] = {0};
    x = quantised_rows_from(x, r, 1);
    for (int64_t c = 0; c < there; c++)
        if (group)
            short_groups(&sum[0][c], &p->w, x, i + c, rows, nibbles, group);
        else
            long_groups(&sum[0][c], &p->w, x, i + c, rows);
    for (int n = 0; n < rows; n++) {
        Quarter total = add_lanes(sum[n]);
        for (int c = 0; c < there; c++) {
            int64_t at = (r + n) * p->y_row + i + c;
            p->y[at] = p->base ? p->base[at] + total[c] : total[c];
        }
    }
}

typedef void Kernel(const QuantisedProduct *p, QuantisedRows x, int64_t r, int64_t i);

#define OF_ROWS(name, rows, nibbles, group)                                                       \
    static void name##_##rows(const QuantisedProduct *p, QuantisedRows x, int64_t r, int64_t i) { \
        tile(p, x, r, i, rows, nibbles, group);                                                   \
    }
#define KERNELS(name, nibbles, group) /* of 1, 2, 4 and 8 rows of x */ \
    OF_ROWS(name, 1, nibbles, group)                                   \
    OF_ROWS(name, 2, nibbles, group)                                   \
    OF_ROWS(name, 4, nibbles, group)                                   \
    OF_ROWS(name, 8, nibbles, group)                                   \
    static Kernel *const name[] = {name##_1, name##_2, name##_4, name##_8};
KERNELS(i4_32, 1, 32)
KERNELS(i4_64, 1, 64)
KERNELS(i4_128, 1, 128)
KERNELS(u8_32, 0, 32)
KERNELS(u8_64, 0, 64)
KERNELS(u8_128, 0, 128)
KERNELS(u8_any, 0, 0)

static Kernel *const *kernels_for(const QuantisedMatrix *w) {
    int i4 = w->dtype == I4;
    if (w->scale_row == 1 && !i4) return u8_any; /* the exact one */
    switch (w->block_in) {
    case 32:
        return i4 ? i4_32 : u8_32;
    case 64:
        return i4 ? i4_64 : u8_64;
    case 128:
        return i4 ? i4_128 : u8_128;
    default:
        return u8_any;
    }
}

/* ---- x in codes ---- */

static int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

QuantisedRows quantised_rows(Context *ctx, const float *x, int64_t x_row, int64_t rows,
                             const QuantisedMatrix *w) {
    int64_t in = w->in, group = w->block_in, groups = w->scale_row;
    int parts = w->dtype == I4 ? 2 : 1;
    QuantisedRows q = {.part = rounded(in / parts, BYTES), .scale_row = rounded(groups, 4)};
    q.code_row = parts * q.part;
    q.codes = arena_alloc(&ctx->data, (size_t)(rows * q.code_row + BYTES));
    q.scale = arena_alloc(&ctx->data, (size_t)(rows * q.scale_row) * sizeof *q.scale);
    q.shift = arena_alloc(&ctx->data, (size_t)(rows * q.scale_row) * sizeof *q.shift);
    for (int64_t r = 0; r < rows; r++) {
        int8_t *codes = q.codes + r * q.code_row, some[group];
        float *scale = q.scale + r * q.scale_row;
        int32_t *shift = q.shift + r * q.scale_row;
        for (int64_t g = 0; g < q.scale_row; g++) scale[g] = 0, shift[g] = 0;
        for (int64_t g = 0; g < groups; g++) {
            int32_t sum = 0;
            scale[g] = quantise(some, x + r * x_row + g * group, group);
            for (int64_t j = 0; j < group; j++) sum += some[j];
            shift[g] = sum * (parts == 2 ? -8 : -128);
            for (int part = 0; part < parts; part++)
                memcpy(codes + part * q.part + g * group / parts, some + part * group / parts,
                       (size_t)(group / parts));
        }
        for (int part = 0; part < parts; part++)
            memset(codes + part * q.part + in / parts, 0, (size_t)(q.part - in / parts));
    }
    memset(q.codes + rows * q.code_row, 0, BYTES); /* the last group's vectors may reach in here */
    return q;
}

/* ---- the product ---- */

void quantised_int8_cpu(const QuantisedProduct *p, QuantisedRows x) {
    Kernel *const *kernels = kernels_for(&p->w);
    for (int64_t i = p->first; i < p->first + p->count; i += COLUMNS)
        for (int64_t r = 0, rows; r < p->rows; r += rows) { /* W's rows are in a cache by then */
            int k = 3;
            while (p->rows - r < 1 << k || ROWS < 1 << k) k--;
            rows = 1 << k;
            kernels[k](p, x, r, i);
        }
}
