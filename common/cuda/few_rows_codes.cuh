/*
 * Quantised weights for the products with a few rows: from codes to what tensor cores read.
 *
 *     W[i, j] = scale[i / block_out, j / block_in] q[i, j]              (common/core/quantised.h)
 *
 * A lane loads 4 to 16 bytes of codes, and makes BF16 of them in its registers (codes.cuh).
 *
 * The scale is multiplied into the sum of a chunk: in F32, four numbers for every 16 columns or
 * more. All that the sum needs of a column's place is that W and x agree, so a lane takes those
 * columns of x whose codes it has; the two halves of an INT4 group are then two loads.
 *
 *     FewRowsCodes<F>          32 columns at a time, 4 or 8 bytes a row and lane: for the fused
 *                              kernels, whose weights are small
 *     FewRowsCoded<F>          16 bytes a row and lane: for larger ones. The largest have a kernel
 *                              of their own, few_rows_large_cuda.cu
 */
#ifndef COMMON_FEW_ROWS_CODES_CUH
#define COMMON_FEW_ROWS_CODES_CUH

#include "common/cuda/codes.cuh"
#include "common/cuda/few_rows.cuh"

template <DType F> struct FewRowsCodes;
template <DType F> struct FewRowsCoded;

/* ---- from codes to numbers ---- */

/* Bytes 0 and 1, or 2 and 3, at the lower end of two halves. */
__device__ __forceinline__ uint32_t byte_pair(uint32_t q, int second) {
    return second ? choose_bytes<0x4342>(q) : choose_bytes<0x4140>(q);
}

/* Eight numbers: four words of two. U8 and E4M3 have them in q.x and q.y; I4 in q.x, the low four
 * bits of its bytes and then the high ones. */
template <DType F> __device__ __forceinline__ uint4 few_rows_decode(uint2 q);

template <> __device__ __forceinline__ uint4 few_rows_decode<U8>(uint2 q) {
    return {int8_pair<0, 1>(q.x), int8_pair<2, 3>(q.x), int8_pair<0, 1>(q.y), int8_pair<2, 3>(q.y)};
}

template <> __device__ __forceinline__ uint4 few_rows_decode<I4>(uint2 q) {
    uint32_t a = byte_pair(q.x, 0), b = byte_pair(q.x, 1);
    return {int4_pair(a), int4_pair(b), int4_pair(a >> 4), int4_pair(b >> 4)};
}

template <> __device__ __forceinline__ uint4 few_rows_decode<F8_E4M3>(uint2 q) {
    return {e4m3_pair<0, 1>(q.x), e4m3_pair<2, 3>(q.x), e4m3_pair<0, 1>(q.y), e4m3_pair<2, 3>(q.y)};
}

/* sum += scale * part, row by row */
template <int NT>
__device__ __forceinline__ void few_rows_scaled(float (*sum)[4], const float (&part)[NT][4],
                                                float low, float high) {
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) sum[t][i] = fmaf(i < 2 ? low : high, part[t][i], sum[t][i]);
}

/* ---- 32 columns at a time ---- */

/* Bytes of so many numbers of a weight of kind W. */
template <typename W> struct FewRowsBytes {
    static __device__ __forceinline__ int of(int numbers) { return (int)sizeof(W) * numbers; }
};
template <DType F> struct FewRowsBytes<FewRowsCodes<F>> {
    static __device__ __forceinline__ int of(int numbers) {
        return F == I4 ? numbers / 2 : numbers;
    }
};

/* Row `row` of a matrix, and its scales. */
template <DType F>
__device__ __forceinline__ const unsigned char *few_rows_row(const FewRowsWeight &w, int64_t matrix,
                                                             int64_t row) {
    return (const unsigned char *)w.data +
           (matrix * w.out + row) * FewRowsBytes<FewRowsCodes<F>>::of(w.in);
}
__device__ __forceinline__ const float *few_rows_scales(const FewRowsWeight &w, int64_t matrix,
                                                        int64_t row) {
    return w.scale + (matrix * w.scale_rows + (row >> w.out_shift)) * w.scales;
}

template <DType F> struct FewRowsTile<FewRowsCodes<F>> {
    const unsigned char *low, *high;
    const float *low_scale, *high_scale;
    __device__ __forceinline__ void begin(const FewRowsWeight &w, int64_t matrix, int64_t first) {
        int64_t row = first + threadIdx.x % 32 / 4;
        int64_t a = min(row, w.out - 1), b = min(row + 8, w.out - 1);
        low = few_rows_row<F>(w, matrix, a), high = few_rows_row<F>(w, matrix, b);
        low_scale = few_rows_scales(w, matrix, a), high_scale = few_rows_scales(w, matrix, b);
    }
};

