/*
 * Products with a few rows: y[n] = W x[n] for n < 32, a token of each of a few sequences.
 *
 * Every weight is used a few times and then never again, so nothing is gained by putting it into
 * shared memory. It goes from memory into the registers that the tensor cores read, once:
 *
 *     D [16, 8] += A [16, 16] B [16, 8]           16 rows of W, 8 rows of x, 16 columns of both
 *
 * A is W, because 16 is the side that must be full, and the few rows of x are the 8 columns of D.
 * In the layout of mma.sync (mma.cuh) a lane holds columns 2c, 2c + 1, 2c + 8, 2c + 9 of rows
 * lane / 4 and + 8, c = lane % 4: loads of 4 bytes. But a sum does not mind the order of its
 * terms: let lane c hold columns 8c .. 8c + 7 of 32 instead, for W and x alike, and both come in
 * loads of 16 bytes, two products' worth at a time. These 32 columns are a chunk.
 *
 * The chunks of a row are dealt out to the warps of a block, whose sums are then added in shared
 * memory, in order: with so little to do, the time is that of the longest chain of loads, and eight
 * warps have eight chains. A warp keeps AHEAD chunks under way.
 *
 * F32 has the same layout of results, and adds up its products one by one, for tests. Weights may
 * also be codes (few_rows_codes.cuh).
 */
#ifndef COMMON_SKINNY_CUH
#define COMMON_SKINNY_CUH

#include "common/cuda/few_rows.h"
#include "common/cuda/few_rows_launch.cuh"
#include "common/cuda/mma.cuh"

enum { FEW_ROWS_TILE = 16, FEW_ROWS_CHUNK = 32 }; /* rows of W and columns at a time */

/*
 * How a grid shares the rows: all 32 in a block, which reads its weights for all of them, or, where
 * that would leave most processors idle, 8 in a block, and groups of blocks side by side, which
 * find the weights in the L2 cache. FEW_ROWS_SWITCH(rows, blocks, gpu, NT, groups, statement) with
 * NT tiles of 8 rows; `blocks` is the grid that one group needs.
 */
#define FEW_ROWS_SWITCH(rows, blocks, gpu, NT, groups, ...)                   \
    do {                                                                      \
        unsigned groups = (unsigned)(((rows) + 7) / 8);                       \
        if ((int64_t)(blocks)*groups <= 2 * (gpu)->sm_count || groups == 1) { \
            enum { NT = 1 };                                                  \
            __VA_ARGS__;                                                      \
        } else {                                                              \
            enum { NT = 4 };                                                  \
            groups = 1;                                                       \
            __VA_ARGS__;                                                      \
        }                                                                     \
    } while (0)

/* ---- chunks ---- */

/*
 * What depends on the kind of weight: numbers (float, bf16) are here, codes in few_rows_codes.cuh.
 *
 *     FewRowsTile<W>        where the lane's two rows of a tile begin
 *     FewRowsChunk<W>       its part of a chunk of them: COLUMNS of W, a quarter of them a lane's
 *     FewRowsInput<W, NT>   its part of a chunk of the rows of x: x(n) is row n, or NULL for zeros
 *
 * Number is what x and y are made of.
 */
template <typename W> struct FewRowsTile {
    const W *low, *high;
    /* Rows first .. first + 15 of matrix `matrix`; the last one comes again where there are fewer
     * than 16. */
    __device__ __forceinline__ void begin(const FewRowsWeight &w, int64_t matrix, int64_t first) {
        int row = threadIdx.x % 32 / 4;
        int last = (int)(w.out - first < FEW_ROWS_TILE ? w.out - first : FEW_ROWS_TILE) - 1;
        const W *rows = (const W *)w.data + (matrix * w.out + first) * w.in;
        low = rows + (int64_t)min(row, last) * w.in;
        high = rows + (int64_t)min(row + 8, last) * w.in;
    }
};

template <typename W, int NT> struct FewRowsInput;
template <typename W> struct FewRowsChunk;

/* sum += chunk * x, where a lane has 8 columns of both rows, as numbers, and of x. */
template <int NT>
__device__ __forceinline__ void few_rows_multiply(float (&sum)[NT][4], uint4 low, uint4 high,
                                                  const uint4 (&x)[NT]) {
    const uint32_t first[4] = {low.x, high.x, low.y, high.y};
    const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
    for (int t = 0; t < NT; t++) {
        const uint32_t b[4] = {x[t].x, x[t].y, x[t].z, x[t].w};
        mma_bf16(sum[t], first, b);
        mma_bf16(sum[t], second, b + 2);
    }
}

template <int NT> struct FewRowsInput<bf16, NT> {
    uint4 v[NT];
    template <typename Rows>
    __device__ __forceinline__ void load(const Rows &x, const FewRowsWeight &, int chunk) {
        int column = chunk * FEW_ROWS_CHUNK + threadIdx.x % 4 * 8;
#pragma unroll
        for (int t = 0; t < NT; t++) {
            const bf16 *row = x(8 * t + threadIdx.x % 32 / 4);
            v[t] = row ? *(const uint4 *)(row + column) : uint4{0, 0, 0, 0};
        }
    }
};

