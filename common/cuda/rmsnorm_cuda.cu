/*
 * RMSNorm on the GPU: forward and backward, each in one pass over its tensors.
 *
 * A team of threads has a row: a warp, or a whole block where rows are long. It loads the row once,
 * 16 bytes a thread and time, keeps it in registers while the team agrees on the row's sum, and
 * writes the result. Nothing is read twice, so the bytes that must move are those that do.
 *
 *     forward     y_j  = x_j r w_j                        r = 1 / sqrt(mean(x^2) + eps)
 *     backward    dx_j = r (w_j dy_j - x_j r^2 mean_k(w_k dy_k x_k))
 *                 dw_j = sum over rows of dy_j x_j r
 *
 * The gradient of w is a sum over all rows, which other teams have. Every thread sums its columns
 * over the rows of its team in registers; a block adds its teams up and leaves one row of partial
 * sums, and a second kernel adds those. The order is fixed: no atomics, the same bits every time.
 *
 * Rows that are no whole number of 16-byte pieces, or longer than a block's registers, take the
 * plain kernels at the end, element by element.
 */
#include "common/core/ops_kernels.h"
#include "common/cuda/gpu.cuh"

static const int THREADS = 256;

/* The sum over a team; each of its threads gets it. */
template <int TEAM> static __device__ float team_sum(float x) {
    x = warp_sum(x);
    if (TEAM == 32) return x;
    __shared__ float partial[THREADS / 32];
    __syncthreads(); /* the row before may still be reading */
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0;
    for (int i = 0; i < THREADS / 32; i++) total += partial[i];
    return total;
}

template <typename T, int TEAM, int PACKS>
static __global__ void __launch_bounds__(THREADS)
    forward_packs(T *y, float *rstd, const T *x, const T *w, int64_t rows, int d, float eps) {
    const int W = Pack<T>::SIZE, TEAMS = THREADS / TEAM;
    int64_t row = blockIdx.x * (int64_t)TEAMS + threadIdx.x / TEAM;
    if (row >= rows) return; /* a whole team leaves */
    int lane = threadIdx.x % TEAM;
    Pack<T> px[PACKS], pw[PACKS];
    float squares = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int j = (p * TEAM + lane) * W;
        if (j >= d) continue;
        px[p] = *(const Pack<T> *)(x + row * d + j);
        pw[p] = *(const Pack<T> *)(w + j);
    }
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if ((p * TEAM + lane) * W < d)
#pragma unroll
            for (int k = 0; k < W; k++) squares += to_float(px[p].v[k]) * to_float(px[p].v[k]);
    float r = rsqrtf(team_sum<TEAM>(squares) / (float)d + eps);
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        int j = (p * TEAM + lane) * W;
        if (j >= d) continue;
#pragma unroll
        for (int k = 0; k < W; k++)
            px[p].v[k] = from_float<T>(to_float(px[p].v[k]) * r * to_float(pw[p].v[k]));
        *(Pack<T> *)(y + row * d + j) = px[p];
    }
    if (lane == 0) rstd[row] = r;
}

/*
 * The teams walk over the rows in strides of the grid. dx and scratch may be NULL. scratch
 * [gridDim.x, d] gets each block's part of dw; the teams' parts meet in shared memory, [TEAMS, d].
 */
template <typename T, int TEAM, int PACKS>
static __global__ void __launch_bounds__(THREADS)
    backward_packs(T *dx, int add, float *scratch, const T *dy, const T *x, const T *w,
                   const float *rstd, int64_t rows, int d) {
    const int W = Pack<T>::SIZE, TEAMS = THREADS / TEAM;
    int team = threadIdx.x / TEAM, lane = threadIdx.x % TEAM;
    Pack<T> pw[PACKS];
    float dw[PACKS * W] = {0};
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if ((p * TEAM + lane) * W < d) pw[p] = *(const Pack<T> *)(w + (p * TEAM + lane) * W);

    for (int64_t row = blockIdx.x * (int64_t)TEAMS + team; row < rows;
         row += gridDim.x * (int64_t)TEAMS) {
        Pack<T> px[PACKS], py[PACKS], po[PACKS];
        float r = rstd[row], dot = 0;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int j = (p * TEAM + lane) * W;
            if (j >= d) continue;
            px[p] = *(const Pack<T> *)(x + row * d + j);
            py[p] = *(const Pack<T> *)(dy + row * d + j);
            if (dx && add) po[p] = *(const Pack<T> *)(dx + row * d + j);
        }
#pragma unroll
        for (int p = 0; p < PACKS; p++)
            if ((p * TEAM + lane) * W < d)
#pragma unroll
                for (int k = 0; k < W; k++) {
                    float product = to_float(py[p].v[k]) * to_float(px[p].v[k]);
                    dw[p * W + k] += product * r;
                    dot += product * to_float(pw[p].v[k]);
                }
        if (!dx) continue;
        float c = team_sum<TEAM>(dot) * r * r / (float)d;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int j = (p * TEAM + lane) * W;
            if (j >= d) continue;
#pragma unroll
            for (int k = 0; k < W; k++) {
                float g =
                    r * (to_float(pw[p].v[k]) * to_float(py[p].v[k]) - to_float(px[p].v[k]) * c);
                po[p].v[k] = from_float<T>(add ? to_float(po[p].v[k]) + g : g);
            }
            *(Pack<T> *)(dx + row * d + j) = po[p];
        }
    }
    if (!scratch) return;
    extern __shared__ float parts[]; /* [TEAMS, d] */
