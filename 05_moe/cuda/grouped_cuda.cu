/*
 * The grouped product on the GPU: the first three rungs (grouped_mma.cu and grouped_*hopper.cu hold
 * the others), and the choice of the one in use.
 *
 *     gather   for every expert: gather its tokens into a matrix, multiply
 *     blas     the tokens are sorted by expert before: multiply
 *     plain    one kernel for all experts, which reads their sizes itself
 */
#include "05_moe/cuda/grouped_tiles.cuh"
#include "05_moe/grouped_rungs.h"
#include "common/cuda/gpu_matmul.cuh"

/* ---- rungs 1 and 2: cuBLAS, expert by expert ----
 * What limits: the host must know how many rows each expert has, so it waits for the router; and
 * one small expert after the other cannot fill a large GPU (32 rows of 1024 outputs are 16 tiles
 * for 132 SMs). Sorting the tokens first saves a launch per expert, and the backward pass needs it
 * anyway. */

/* Matrix number i of a tensor, i counting elements. */
static char *part(DType dtype, const void *x, int64_t i) {
    return (char *)x + i * (int64_t)dtype_size(dtype);
}

void grouped_forward_blas_cuda(Gpu *gpu, DType dtype, void *y, const void *x, const void *w,
                               const int32_t *host_offsets, GroupedShape s) {
    for (int64_t e = 0; e < s.experts; e++) {
        int64_t row = host_offsets[e];
        GpuMatmul p =
            gpu_product(dtype, dtype, false, true, host_offsets[e + 1] - row, s.out, s.in);
        gpu_matmul(gpu, &p, part(dtype, y, row * s.out), part(dtype, x, row * s.in),
                   part(dtype, w, e * s.out * s.in), NULL);
    }
}

void grouped_backward_input_blas_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dy,
                                      const void *w, const int32_t *host_offsets, GroupedShape s) {
    int64_t used = s.experts ? host_offsets[s.experts] : 0;
    if (!add)
        gpu_set(gpu, part(dtype, dx, used * s.in), 0,
                (size_t)((s.rows - used) * s.in) * dtype_size(dtype));
    for (int64_t e = 0; e < s.experts; e++) {
        int64_t row = host_offsets[e];
        GpuMatmul p =
            gpu_product(dtype, dtype, false, false, host_offsets[e + 1] - row, s.in, s.out);
        p.beta = (float)add;
        gpu_matmul(gpu, &p, part(dtype, dx, row * s.in), part(dtype, dy, row * s.out),
                   part(dtype, w, e * s.out * s.in), NULL);
    }
}

void grouped_backward_weight_blas_cuda(Gpu *gpu, DType dtype, float *dw, int add, const void *dy,
                                       const void *x, const int32_t *host_offsets, GroupedShape s) {
    for (int64_t e = 0; e < s.experts; e++) {
        int64_t row = host_offsets[e], rows = host_offsets[e + 1] - row;
        float *to = dw + e * s.out * s.in;
        if (!rows) {
            if (!add) gpu_set(gpu, to, 0, (size_t)(s.out * s.in) * sizeof *to);
            continue;
        }
        GpuMatmul p = gpu_product(dtype, F32, true, false, s.out, s.in, rows);
        p.beta = (float)add;
        gpu_matmul(gpu, &p, to, part(dtype, dy, row * s.out), part(dtype, x, row * s.in), NULL);
    }
}

/* to[r] = x[token_of_row[r]]: a block copies a row. */
template <typename T>
__global__ void gather_kernel(T *to, const T *x, const int32_t *token_of_row, int64_t width) {
    const T *from = x + token_of_row[blockIdx.x] * width;
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) to[blockIdx.x * width + i] = from[i];
}

void grouped_forward_gather_cuda(Gpu *gpu, DType dtype, void *y, void *gathered, const void *x,
                                 const int32_t *token_of_row, const void *w,
                                 const int32_t *host_offsets, GroupedShape s) {
    for (int64_t e = 0; e < s.experts; e++) {
        int64_t row = host_offsets[e], rows = host_offsets[e + 1] - row;
        if (!rows) continue;
        void *mine = part(dtype, gathered, row * s.in);
        DTYPE_SWITCH(
            dtype, T,
            gpu_launch(gpu, gather_kernel<T>, rows, 256, 0, mine, x, token_of_row + row, s.in));
        int32_t one[2] = {0, (int32_t)rows};
        GroupedShape single = {rows, s.in, s.out, 1};
        grouped_forward_blas_cuda(gpu, dtype, part(dtype, y, row * s.out), mine,
                                  part(dtype, w, e * s.out * s.in), one, single);
    }
}

