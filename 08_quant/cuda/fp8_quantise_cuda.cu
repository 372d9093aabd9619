/*
 * To E4M3 with scales of blocks. Every number is read once and stays in registers or shared memory
 * while its block's largest is found; what limits is memory: 2 bytes in, 1 out (2 with a
 * transpose).
 */
#include "05_moe/cuda/prefix.cuh"
#include "08_quant/cuda/fp8_codes.cuh"
#include "08_quant/fp8.h"

enum { THREADS = 256, EIGHT = 8 };

/* Numbers i .. i + 7 of a row that has `count`, zeros behind its end; `vectors`: rows begin at
 * multiples of eight numbers. */
template <typename T>
static __device__ __forceinline__ void load_eight(float *v, const T *row, int64_t i, int64_t count,
                                                  bool vectors) {
    if (vectors && i + EIGHT <= count) {
        Pack<T, EIGHT> p = *(const Pack<T, EIGHT> *)(row + i);
#pragma unroll
        for (int j = 0; j < EIGHT; j++) v[j] = to_float(p.v[j]);
    } else
#pragma unroll
        for (int j = 0; j < EIGHT; j++) v[j] = i + j < count ? to_float(row[i + j]) : 0;
}

static __device__ __forceinline__ void store_eight(uint8_t *row, int64_t i, int64_t count,
                                                   uint2 codes, bool vectors) {
    if (vectors && i + EIGHT <= count)
        *(uint2 *)(row + i) = codes;
    else
        for (int j = 0; j < EIGHT && i + j < count; j++)
            row[i + j] = (uint8_t)((j < 4 ? codes.x : codes.y) >> j % 4 * 8);
}

static __device__ __forceinline__ float largest(const float *v) {
    float m = 0;
#pragma unroll
    for (int j = 0; j < EIGHT; j++) m = fmaxf(m, fabsf(v[j]));
    return m;
}

/* x / s; a power of two has an exact inverse. */
static __device__ __forceinline__ float divide(float x, float s, float inverse, int power_of_two) {
    return power_of_two ? x * inverse : __fdiv_rn(x, s);
}

static __device__ __forceinline__ uint2 codes_of_eight(const float *v, float s, int power_of_two) {
    float q[EIGHT], inverse = 1 / s;
#pragma unroll
    for (int j = 0; j < EIGHT; j++) q[j] = divide(v[j], s, inverse, power_of_two);
    return make_uint2(four_codes(q[0], q[1], q[2], q[3]), four_codes(q[4], q[5], q[6], q[7]));
}

/* ---- 1 x 128: half a warp for a block, four blocks one after the other ---- */

enum { BLOCKS_AT_ONCE = THREADS / 16, TURNS = 4 };

template <typename T>
__global__ void fp8_rows_kernel(uint8_t *codes, float *scales, const T *x, int rows, int64_t cols,
                                int power_of_two) {
    unsigned blocks = (unsigned)fp8_blocks(cols), stride = (unsigned)fp8_scale_stride(rows);
    bool vectors = cols % EIGHT == 0;
    float v[TURNS][EIGHT];
    unsigned first = blockIdx.x * (BLOCKS_AT_ONCE * TURNS) + threadIdx.x / 16;
#pragma unroll
    for (int i = 0; i < TURNS; i++) { /* all loads before the first is waited for */
        unsigned item = first + i * BLOCKS_AT_ONCE, row = item / blocks;
        int64_t at = item % blocks * FP8_STEP + threadIdx.x % 16 * EIGHT;
        bool inside = row < (unsigned)rows;
        load_eight(v[i], x + (inside ? row : 0) * cols, at, inside ? cols : 0, vectors);
    }
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        unsigned item = first + i * BLOCKS_AT_ONCE, row = item / blocks, block = item % blocks;
        float amax = largest(v[i]);
        for (int offset = 8; offset; offset /= 2)
            amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, offset));
        if (row >= (unsigned)rows) continue;
        float s = scale_of(amax, power_of_two);
        store_eight(codes + row * cols, block * FP8_STEP + threadIdx.x % 16 * EIGHT, cols,
                    codes_of_eight(v[i], s, power_of_two), vectors);
        if (threadIdx.x % 16 == 0) scales[(int64_t)block * stride + row] = s;
    }
}