template <DType F, int NT> struct FewRowsInput<FewRowsCodes<F>, NT> {
    uint4 v[NT];
    template <typename Rows>
    __device__ __forceinline__ void load(const Rows &x, const FewRowsWeight &w, int chunk) {
        const int c = threadIdx.x % 4, n = threadIdx.x % 32 / 4;
        int column = chunk * FEW_ROWS_CHUNK + 8 * c, second = column + 4;
        if (F == I4) { /* 16 bytes of a group: so many columns here, and half a group on */
            int in_group = chunk & ((1 << (w.in_shift - 5)) - 1);
            column = (chunk - in_group) * FEW_ROWS_CHUNK + in_group * 16 + 4 * c;
            second = column + (1 << (w.in_shift - 1));
        }
#pragma unroll
        for (int t = 0; t < NT; t++) {
            const bf16 *row = x(8 * t + n);
            v[t] = {0, 0, 0, 0};
            if (!row) continue;
            if (F == I4) {
                uint2 a = *(const uint2 *)(row + column), b = *(const uint2 *)(row + second);
                v[t] = {a.x, a.y, b.x, b.y};
            } else {
                v[t] = *(const uint4 *)(row + column);
            }
        }
    }
};

template <DType F> struct FewRowsChunk<FewRowsCodes<F>> {
    typedef bf16 Number;
    static const int COLUMNS = FEW_ROWS_CHUNK;
    uint2 low, high;
    float low_scale, high_scale;
    __device__ __forceinline__ void load(const FewRowsTile<FewRowsCodes<F>> &tile,
                                         const FewRowsWeight &w, int chunk) {
        if (F == I4) {
            int at = chunk * 16 + threadIdx.x % 4 * 4;
            low.x = __ldg((const unsigned *)(tile.low + at));
            high.x = __ldg((const unsigned *)(tile.high + at));
        } else {
            int at = chunk * 32 + threadIdx.x % 4 * 8;
            low = __ldg((const uint2 *)(tile.low + at));
            high = __ldg((const uint2 *)(tile.high + at));
        }
        int block = chunk * COLUMNS >> w.in_shift;
        low_scale = __ldg(tile.low_scale + block), high_scale = __ldg(tile.high_scale + block);
    }
    template <int NT>
    __device__ __forceinline__ void multiply(float (&sum)[NT][4],
                                             const FewRowsInput<FewRowsCodes<F>, NT> &x,
                                             const FewRowsWeight &) const {
        float part[NT][4] = {};
        few_rows_multiply(part, few_rows_decode<F>(low), few_rows_decode<F>(high), x.v);
        few_rows_scaled(sum, part, low_scale, high_scale);
    }
};

/* ---- 16 bytes at a time ---- */

/* 16 bytes that nobody will read again: they leave the L1 cache to x. */
__device__ __forceinline__ uint4 load_once(const void *from) {
#if MMA_CODE
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
#else
    return __ldg((const uint4 *)from);
#endif
}

/* Columns of a chunk: a lane's quarter is 16 bytes. */
template <DType F> __host__ __device__ constexpr int few_rows_columns() {
    return F == I4 ? 128 : 64;
}

template <DType F>
struct FewRowsTile<FewRowsCoded<F>> : FewRowsTile<FewRowsCodes<F>> {}; /* rows as there */

/* v[u]: the columns of the lane's u-th eight numbers. */
template <DType F, int NT> struct FewRowsInput<FewRowsCoded<F>, NT> {
    static const int UNITS = few_rows_columns<F>() / 32;
    uint4 v[UNITS][NT];
    template <typename Rows>
    __device__ __forceinline__ void load(const Rows &x, const FewRowsWeight &, int chunk) {
        const int column = chunk * few_rows_columns<F>() + threadIdx.x % 4 * 16;
#pragma unroll
        for (int t = 0; t < NT; t++) {
            const bf16 *row = x(8 * t + threadIdx.x % 32 / 4);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint4 a = {0, 0, 0, 0}, b = {0, 0, 0, 0};
                if (row) a = *(const uint4 *)(row + column + 8 * h);
                if (F == I4) {
                    if (row) b = *(const uint4 *)(row + column + 64 + 8 * h);
                    v[2 * h % UNITS][t] = {a.x, a.y, b.x, b.y};
                    v[(2 * h + 1) % UNITS][t] = {a.z, a.w, b.z, b.w};
                } else {
                    v[h][t] = a;
                }
            }
        }
    }
};