/* ---- rung 3: one kernel ----
 * The tile of 01_self_attention/cuda/matmul_cuda.cu's registers rung: 128 x 128 sums for a block, 8
 * x 8 for a thread, 8 k's at a time from shared memory. New is only where a tile's operands are:
 * blocks look that up (grouped_tiles.cuh), and the host need not know. It takes every size and both
 * dtypes. What limits: the F32 units. */
enum Product { FORWARD, SWIGLU, INPUT, WEIGHT };
enum { TILE = 128, DEPTH = 8, THREADS = 256, PITCH = TILE + 4 };

template <typename T> struct PlainWork {
    const T *a, *b, *b2; /* SWIGLU: b is gate's, b2 up's */
    void *y;             /* T; WEIGHT: float */
    T *g, *u;            /* SWIGLU; may be NULL */
    const int32_t *offsets;
    int64_t rows;
    int in, out, experts, columns; /* tiles across the result (SWIGLU: of 64) */
    int add;
};

struct PlainTile {
    int expert, row, end; /* rows of x: this tile's first, and the end of the expert's */
    int m, n, depth;      /* WEIGHT: the first row of dW; the first column; how many k's */
};

/* The thread's number, as one that may differ each time: or else the addresses of all fetches would
 * be kept in registers, which the sums need. */
static __device__ __forceinline__ int thread_now() {
    int t = threadIdx.x;
    asm volatile("" : "+r"(t));
    return t;
}

/* Four numbers of this thread out of 128 x 8 of an operand, at k's p0 .. p0 + 7. Operands
 * with k innermost are read 8 k's at a time, the others 128 rows at a time. */
template <bool K_INNER, typename T, typename At>
static __device__ __forceinline__ void fetch(T *next, At at) {
    int t = thread_now();
    for (int i = 0; i < 4; i++)
        next[i] = K_INNER ? at(t / 8 + 32 * i, t % 8) : at(t % 128, t / 128 + 2 * i);
}

template <bool K_INNER, typename T>
static __device__ __forceinline__ void put(float (*tile)[PITCH], const T *next) {
    int t = thread_now();
    for (int i = 0; i < 4; i++) {
        if (K_INNER)
            tile[t % 8][t / 8 + 32 * i] = to_float(next[i]);
        else
            tile[t / 128 + 2 * i][t % 128] = to_float(next[i]);
    }
}

/* A (row m, k p) and B (column n, k p) of a tile; zero outside. */
template <Product P, typename T>
static __device__ __forceinline__ T a_at(const PlainWork<T> &w, const PlainTile &t, int m, int p) {
    bool there = p < t.depth && (P == WEIGHT ? t.m + m < w.out : t.row + m < t.end);
    int64_t row = P == WEIGHT ? t.row + p : t.row + m,
            width = P == FORWARD || P == SWIGLU ? w.in : w.out;
    return there ? w.a[row * width + (P == WEIGHT ? t.m + m : p)] : from_float<T>(0);
}
template <Product P, typename T>
static __device__ __forceinline__ T b_at(const PlainWork<T> &w, const PlainTile &t, int n, int p) {
    if (P == INPUT || P == WEIGHT) {
        int64_t row = P == INPUT ? (int64_t)t.expert * w.out + p : t.row + p;
        return p < t.depth && t.n + n < w.in ? w.b[row * w.in + t.n + n] : from_float<T>(0);
    }
    const T *from = P == SWIGLU && n >= TILE / 2 ? w.b2 : w.b; /* 64 of gate, then 64 of up */
    int col = t.n + (P == SWIGLU ? n % (TILE / 2) : n);
    int64_t row = (int64_t)t.expert * w.out + col;
    return p < t.depth && col < w.out ? from[row * w.in + p] : from_float<T>(0);
}

template <typename T>
static __device__ __forceinline__ void put_swiglu(const PlainWork<T> &w, int64_t at, float gate,
                                                  float up) {
    ((T *)w.y)[at] = from_float<T>(gate / (1 + expf(-gate)) * up);
    if (!w.g) return;
    w.g[at] = from_float<T>(gate);
    w.u[at] = from_float<T>(up);
}