template <> struct FewRowsChunk<bf16> {
    typedef bf16 Number;
    static const int COLUMNS = FEW_ROWS_CHUNK;
    uint4 low, high;
    __device__ __forceinline__ void load(const FewRowsTile<bf16> &tile, const FewRowsWeight &,
                                         int chunk) {
        int column = chunk * COLUMNS + threadIdx.x % 4 * 8;
        low = __ldg((const uint4 *)(tile.low + column));
        high = __ldg((const uint4 *)(tile.high + column));
    }
    /* sum += chunk * x */
    template <int NT>
    __device__ __forceinline__ void multiply(float (&sum)[NT][4], const FewRowsInput<bf16, NT> &x,
                                             const FewRowsWeight &) const {
        few_rows_multiply(sum, low, high, x.v);
    }
};

template <int NT> struct FewRowsInput<float, NT> {
    const float *row[NT][2];
    template <typename Rows>
    __device__ __forceinline__ void load(const Rows &x, const FewRowsWeight &, int chunk) {
        for (int t = 0; t < NT; t++)
            for (int side = 0; side < 2; side++) {
                const float *from = x(8 * t + threadIdx.x % 4 * 2 + side);
                row[t][side] = from ? from + chunk * FEW_ROWS_CHUNK : nullptr;
            }
    }
};

template <> struct FewRowsChunk<float> {
    typedef float Number;
    static const int COLUMNS = FEW_ROWS_CHUNK;
    const float *low, *high;
    __device__ __forceinline__ void load(const FewRowsTile<float> &tile, const FewRowsWeight &,
                                         int chunk) {
        low = tile.low + chunk * COLUMNS;
        high = tile.high + chunk * COLUMNS;
    }
    template <int NT>
    __device__ __forceinline__ void multiply(float (&sum)[NT][4], const FewRowsInput<float, NT> &x,
                                             const FewRowsWeight &) const {
        for (int t = 0; t < NT; t++)
            for (int side = 0; side < 2; side++)
#pragma unroll 1
                for (int i = 0; x.row[t][side] && i < FEW_ROWS_CHUNK; i++) {
                    sum[t][side] = fmaf(low[i], x.row[t][side][i], sum[t][side]);
                    sum[t][2 + side] = fmaf(high[i], x.row[t][side][i], sum[t][2 + side]);
                }
    }
};

/* The rows of a matrix [count, stride], wherever it lies. */
template <typename T> struct FewRowsMatrix {
    const T *x;
    int stride, count;
    __device__ __forceinline__ const T *operator()(int n) const {
        return n < count ? x + (int64_t)n * stride : nullptr;
    }
};

/* ---- a warp's sum ---- */

/*
 * sum[c][t][i] of a lane: row lane / 4 + i / 2 * 8 of the tile, row 8 t + 2 (lane % 4) + i % 2 of
 * x. With two CHAINS the warp's first, third, ... chunk go into one sum and the others into
 * another: what two warps would have, so that the bits are those of a block with twice the warps.
 */
template <typename W, int NT, int AHEAD, int CHAINS = 1> struct FewRowsSum {
    static_assert(AHEAD % CHAINS == 0, "which chain a chunk is of must be known to the compiler");
    float sum[CHAINS][NT][4];
    FewRowsChunk<W> ahead[AHEAD];
    FewRowsTile<W> tile;
    int chunk, step, chunks;

    /* Rows first_row .. of w's matrix `matrix`. The warp takes the chunks first, first + step,
     * ... */
    __device__ __forceinline__ void begin(const FewRowsWeight &w, int64_t matrix, int64_t first_row,
                                          int first, int step_) {
        tile.begin(w, matrix, first_row);
        chunk = first, step = step_, chunks = w.in / FewRowsChunk<W>::COLUMNS;
        memset(sum, 0, sizeof sum);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) fetch(w, i, first + i * step);
    }
    __device__ __forceinline__ void fetch(const FewRowsWeight &w, int i, int which) {
        if (which < chunks) ahead[i].load(tile, w, which);
    }
    template <typename Rows>
    __device__ __forceinline__ void run(const FewRowsWeight &w, const Rows &x) {
        const int INPUTS = FewRowsChunk<W>::COLUMNS == FEW_ROWS_CHUNK ? AHEAD : 1; /* at once */
#pragma unroll 1
        for (; chunk < chunks; chunk += AHEAD * step) {
            FewRowsInput<W, NT> input[INPUTS];
#pragma unroll
            for (int i = 0; i < INPUTS; i++)
                if (chunk + i * step < chunks) input[i].load(x, w, chunk + i * step);
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
                if (chunk + i * step < chunks) {
                    if (i >= INPUTS) input[0].load(x, w, chunk + i * step);
                    ahead[i].multiply(sum[i % CHAINS], input[i % INPUTS], w);
                    fetch(w, i, chunk + (i + AHEAD) * step);
                }
        }
    }
};