#pragma unroll
    for (int p = 0; p < PACKS; p++)
        if ((p * TEAM + lane) * W < d)
#pragma unroll
            for (int k = 0; k < W; k++) parts[team * d + (p * TEAM + lane) * W + k] = dw[p * W + k];
    __syncthreads();
    for (int j = threadIdx.x; j < d; j += THREADS) {
        float total = 0;
        for (int t = 0; t < TEAMS; t++) total += parts[t * d + j];
        scratch[blockIdx.x * (int64_t)d + j] = total;
    }
}

/* dw [d] = or += the sums of the columns of scratch [parts, d]: 32 columns a block, 32 rows at a
 * time. */
static __global__ void add_parts(float *dw, int add, const float *scratch, int parts, int64_t d) {
    __shared__ float sums[32][33];
    int64_t j = blockIdx.x * 32 + threadIdx.x;
    float total = 0;
    if (j < d)
        for (int i = threadIdx.y; i < parts; i += 32) total += scratch[i * d + j];
    sums[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    total = warp_sum(sums[threadIdx.x][threadIdx.y]); /* transposed: a warp has one column */
    j = blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x == 0 && j < d) dw[j] = add ? dw[j] + total : total;
}

/* ---- any length, element by element: a warp for each row ---- */

static const int ROWS_PER_BLOCK = THREADS / 32;

template <typename T>
static __global__ void forward_plain(T *y, float *rstd, const T *x, const T *w, int64_t rows,
                                     int64_t d, float eps) {
    int64_t row = blockIdx.x * (int64_t)ROWS_PER_BLOCK + threadIdx.x / 32;
    if (row >= rows) return;
    const T *xi = x + row * d;
    int lane = threadIdx.x % 32;
    float squares = 0;
    for (int64_t j = lane; j < d; j += 32) squares += to_float(xi[j]) * to_float(xi[j]);
    float r = rsqrtf(warp_sum(squares) / (float)d + eps);
    for (int64_t j = lane; j < d; j += 32)
        y[row * d + j] = from_float<T>(to_float(xi[j]) * r * to_float(w[j]));
    if (lane == 0) rstd[row] = r;
}

template <typename T>
static __global__ void backward_plain_x(T *dx, int add, const T *dy, const T *x, const T *w,
                                        const float *rstd, int64_t rows, int64_t d) {
    int64_t row = blockIdx.x * (int64_t)ROWS_PER_BLOCK + threadIdx.x / 32;
    if (row >= rows) return;
    const T *xi = x + row * d, *dyi = dy + row * d;
    T *dxi = dx + row * d;
    int lane = threadIdx.x % 32;
    float dot = 0, r = rstd[row];
    for (int64_t j = lane; j < d; j += 32)
        dot += to_float(w[j]) * to_float(dyi[j]) * to_float(xi[j]);
    float c = warp_sum(dot) * r * r / (float)d;
    for (int64_t j = lane; j < d; j += 32) {
        float g = r * (to_float(w[j]) * to_float(dyi[j]) - to_float(xi[j]) * c);
        dxi[j] = from_float<T>(add ? to_float(dxi[j]) + g : g);
    }
}