void fp8_quantise_rows_cuda(Gpu *gpu, DType dtype, uint8_t *codes, float *scales, const void *x,
                            int64_t rows, int64_t cols, int power_of_two) {
    int64_t blocks = rows * fp8_blocks(cols);
    CHECK(blocks <= INT32_MAX, "FP8: %lld blocks of 128 are more than fit", (long long)blocks);
    if (!blocks) return;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, fp8_rows_kernel<T>,
                            (unsigned)ceil_div(blocks, BLOCKS_AT_ONCE * TURNS), THREADS, 0, codes,
                            scales, (const T *)x, (int)rows, cols, power_of_two));
}

/* ---- the transpose: a block takes 128 tokens of 64 columns ---- */

enum { COLUMNS = 64, PARTS = THREADS / COLUMNS, PART = FP8_STEP / PARTS, MOST_EXPERTS = 640 };

template <typename T>
__global__ void fp8_columns_kernel(uint8_t *codes, float *scales, const T *x,
                                   const int32_t *offsets, int experts, int64_t rows, int64_t cols,
                                   int64_t padded, int power_of_two) {
    __shared__ float tile[FP8_STEP][COLUMNS + 1], maxima[PARTS][COLUMNS];
    __shared__ int first[MOST_EXPERTS + 1], mine;
    int t = threadIdx.x, block = blockIdx.y;
    int64_t begin = block * FP8_STEP, count = rows - begin;
    if (offsets) { /* whose block is it? */
        prefix_table(first, experts, [&](int e) {
            return (offsets[e + 1] - offsets[e] + FP8_STEP - 1) / FP8_STEP;
        });
        if (block >= first[experts]) return;
        for (int e = t; e < experts; e += THREADS)
            if (first[e] <= block && block < first[e + 1]) mine = e;
        __syncthreads();
        begin = offsets[mine] + (block - first[mine]) * FP8_STEP;
        count = offsets[mine + 1] - begin;
    }
    int64_t c0 = blockIdx.x * COLUMNS;
    bool vectors = cols % EIGHT == 0;
    for (int i = t; i < FP8_STEP * COLUMNS / EIGHT; i += THREADS) {
        int r = i / (COLUMNS / EIGHT), c = i % (COLUMNS / EIGHT) * EIGHT;
        bool inside = r < count;
        load_eight(&tile[r][c], x + (inside ? begin + r : 0) * cols, c0 + c, inside ? cols : 0,
                   vectors);
    }
    __syncthreads();
    int c = t % COLUMNS, part = t / COLUMNS;
    float amax = 0;
    for (int r = 0; r < PART; r++) amax = fmaxf(amax, fabsf(tile[part * PART + r][c]));
    maxima[part][c] = amax;
    __syncthreads();
    if (c0 + c >= cols) return;
    for (int i = 0; i < PARTS; i++) amax = fmaxf(amax, maxima[i][c]);
    float s = scale_of(amax, power_of_two);
    if (part == 0) scales[block * fp8_scale_stride(cols) + c0 + c] = s;
    uint8_t *to = codes + (c0 + c) * padded + (int64_t)block * FP8_STEP + part * PART;
    for (int r = 0; r < PART; r += 16) {
        float v[16];
        for (int j = 0; j < 16; j++) v[j] = tile[part * PART + r + j][c];
        uint2 low = codes_of_eight(v, s, power_of_two),
              high = codes_of_eight(v + 8, s, power_of_two);
        *(uint4 *)(to + r) = make_uint4(low.x, low.y, high.x, high.y);
    }
}

void fp8_quantise_columns_cuda(Gpu *gpu, DType dtype, uint8_t *codes, float *scales, const void *x,
                               const int32_t *offsets, int experts, int64_t rows, int64_t cols,
                               int power_of_two) {
    CHECK(experts <= MOST_EXPERTS, "FP8 along tokens: %d experts, at most %d", experts,
          MOST_EXPERTS);
    int64_t padded = fp8_padded_rows(rows, offsets ? experts : 1);
    if (!padded || !cols) return;
    dim3 grid((unsigned)ceil_div(cols, COLUMNS), (unsigned)(padded / FP8_STEP));
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, fp8_columns_kernel<T>, grid, THREADS, 0, codes, scales,
                            (const T *)x, offsets, experts, rows, cols, padded, power_of_two));
}

/* ---- 128 x 128: a block for a block, 64 numbers in a thread ---- */

