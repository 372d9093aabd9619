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
 * F32 has the same layout of results, and adds up its products one by one, for tests.
 */
#ifndef COMMON_SKINNY_CUH
#define COMMON_SKINNY_CUH

#include "early.cuh"
#include "mma.cuh"
#include "skinny.h"

typedef __nv_bfloat16 bf16;

enum { SKINNY_TILE = 16, SKINNY_CHUNK = 32 }; /* rows of W and columns at a time */

/* Tiles of 8 rows of x: SKINNY_SWITCH(rows, NT, statement) with NT = 1 or 4. */
#define SKINNY_SWITCH(rows, NT, ...) \
    do {                             \
        if ((rows) <= 8) {           \
            enum { NT = 1 };         \
            __VA_ARGS__;             \
        } else {                     \
            enum { NT = 4 };         \
            __VA_ARGS__;             \
        }                            \
    } while (0)

/* ---- chunks ---- */

/* A lane's part of a chunk of W: 8 columns of two rows. */
template <typename T> struct SkinnyChunk;

template <> struct SkinnyChunk<bf16> {
    uint4 low, high;
    __device__ __forceinline__ void load(const bf16 *low_row, const bf16 *high_row, int column) {
        column += threadIdx.x % 4 * 8;
        low = __ldg((const uint4 *)(low_row + column));
        high = __ldg((const uint4 *)(high_row + column));
    }
    /* sum += chunk * x; x(n) is row n, or NULL for zeros. */
    template <int NT, typename Rows>
    __device__ __forceinline__ void multiply(float (&sum)[NT][4], const Rows &x, int column) const {
        const uint32_t first[4] = {low.x, high.x, low.y, high.y};
        const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int t = 0; t < NT; t++) {
            const bf16 *row = x(8 * t + threadIdx.x % 32 / 4);
            uint4 v = {0, 0, 0, 0};
            if (row) v = *(const uint4 *)(row + column + threadIdx.x % 4 * 8);
            const uint32_t b[4] = {v.x, v.y, v.z, v.w};
            mma_bf16(sum[t], first, b);
            mma_bf16(sum[t], second, b + 2);
        }
    }
};

template <> struct SkinnyChunk<float> {
    const float *low, *high;
    __device__ __forceinline__ void load(const float *low_row, const float *high_row, int column) {
        low = low_row + column;
        high = high_row + column;
    }
    template <int NT, typename Rows>
    __device__ __forceinline__ void multiply(float (&sum)[NT][4], const Rows &x, int column) const {
        for (int t = 0; t < NT; t++)
            for (int side = 0; side < 2; side++) {
                const float *row = x(8 * t + threadIdx.x % 4 * 2 + side);
                for (int i = 0; row && i < SKINNY_CHUNK; i++) {
                    sum[t][side] = fmaf(low[i], row[column + i], sum[t][side]);
                    sum[t][2 + side] = fmaf(high[i], row[column + i], sum[t][2 + side]);
                }
            }
    }
};

/* The rows of a matrix [count, stride], wherever it lies. */
template <typename T> struct SkinnyRows {
    const T *x;
    int64_t stride;
    int count;
    __device__ __forceinline__ const T *operator()(int n) const {
        return n < count ? x + n * stride : nullptr;
    }
};

/* ---- a warp's sum ---- */

/* sum[t][i] of a lane: row lane / 4 + i / 2 * 8 of the tile, row 8 t + 2 (lane % 4) + i % 2 of x. */
template <typename T, int NT, int AHEAD> struct SkinnySum {
    float sum[NT][4];
    SkinnyChunk<T> ahead[AHEAD];
    const T *low, *high;
    int chunk, step, chunks;

    /* The tile that begins at w, of rows that are `width` wide; the last of `rows` comes again
     * where there are fewer than 16. The warp takes the chunks first, first + step, ... */
    __device__ __forceinline__ void begin(const T *w, int64_t width, int64_t rows, int first,
                                          int step_) {
        int row = threadIdx.x % 32 / 4, last = (int)(rows < SKINNY_TILE ? rows : SKINNY_TILE) - 1;
        low = w + min(row, last) * width;
        high = w + min(row + 8, last) * width;
        chunk = first, step = step_, chunks = (int)(width / SKINNY_CHUNK);
        memset(sum, 0, sizeof sum);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) fetch(i, first + i * step);
    }
    __device__ __forceinline__ void fetch(int i, int which) {
        if (which < chunks) ahead[i].load(low, high, which * SKINNY_CHUNK);
    }
    template <typename Rows> __device__ __forceinline__ void run(const Rows &x) {
        for (; chunk < chunks; chunk += AHEAD * step)
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                int now = chunk + i * step;
                if (now >= chunks) break;
                ahead[i].multiply(sum, x, now * SKINNY_CHUNK);
                fetch(i, now + AHEAD * step);
            }
    }
};

/* f(j, n, value) for each number that the lane holds of tile row j and row n of x. */
template <int NT, typename F>
__device__ __forceinline__ void skinny_each(const float (&sum)[NT][4], F f) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            f(lane / 4 + i / 2 * 8, 8 * t + lane % 4 * 2 + i % 2, sum[t][i]);
}

/* ---- a block's sum ---- */

/* Where the warps of a block leave their sums. */
template <int NT, int WARPS> struct SkinnyParts {
    float part[WARPS][SKINNY_TILE][8 * NT + 1];

    __device__ __forceinline__ void put(const float (&sum)[NT][4]) {
        auto mine = part[threadIdx.x / 32];
        skinny_each(sum, [&](int j, int n, float value) { mine[j][n] = value; });
    }
    __device__ __forceinline__ float total(int j, int n) const {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum += part[w][j][n];
        return sum;
    }
};

/* ---- rows in shared memory ---- */

/* The distance of two rows: in BF16 an odd multiple of 64 bytes, so that eight lanes that read two
 * rows meet all banks. */
template <typename T> __host__ __device__ constexpr int64_t skinny_stride(int64_t width) {
    return width * sizeof(T) % 128 == 0 ? width + 64 / (int64_t)sizeof(T) : width;
}

/* to [d] = rmsnorm of one row, rounded as rmsnorm() does; called by a warp. d is whole 16 bytes. */
template <typename T>
__device__ __forceinline__ void skinny_norm_row(T *to, const T *from, const T *weight, int d,
                                                float eps) {
    const int V = 16 / sizeof(T);
    struct alignas(16) Pack {
        T v[V];
    };
    int lane = threadIdx.x % 32;
    float squares = 0;
    for (int k = lane * V; k < d; k += 32 * V) {
        Pack p = *(const Pack *)(from + k);
#pragma unroll
        for (int i = 0; i < V; i++) squares += to_float(p.v[i]) * to_float(p.v[i]);
    }
    float r = rsqrtf(warp_sum(squares) / (float)d + eps);
    for (int k = lane * V; k < d; k += 32 * V) {
        Pack p = *(const Pack *)(from + k), w = *(const Pack *)(weight + k);
#pragma unroll
        for (int i = 0; i < V; i++) p.v[i] = from_float<T>(to_float(p.v[i]) * r * to_float(w.v[i]));
        *(Pack *)(to + k) = p;
    }
}

/* to [count, skinny_stride(d)] = rmsnorm of x's rows, a warp a row. */
template <typename T>
__device__ __forceinline__ void skinny_rmsnorm(T *to, const T *x, int64_t x_stride, int count,
                                               const T *weight, int d, float eps) {
    for (int n = threadIdx.x / 32; n < count; n += blockDim.x / 32)
        skinny_norm_row(to + n * skinny_stride<T>(d), x + n * x_stride, weight, d, eps);
}

#endif