template <Product P, typename T>
static __device__ __forceinline__ void store_sums(const PlainWork<T> &w, const PlainTile &tile,
                                                  const float (&sum)[8][8]) {
    int t = thread_now(), tx = t % 16, ty = t / 16;
    int width = P == INPUT || P == WEIGHT ? w.in : w.out;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int r = i / 4 * 64 + 4 * ty + i % 4;
        if (P == WEIGHT ? tile.m + r >= w.out : tile.row + r >= tile.end) continue;
        int64_t row = P == WEIGHT ? (int64_t)tile.expert * w.out + tile.m + r : tile.row + r;
#pragma unroll
        for (int j = 0; j < (P == SWIGLU ? 4 : 8); j++) {
            int col = tile.n + j / 4 * 64 + 4 * tx + j % 4;
            int64_t at = row * width + col;
            if (col >= width) continue;
            if (P == SWIGLU)
                put_swiglu(w, at, sum[i][j], sum[i][(j + 4) % 8]);
            else if (P == WEIGHT)
                ((float *)w.y)[at] = sum[i][j] + (w.add ? ((float *)w.y)[at] : 0);
            else {
                T *to = (T *)w.y + at;
                *to = from_float<T>(sum[i][j] + (w.add ? to_float(*to) : 0));
            }
        }
    }
}

template <Product P, typename T>
static __device__ void work_tile(const PlainWork<T> &w, const PlainTile &tile) {
    constexpr bool A_INNER = P != WEIGHT, B_INNER = P == FORWARD || P == SWIGLU;
    __shared__ __align__(16) float tile_a[2][DEPTH][PITCH], tile_b[2][DEPTH][PITCH];
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16, half = 0;
    T next_a[4], next_b[4];
    float sum[8][8] = {};
    auto fetch_both = [&](int p0) {
        fetch<A_INNER>(next_a, [&](int m, int p) { return a_at<P>(w, tile, m, p0 + p); });
        fetch<B_INNER>(next_b, [&](int n, int p) { return b_at<P>(w, tile, n, p0 + p); });
    };
    fetch_both(0);
    __syncthreads(); /* the tile before is read */
    put<A_INNER>(tile_a[0], next_a);
    put<B_INNER>(tile_b[0], next_b);
    __syncthreads();
    for (int p0 = 0; p0 < tile.depth; p0 += DEPTH, half ^= 1) {
        fetch_both(p0 + DEPTH); /* past the end it brings zeros */
#pragma unroll
        for (int p = 0; p < DEPTH; p++) {
            float4 a0 = *(float4 *)&tile_a[half][p][4 * ty];
            float4 a1 = *(float4 *)&tile_a[half][p][64 + 4 * ty];
            float4 b0 = *(float4 *)&tile_b[half][p][4 * tx];
            float4 b1 = *(float4 *)&tile_b[half][p][64 + 4 * tx];
            float x[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
            float y[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int j = 0; j < 8; j++) sum[i][j] += x[i] * y[j];
        }
        put<A_INNER>(tile_a[half ^ 1], next_a);
        put<B_INNER>(tile_b[half ^ 1], next_b);
        __syncthreads();
    }
    store_sums<P>(w, tile, sum);
}

template <Product P, typename T>
__global__ void __launch_bounds__(THREADS, 2) grouped_plain_kernel(const PlainWork<T> w) {
    extern __shared__ int first[];
    int down = (w.out + TILE - 1) / TILE, total; /* down: WEIGHT */
    if (P == WEIGHT)
        total = w.experts * down * w.columns;
    else {
        tile_table<TILE>(first, w.offsets, w.experts);
        total = first[w.experts] * w.columns;
    }
    for (int i = blockIdx.x; i < total; i += gridDim.x) {
        PlainTile tile;
        if (P == WEIGHT) {
            int inside = i % (down * w.columns);
            tile.expert = i / (down * w.columns);
            tile.m = inside % down * TILE;
            tile.n = inside / down * TILE;
            tile.row = w.offsets[tile.expert];
            tile.end = w.offsets[tile.expert + 1];
            tile.depth = tile.end - tile.row;
            if (!tile.depth && w.add) continue;
        } else {
            TilePlace place = tile_place(first, w.experts, w.columns, i, 0);
            tile.expert = place.expert;
            tile.m = 0;
            tile.n = place.column * (P == SWIGLU ? TILE / 2 : TILE);
            tile.row = w.offsets[tile.expert] + place.row_tile * TILE;
            tile.end = w.offsets[tile.expert + 1];
            tile.depth = P == INPUT ? w.out : w.in;
        }
        work_tile<P>(w, tile);
    }
    if (P == INPUT && !w.add) { /* dx of tokens that no expert has */
        int64_t i = w.offsets[w.experts] * (int64_t)w.in + blockIdx.x * THREADS + threadIdx.x;
        for (; i < w.rows * w.in; i += gridDim.x * THREADS) ((T *)w.y)[i] = from_float<T>(0);
    }
}

/* The operands of a launch, whatever the dtype. */
struct PlainOperands {
    const void *a, *b, *b2;
    void *y, *g, *u;
    int add;
};

template <Product P>
static void launch(Gpu *gpu, DType dtype, PlainOperands o, const int32_t *offsets,
                   GroupedShape shape) {
    if (!shape.experts || (!shape.rows && P != WEIGHT)) return;
    int64_t across = P == INPUT || P == WEIGHT ? shape.in : shape.out;
    int columns = (int)ceil_div(across, P == SWIGLU ? TILE / 2 : TILE), blocks = 2 * gpu->sm_count;
    int table = P == WEIGHT ? 0 : (shape.experts + 1) * (int)sizeof(int);
    DTYPE_SWITCH(dtype, T,
                 PlainWork<T> work = {(const T *)o.a, (const T *)o.b, (const T *)o.b2, o.y,
                                      (T *)o.g, (T *)o.u, offsets, shape.rows, (int)shape.in,
                                      (int)shape.out, shape.experts, columns, o.add};
                 gpu_launch(gpu, grouped_plain_kernel<P, T>, blocks, THREADS, table, work));
}

void grouped_forward_plain_cuda(Gpu *gpu, DType dtype, void *y, const void *x, const void *w,
                                const int32_t *offsets, GroupedShape shape) {
    launch<FORWARD>(gpu, dtype, {x, w, NULL, y, NULL, NULL, 0}, offsets, shape);
}

void grouped_swiglu_forward_plain_cuda(Gpu *gpu, DType dtype, void *h, void *g, void *u,
                                       const void *x, const void *gate, const void *up,
                                       const int32_t *offsets, GroupedShape shape) {
    launch<SWIGLU>(gpu, dtype, {x, gate, up, h, g, u, 0}, offsets, shape);
}

void grouped_backward_input_plain_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dy,
                                       const void *w, const int32_t *offsets, GroupedShape shape) {
    launch<INPUT>(gpu, dtype, {dy, w, NULL, dx, NULL, NULL, add}, offsets, shape);
}