/* Block (columns, chunk): the sums of one chunk's rows. */
template <typename T>
static __global__ void backward_plain_w(float *scratch, const T *dy, const T *x, const float *rstd,
                                        int64_t rows, int64_t d) {
    int64_t j = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (j >= d) return;
    int64_t begin = blockIdx.y * rows / gridDim.y, end = (blockIdx.y + 1) * rows / gridDim.y;
    float total = 0;
    for (int64_t i = begin; i < end; i++)
        total += to_float(dy[i * d + j]) * to_float(x[i * d + j]) * rstd[i];
    scratch[blockIdx.y * d + j] = total;
}

/* ---- which of them ---- */

/*
 * PACKS_SWITCH(d, T, statement): runs it with the smallest TEAM and number of PACKS a thread that
 * hold a row of d, and is true; false if there are none.
 */
#define PACKS_SWITCH(d, T, ...)                                          \
    ((d) % Pack<T>::SIZE           ? false                               \
     : (d) <= 32 * Pack<T>::SIZE   ? WITH_PACKS(32, 1, __VA_ARGS__)      \
     : (d) <= 64 * Pack<T>::SIZE   ? WITH_PACKS(32, 2, __VA_ARGS__)      \
     : (d) <= 128 * Pack<T>::SIZE  ? WITH_PACKS(32, 4, __VA_ARGS__)      \
     : (d) <= 512 * Pack<T>::SIZE  ? WITH_PACKS(THREADS, 2, __VA_ARGS__) \
     : (d) <= 1024 * Pack<T>::SIZE ? WITH_PACKS(THREADS, 4, __VA_ARGS__) \
                                   : false)
/* clang-format off */
#define WITH_PACKS(team, packs, ...) \
    ([&] { const int TEAM = team, PACKS = packs; __VA_ARGS__; }(), true)
/* clang-format on */

void rmsnorm_forward_cuda(Gpu *gpu, DType dtype, void *y, float *rstd, const void *x, const void *w,
                          int64_t rows, int64_t d, float eps) {
    if (rows == 0) return;
    DTYPE_SWITCH(dtype, T, {
        bool done = PACKS_SWITCH(d, T, {
            gpu_launch(gpu, forward_packs<T, TEAM, PACKS>, ceil_div(rows, THREADS / TEAM), THREADS,
                       0, y, rstd, x, w, rows, (int)d, eps);
        });
        if (!done)
            gpu_launch(gpu, forward_plain<T>, ceil_div(rows, ROWS_PER_BLOCK), THREADS, 0, y, rstd,
                       x, w, rows, d, eps);
    });
}

/* Returns how many rows of scratch it filled. */
template <typename T>
static int backward(Gpu *gpu, T *dx, int add_x, float *scratch, const T *dy, const T *x, const T *w,
                    const float *rstd, int64_t rows, int64_t d) {
    int64_t blocks = 0;
    bool done = PACKS_SWITCH(d, T, {
        const int TEAMS = THREADS / TEAM;
        blocks = ceil_div(rows, TEAMS) < RMSNORM_BLOCKS ? ceil_div(rows, TEAMS) : RMSNORM_BLOCKS;
        size_t shared = scratch ? TEAMS * (size_t)d * sizeof(float) : 0;
        gpu_launch(gpu, backward_packs<T, TEAM, PACKS>, blocks, THREADS, shared, dx, add_x, scratch,
                   dy, x, w, rstd, rows, (int)d);
    });
    if (done) return (int)blocks;
    if (dx)
        gpu_launch(gpu, backward_plain_x<T>, ceil_div(rows, ROWS_PER_BLOCK), THREADS, 0, dx, add_x,
                   dy, x, w, rstd, rows, d);
    if (!scratch) return 0;
    const int CHUNKS = 64;
    dim3 grid((unsigned)ceil_div(d, 64), CHUNKS);
    gpu_launch(gpu, backward_plain_w<T>, grid, 64, 0, scratch, dy, x, rstd, rows, d);
    return CHUNKS;
}

void rmsnorm_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw, int add_w,
                           float *scratch, const void *dy, const void *x, const void *w,
                           const float *rstd, int64_t rows, int64_t d) {
    int parts = 0;
    if (rows && (dx || dw))
        DTYPE_SWITCH(dtype, T,
                     parts = backward<T>(gpu, (T *)dx, add_x, dw ? scratch : NULL, (const T *)dy,
                                         (const T *)x, (const T *)w, rstd, rows, d));
    if (!dw) return;
    gpu_launch(gpu, add_parts, ceil_div(d, 32), dim3(32, 32), 0, dw, add_w, scratch, parts, d);
}