/* Four rows of four bytes to four columns: column[0 .. 3][i]. */
static __device__ __forceinline__ void turn_four(uint32_t (&column)[4][4], int i,
                                                 const uint8_t *rows, int pitch) {
    uint32_t a = *(const uint32_t *)rows, b = *(const uint32_t *)(rows + pitch);
    uint32_t c = *(const uint32_t *)(rows + 2 * pitch), d = *(const uint32_t *)(rows + 3 * pitch);
    uint32_t ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140); /* a0 b0 a1 b1 */
    column[0][i] = __byte_perm(ab, cd, 0x5410);
    column[1][i] = __byte_perm(ab, cd, 0x7632);
    ab = __byte_perm(a, b, 0x7362), cd = __byte_perm(c, d, 0x7362); /* a2 b2 a3 b3 */
    column[2][i] = __byte_perm(ab, cd, 0x5410);
    column[3][i] = __byte_perm(ab, cd, 0x7632);
}

template <typename T>
__global__ void fp8_blocks_kernel(uint8_t *codes, float *scales, uint8_t *codes_t, float *scales_t,
                                  const T *w, int64_t out, int64_t in, int power_of_two) {
    __shared__ float maxima[THREADS / 32];
    __shared__ __align__(16) uint8_t tile[FP8_STEP][FP8_STEP + 8];
    int t = threadIdx.x, piece = t % 16 * EIGHT;
    int64_t r0 = blockIdx.y * (int64_t)FP8_STEP, c0 = blockIdx.x * (int64_t)FP8_STEP;
    int64_t expert = blockIdx.z;
    w += expert * out * in;
    bool vectors = in % EIGHT == 0;
    float v[8][EIGHT], amax = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int64_t r = r0 + t / 16 + 16 * i;
        load_eight(v[i], w + (r < out ? r : 0) * in, c0 + piece, r < out ? in : 0, vectors);
        amax = fmaxf(amax, largest(v[i]));
    }
    amax = warp_max(amax);
    if (t % 32 == 0) maxima[t / 32] = amax;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++) amax = fmaxf(amax, maxima[i]);
    float s = scale_of(amax, power_of_two);
    int64_t down = gridDim.y, across = gridDim.x;
    if (t == 0) {
        if (codes) scales[(expert * down + blockIdx.y) * across + blockIdx.x] = s;
        if (codes_t) scales_t[(expert * across + blockIdx.x) * down + blockIdx.y] = s;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int r = t / 16 + 16 * i;
        uint2 q = codes_of_eight(v[i], s, power_of_two);
        if (codes && r0 + r < out)
            store_eight(codes + (expert * out + r0 + r) * in, c0 + piece, in, q, vectors);
        *(uint2 *)&tile[r][piece] = q;
    }
    if (!codes_t) return;
    __syncthreads();
    /* a warp turns 16 rows, a lane four columns of them */
    int r = t / 32 * 16, c = t % 32 * 4;
    uint32_t column[4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) turn_four(column, i, &tile[r + 4 * i][c], sizeof tile[0]);
    for (int i = 0; i < 4; i++) {
        if (c0 + c + i >= in) continue;
        uint8_t *to = codes_t + (expert * in + c0 + c + i) * out;
        for (int half = 0; half < 2; half++)
            store_eight(to, r0 + r + 8 * half, out,
                        make_uint2(column[i][2 * half], column[i][2 * half + 1]), out % EIGHT == 0);
    }
}

void fp8_quantise_blocks_cuda(Gpu *gpu, DType dtype, uint8_t *codes, float *scales,
                              uint8_t *codes_t, float *scales_t, const void *w, int experts,
                              int64_t out, int64_t in, int power_of_two) {
    if (!experts || !out || !in) return;
    dim3 grid((unsigned)fp8_blocks(in), (unsigned)fp8_blocks(out), (unsigned)experts);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, fp8_blocks_kernel<T>, grid, THREADS, 0, codes, scales, codes_t,
                            scales_t, (const T *)w, out, in, power_of_two));
}

/* ---- rows that no expert has ---- */

template <typename T>
__global__ void fp8_clear_kernel(T *y, const int32_t *offsets, int experts, int64_t rows,
                                 int64_t cols) {
    int64_t i = offsets[experts] * cols + blockIdx.x * (int64_t)THREADS + threadIdx.x;
    for (; i < rows * cols; i += gridDim.x * (int64_t)THREADS) y[i] = from_float<T>(0);
}

void fp8_clear_rest_cuda(Gpu *gpu, DType dtype, void *y, const int32_t *offsets, int experts,
                         int64_t rows, int64_t cols) {
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, fp8_clear_kernel<T>, gpu->sm_count, THREADS, 0, (T *)y, offsets,
                            experts, rows, cols));
}