template <DType F> struct FewRowsChunk<FewRowsCoded<F>> {
    typedef bf16 Number;
    static const int COLUMNS = few_rows_columns<F>();
    uint4 low, high;
    float low_scale, high_scale;
    __device__ __forceinline__ void load(const FewRowsTile<FewRowsCoded<F>> &tile,
                                         const FewRowsWeight &w, int chunk) {
        const int at = chunk * 64 + threadIdx.x % 4 * 16, block = chunk * COLUMNS >> w.in_shift;
        low = load_once(tile.low + at), high = load_once(tile.high + at);
        low_scale = __ldg(tile.low_scale + block), high_scale = __ldg(tile.high_scale + block);
    }
    template <int NT>
    __device__ __forceinline__ void multiply(float (&sum)[NT][4],
                                             const FewRowsInput<FewRowsCoded<F>, NT> &x,
                                             const FewRowsWeight &) const {
        const uint32_t a[4] = {low.x, low.y, low.z, low.w};
        const uint32_t b[4] = {high.x, high.y, high.z, high.w};
        const int EACH = F == I4 ? 1 : 2, UNITS = COLUMNS / 32; /* EACH: words for 8 numbers */
        float part[NT][4] = {};
#pragma unroll
        for (int u = 0; u < UNITS; u++)
            few_rows_multiply(part, few_rows_decode<F>({a[EACH * u], a[EACH * u + EACH - 1]}),
                              few_rows_decode<F>({b[EACH * u], b[EACH * u + EACH - 1]}), x.v[u]);
        few_rows_scaled(sum, part, low_scale, high_scale);
    }
};

/* Eight numbers of a row from `column` on (a multiple of 8), scaled and rounded: for those who need
 * the weight itself. */
template <DType F>
__device__ __forceinline__ uint4 few_rows_eight(const FewRowsWeight &w, int64_t matrix, int64_t row,
                                                int column) {
    const unsigned char *codes = few_rows_row<F>(w, matrix, row);
    const float s = __ldg(few_rows_scales(w, matrix, row) + (column >> w.in_shift));
    uint4 v;
    if (F == I4) { /* eight low, or eight high halves of bytes */
        int group = column >> w.in_shift << w.in_shift, half = 1 << (w.in_shift - 1);
        bool high = column - group >= half;
        uint2 q = __ldg((const uint2 *)(codes + group / 2 + (column - group) % half));
        if (high) q.x >>= 4, q.y >>= 4;
        v = {int4_pair(byte_pair(q.x, 0)), int4_pair(byte_pair(q.x, 1)),
             int4_pair(byte_pair(q.y, 0)), int4_pair(byte_pair(q.y, 1))};
    } else {
        v = few_rows_decode<F>(__ldg((const uint2 *)(codes + column)));
    }
    uint32_t *words = (uint32_t *)&v;
#pragma unroll
    for (int i = 0; i < 4; i++)
        words[i] = pack_bf16(__uint_as_float(words[i] << 16) * s,
                             __uint_as_float(words[i] & 0xffff0000u) * s);
    return v;
}

/* The product with a large matrix of codes, or false: it is none that the kernel takes. Whether it
 * is does not depend on the number of rows. */
bool few_rows_large_cuda(Gpu *gpu, const FewRowsLinear *s);

/*
 * FEW_ROWS_KIND(dtype, w, W, statement): the statement with W = the kernel's dtype for a weight of
 * numbers, or FewRowsCodes<F>. few_rows_weight_supports() has been asked.
 */
#define FEW_ROWS_KIND(dtype_, w, W, ...)          \
    do {                                          \
        if (!(w).scale) {                         \
            DTYPE_SWITCH(dtype_, W, __VA_ARGS__); \
        } else if ((w).dtype == I4) {             \
            typedef FewRowsCodes<I4> W;           \
            __VA_ARGS__;                          \
        } else if ((w).dtype == U8) {             \
            typedef FewRowsCodes<U8> W;           \
            __VA_ARGS__;                          \
        } else {                                  \
            typedef FewRowsCodes<F8_E4M3> W;      \
            __VA_ARGS__;                          \
        }                                         \
    } while (0)

#endif