/* f(j, n, value) for each number that the lane holds of tile row j and row n of x. */
template <int NT, typename F>
__device__ __forceinline__ void few_rows_each(const float (*sum)[4], F f) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            f(lane / 4 + i / 2 * 8, 8 * t + lane % 4 * 2 + i % 2, sum[t][i]);
}

/* ---- a block's sum ---- */

/* Where the warps of a block leave their sums. */
template <int NT, int WARPS> struct FewRowsParts {
    float part[WARPS][FEW_ROWS_TILE][8 * NT + 1];

    __device__ __forceinline__ void put(const float (*sum)[4], int warp) {
        auto mine = part[warp];
        few_rows_each<NT>(sum, [&](int j, int n, float value) { mine[j][n] = value; });
    }
    __device__ __forceinline__ float total(int j, int n) const {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += part[w][j][n];
        return sum;
    }
};

/* ---- the end ---- */

/* Number (n, o) of y. */
template <typename T>
__device__ __forceinline__ T few_rows_plus(float sum, const FewRowsPart &p, int64_t n, int64_t o) {
    if (p.bias) sum += to_float(((const T *)p.bias)[o]);
    if (p.residual) sum = to_float(((const T *)p.residual)[n * p.w.out + o]) + sum;
    return from_float<T>(sum);
}

/* The counters move on; by one block. */
__device__ __forceinline__ void few_rows_advance(const FewRowsLinear &s) {
#pragma unroll 1
    for (int i = threadIdx.x; blockIdx.x + blockIdx.y == 0 && i < s.advance_count; i += blockDim.x)
        s.advance[i] += s.advance_by;
}

/* ---- rows in shared memory ---- */

/* The distance of two rows: in BF16 an odd multiple of 64 bytes, so that eight lanes that read two
 * rows meet all banks. */
template <typename T> __host__ __device__ constexpr int few_rows_stride(int width) {
    return width * (int)sizeof(T) % 128 == 0 ? width + 64 / (int)sizeof(T) : width;
}

/* A weight of d numbers that will be needed: into the L2 cache. */
template <typename T> __device__ __forceinline__ void few_rows_prefetch(const T *weight, int d) {
    int k = threadIdx.x * (128 / (int)sizeof(T));
    if (k < d) asm volatile("prefetch.global.L2 [%0];" ::"l"(weight + k));
}

/* 16 bytes as numbers. */
template <typename T> struct alignas(16) FewRowsPack {
    static const int SIZE = 16 / sizeof(T);
    T v[SIZE];
    __device__ __forceinline__ float dot(const FewRowsPack &x) const {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < SIZE; i++) sum += to_float(v[i]) * to_float(x.v[i]);
        return sum;
    }
    __device__ __forceinline__ void scale(float r, const FewRowsPack &w) {
#pragma unroll
        for (int i = 0; i < SIZE; i++) v[i] = from_float<T>(to_float(v[i]) * r * to_float(w.v[i]));
    }
};

/* to [d] = rmsnorm of one row, rounded as rmsnorm() does; called by a warp. d is whole 16 bytes. A
 * lane keeps two packs (512 numbers of BF16 a warp); the rest is read again. */
template <typename T>
__device__ __forceinline__ void few_rows_norm_row(T *to, const T *from, const T *weight, int d,
                                                  float eps) {
    typedef FewRowsPack<T> Pack;
    const int V = Pack::SIZE, STEP = 32 * V;
    int first = threadIdx.x % 32 * V, second = first + STEP;
    Pack a = {}, b = {}, wa = {}, wb = {};
    if (first < d) a = *(const Pack *)(from + first), wa = *(const Pack *)(weight + first);
    if (second < d) b = *(const Pack *)(from + second), wb = *(const Pack *)(weight + second);
    float squares = a.dot(a) + b.dot(b);
#pragma unroll 1
    for (int k = second + STEP; k < d; k += STEP) {
        Pack more = *(const Pack *)(from + k);
        squares += more.dot(more);
    }
    float r = rsqrtf(warp_sum(squares) / (float)d + eps);
    a.scale(r, wa), b.scale(r, wb);
    if (first < d) *(Pack *)(to + first) = a;
    if (second < d) *(Pack *)(to + second) = b;
#pragma unroll 1
    for (int k = second + STEP; k < d; k += STEP) {
        Pack more = *(const Pack *)(from + k);
        more.scale(r, *(const Pack *)(weight + k));
        *(Pack *)(to + k) = more;
    }
}

/* to [count, few_rows_stride(d)] = rmsnorm of x's rows, a warp a row. */
template <typename T>
__device__ __forceinline__ void few_rows_rmsnorm(T *to, const T *x, int x_stride, int count,
                                                 const T *weight, int d, float eps) {
#pragma unroll 1
    for (int n = threadIdx.x / 32; n < count; n += blockDim.x / 32)
        few_rows_norm_row(to + n * few_rows_stride<T>(d), x + (int64_t)n * x_stride, weight, d,
                          eps);
}

#endif