void grouped_backward_weight_plain_cuda(Gpu *gpu, DType dtype, float *dw, int add, const void *dy,
                                        const void *x, const int32_t *offsets, GroupedShape shape) {
    launch<WEIGHT>(gpu, dtype, {dy, x, NULL, dw, NULL, NULL, add}, offsets, shape);
}

/* ---- in use: the fastest rung that takes this dtype, these sizes and this GPU ---- */

#define CHOOSE(product, ...)                                \
    do {                                                    \
        if (grouped_hopper_available(gpu, dtype, shape))    \
            product##_hopper_cuda(gpu, dtype, __VA_ARGS__); \
        else if (grouped_mma_available(gpu, dtype, shape))  \
            product##_mma_cuda(gpu, dtype, __VA_ARGS__);    \
        else                                                \
            product##_plain_cuda(gpu, dtype, __VA_ARGS__);  \
    } while (0)

void grouped_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *x, const void *w,
                          const int32_t *offsets, GroupedShape shape) {
    CHOOSE(grouped_forward, y, x, w, offsets, shape);
}

void grouped_backward_input_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dy,
                                 const void *w, const int32_t *offsets, GroupedShape shape) {
    CHOOSE(grouped_backward_input, dx, add, dy, w, offsets, shape);
}

/* Hopper's kernel sums both products in its registers; elsewhere the second is added in memory. */
void grouped_swiglu_backward_input_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dg,
                                        const void *gate, const void *du, const void *up,
                                        const int32_t *offsets, GroupedShape shape) {
    if (grouped_hopper_available(gpu, dtype, shape)) {
        grouped_swiglu_backward_input_hopper_cuda(gpu, dtype, dx, add, dg, gate, du, up, offsets,
                                                  shape);
        return;
    }
    grouped_backward_input_cuda(gpu, dtype, dx, add, dg, gate, offsets, shape);
    grouped_backward_input_cuda(gpu, dtype, dx, 1, du, up, offsets, shape);
}

void grouped_backward_weight_cuda(Gpu *gpu, DType dtype, float *dw, int add, const void *dy,
                                  const void *x, const int32_t *offsets, GroupedShape shape) {
    CHOOSE(grouped_backward_weight, dw, add, dy, x, offsets, shape);
}

void grouped_swiglu_forward_cuda(Gpu *gpu, DType dtype, void *h, void *g, void *u, const void *x,
                                 const void *gate, const void *up, const int32_t *offsets,
                                 GroupedShape shape) {
    CHOOSE(grouped_swiglu_forward, h, g, u, x, gate, up, offsets, shape);
}
