/*
 * The common operations on the GPU, in F32 or BF16; sums are always F32.
 *
 * All but linear() move more bytes than they compute: the rule is to read every element once, 16
 * bytes a thread where the layout allows, and to fuse what belongs together. No kernel uses
 * floating-point atomics, so results do not vary from run to run.
 */
#include "common/core/ops_kernels.h"
#include "common/core/rng.h"
#include "common/cuda/few_rows.h"
#include "common/cuda/gpu_matmul.cuh"

static const int THREADS = 256;

/* ---- linear ---- */

/* y = x W^T + bias + base; bias and base may be NULL. Few rows have a kernel of their own. */
static void linear_product(Gpu *gpu, DType dtype, void *y, const void *base, const void *x,
                           const void *w, const void *bias, int64_t rows, int64_t in, int64_t out) {
    FewRowsLinear few = {};
    few.x = x, few.rows = rows, few.in = in;
    few.part[0] = {y, few_rows_numbers(w, dtype, out, in), bias, base};
    if (few_rows_supports(gpu, dtype, &few)) return few_rows_linear_cuda(gpu, dtype, &few);
    GpuMatmul product = gpu_product(dtype, dtype, false, true, rows, out, in);
    product.beta = base ? 1 : 0, product.bias = bias != NULL;
    gpu_matmul_onto(gpu, &product, y, base ? base : y, x, w, bias);
}

void linear_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *x, const void *w,
                         const void *bias, int64_t rows, int64_t in, int64_t out) {
    linear_product(gpu, dtype, y, NULL, x, w, bias, rows, in, out);
}

void linear_onto_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *base, const void *x,
                              const void *w, const void *bias, int64_t rows, int64_t in,
                              int64_t out) {
    linear_product(gpu, dtype, y, base, x, w, bias, rows, in, out);
}

/* One thread a column; the warp reads a row's 32 neighbours at once. */
template <typename T>
__global__ void column_sums(float *sum, int add, const T *x, int64_t rows, int64_t columns) {
    int64_t j = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (j >= columns) return;
    float total = 0;
    for (int64_t i = 0; i < rows; i++) total += to_float(x[i * columns + j]);
    sum[j] = add ? sum[j] + total : total;
}

void linear_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, float *dw, int add_w,
                          float *dbias, int add_bias, const void *dy, const void *x, const void *w,
                          int64_t rows, int64_t in, int64_t out) {
    if (dx) {
        GpuMatmul product = gpu_product(dtype, dtype, false, false, rows, in, out);
        product.beta = (float)add_x;
        gpu_matmul(gpu, &product, dx, dy, w, NULL);
    }
    if (dw) {
        GpuMatmul product = gpu_product(dtype, F32, true, false, out, in, rows);
        product.beta = (float)add_w;
        gpu_matmul(gpu, &product, dw, dy, x, NULL);
    }
    if (dbias)
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, column_sums<T>, ceil_div(out, 64), 64, 0, dbias, add_bias, dy,
                                rows, out));
}

/* ---- element by element ---- */

struct AddOp {
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct CopyOp {
    __device__ float operator()(float a, float) const { return a; }
};
struct SiluOp {
    __device__ float operator()(float x, float) const { return x / (1.0f + __expf(-x)); }
};
struct SwigluOp {
    __device__ float operator()(float gate, float up) const {
        return gate / (1.0f + __expf(-gate)) * up;
    }
};

/* y = op(a, b), or y += op(a, b). b may be a again when op ignores it. */
template <typename T, typename Op>
__global__ void elementwise(T *y, int add, const T *a, const T *b, int64_t n, Op op) {
    const int W = Pack<T>::SIZE;
    int64_t thread = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = thread * W; i + W <= n; i += stride * W) {
        Pack<T> pa = *(const Pack<T> *)(a + i), pb = *(const Pack<T> *)(b + i), py;
        if (add) py = *(Pack<T> *)(y + i);
#pragma unroll
        for (int k = 0; k < W; k++) {
            float r = op(to_float(pa.v[k]), to_float(pb.v[k]));
            py.v[k] = from_float<T>(add ? to_float(py.v[k]) + r : r);
        }
        *(Pack<T> *)(y + i) = py;
    }
    int64_t i = n / W * W + thread; /* the ragged end */
    if (i < n) {
        float r = op(to_float(a[i]), to_float(b[i]));
        y[i] = from_float<T>(add ? to_float(y[i]) + r : r);
    }
}

template <typename T, typename Op>
static void launch_elementwise(Gpu *gpu, void *y, int add, const void *a, const void *b, int64_t n,
                               Op op) {
    unsigned blocks = gpu_blocks(gpu, THREADS, ceil_div(n, Pack<T>::SIZE));
    gpu_launch(gpu, elementwise<T, Op>, blocks, THREADS, 0, y, add, a, b, n, op);
}

void add_cuda(Gpu *gpu, DType dtype, void *y, const void *a, const void *b, int64_t n) {
    DTYPE_SWITCH(dtype, T, launch_elementwise<T>(gpu, y, 0, a, b, n, AddOp()));
}

void accumulate_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t n, int add) {
    DTYPE_SWITCH(dtype, T, launch_elementwise<T>(gpu, y, add, x, x, n, CopyOp()));
}

void silu_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t n) {
    DTYPE_SWITCH(dtype, T, launch_elementwise<T>(gpu, y, 0, x, x, n, SiluOp()));
}

/*
 * slice: W elements of one row at a time, W = a whole Pack when every row and the first column
 * begin at a multiple of it, else 1. Backward visits all of dx when it overwrites, to clear what is
 * outside.
 */
template <typename T, int W>
__global__ void slice_forward(T *y, const T *x, int64_t rows, int64_t width, int64_t from,
                              int64_t count) {
    int64_t stride = (int64_t)gridDim.x * blockDim.x, pieces = count / W;
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    for (; i < rows * pieces; i += stride) {
        int64_t row = i / pieces, column = i % pieces * W;
        *(Pack<T, W> *)(y + row * count + column) =
            *(const Pack<T, W> *)(x + row * width + from + column);
    }
}

template <typename T, int W>
__global__ void slice_backward(T *dx, int add, const T *dy, int64_t rows, int64_t width,
                               int64_t from, int64_t count) {
    int64_t first = add ? from : 0, pieces = (add ? count : width) / W;
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    for (; i < rows * pieces; i += stride) {
        int64_t row = i / pieces, column = first + i % pieces * W;
        bool inside = column >= from && column < from + count;
        Pack<T, W> *to = (Pack<T, W> *)(dx + row * width + column), piece;
        if (add) piece = *to;
#pragma unroll
        for (int k = 0; k < W; k++) {
            float g = inside ? to_float(dy[row * count + column - from + k]) : 0.0f;
            piece.v[k] = from_float<T>(add ? to_float(piece.v[k]) + g : g);
        }
        *to = piece;
    }
}

/* How many elements at a time. */
template <typename T> static int slice_width(int64_t width, int64_t from, int64_t count) {
    return (width | from | count) % Pack<T>::SIZE ? 1 : Pack<T>::SIZE;
}

void slice_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *x, int64_t rows, int64_t width,
                        int64_t from, int64_t count) {
    DTYPE_SWITCH(dtype, T, {
        int w = slice_width<T>(width, from, count);
        auto kernel = w == 1 ? slice_forward<T, 1> : slice_forward<T, Pack<T>::SIZE>;
        gpu_launch(gpu, kernel, gpu_blocks(gpu, THREADS, rows * count / w), THREADS, 0, y, x, rows,
                   width, from, count);
    });
}

void slice_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dy, int64_t rows,
                         int64_t width, int64_t from, int64_t count) {
    DTYPE_SWITCH(dtype, T, {
        int w = slice_width<T>(width, from, count);
        auto kernel = w == 1 ? slice_backward<T, 1> : slice_backward<T, Pack<T>::SIZE>;
        gpu_launch(gpu, kernel, gpu_blocks(gpu, THREADS, rows * width / w), THREADS, 0, dx, add, dy,
                   rows, width, from, count);
    });
}

/*
 * concat: a thread moves W elements at a time. Backward, where a or b may not want its gradient,
 * visits all of dy all the same: who concatenates nearly always wants both.
 */
template <typename T, int W>
__global__ void concat_forward(T *y, const T *a, const T *b, int64_t rows, int64_t wa, int64_t wb) {
    int64_t stride = (int64_t)gridDim.x * blockDim.x, pieces = (wa + wb) / W;
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    for (; i < rows * pieces; i += stride) {
        int64_t row = i / pieces, column = i % pieces * W;
        const T *from = column < wa ? a + row * wa + column : b + row * wb + column - wa;
        *(Pack<T, W> *)(y + i * W) = *(const Pack<T, W> *)from;
    }
}

template <typename T, int W>
__global__ void concat_backward(T *da, int add_a, T *db, int add_b, const T *dy, int64_t rows,
                                int64_t wa, int64_t wb) {
    int64_t stride = (int64_t)gridDim.x * blockDim.x, pieces = (wa + wb) / W;
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    for (; i < rows * pieces; i += stride) {
        int64_t row = i / pieces, column = i % pieces * W;
        bool first = column < wa;
        T *to = first ? da : db;
        if (!to) continue;
        to += first ? row * wa + column : row * wb + column - wa;
        Pack<T, W> piece = *(const Pack<T, W> *)(dy + i * W);
        if (first ? add_a : add_b) {
            Pack<T, W> old = *(Pack<T, W> *)to;
#pragma unroll
            for (int k = 0; k < W; k++)
                piece.v[k] = from_float<T>(to_float(old.v[k]) + to_float(piece.v[k]));
        }
        *(Pack<T, W> *)to = piece;
    }
}

void concat_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *a, const void *b, int64_t rows,
                         int64_t wa, int64_t wb) {
    DTYPE_SWITCH(dtype, T, {
        int w = slice_width<T>(wa, wb, 0);
        auto kernel = w == 1 ? concat_forward<T, 1> : concat_forward<T, Pack<T>::SIZE>;
        gpu_launch(gpu, kernel, gpu_blocks(gpu, THREADS, rows * (wa + wb) / w), THREADS, 0, y, a, b,
                   rows, wa, wb);
    });
}

void concat_backward_cuda(Gpu *gpu, DType dtype, void *da, int add_a, void *db, int add_b,
                          const void *dy, int64_t rows, int64_t wa, int64_t wb) {
    DTYPE_SWITCH(dtype, T, {
        int w = slice_width<T>(wa, wb, 0);
        auto kernel = w == 1 ? concat_backward<T, 1> : concat_backward<T, Pack<T>::SIZE>;
        gpu_launch(gpu, kernel, gpu_blocks(gpu, THREADS, rows * (wa + wb) / w), THREADS, 0, da,
                   add_a, db, add_b, dy, rows, wa, wb);
    });
}

/* dy silu'(x), with silu'(x) = s (1 + x (1 - s)) and s = sigmoid(x) */
struct SiluBackwardOp {
    __device__ float operator()(float dy, float x) const {
        float s = 1.0f / (1.0f + __expf(-x));
        return dy * s * (1.0f + x * (1.0f - s));
    }
};

void silu_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add_x, const void *dy, const void *x,
                        int64_t n) {
    DTYPE_SWITCH(dtype, T, launch_elementwise<T>(gpu, dx, add_x, dy, x, n, SiluBackwardOp()));
}

void swiglu_forward_cuda(Gpu *gpu, DType dtype, void *y, const void *gate, const void *up,
                         int64_t n) {
    DTYPE_SWITCH(dtype, T, launch_elementwise<T>(gpu, y, 0, gate, up, n, SwigluOp()));
}

/* dgate = dy up silu'(gate), dup = dy silu(gate): three reads, two writes, one pass. */
template <typename T>
__global__ void swiglu_backward(T *dgate, int add_gate, T *dup, int add_up, const T *dy,
                                const T *gate, const T *up, int64_t n) {
    const int W = Pack<T>::SIZE;
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t p = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; p * W < n; p += stride) {
        int64_t i = p * W;
        bool whole = i + W <= n;
        Pack<T> py, pg, pu, og, ou;
        if (whole) {
            py = *(const Pack<T> *)(dy + i);
            pg = *(const Pack<T> *)(gate + i);
            pu = *(const Pack<T> *)(up + i);
            if (dgate && add_gate) og = *(Pack<T> *)(dgate + i);
            if (dup && add_up) ou = *(Pack<T> *)(dup + i);
        }
#pragma unroll
        for (int k = 0; k < W; k++) {
            if (!whole && i + k >= n) break;
            float d = to_float(whole ? py.v[k] : dy[i + k]);
            float g = to_float(whole ? pg.v[k] : gate[i + k]);
            float u = to_float(whole ? pu.v[k] : up[i + k]);
            float s = 1.0f / (1.0f + __expf(-g));
            float rg = d * u * s * (1.0f + g * (1.0f - s)), ru = d * g * s;
            if (dgate && add_gate) rg += to_float(whole ? og.v[k] : dgate[i + k]);
            if (dup && add_up) ru += to_float(whole ? ou.v[k] : dup[i + k]);
            og.v[k] = from_float<T>(rg);
            ou.v[k] = from_float<T>(ru);
            if (!whole && dgate) dgate[i + k] = og.v[k];
            if (!whole && dup) dup[i + k] = ou.v[k];
        }
        if (whole && dgate) *(Pack<T> *)(dgate + i) = og;
        if (whole && dup) *(Pack<T> *)(dup + i) = ou;
    }
}

void swiglu_backward_cuda(Gpu *gpu, DType dtype, void *dgate, int add_gate, void *dup, int add_up,
                          const void *dy, const void *gate, const void *up, int64_t n) {
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, swiglu_backward<T>,
                            gpu_blocks(gpu, THREADS, ceil_div(n, Pack<T>::SIZE)), THREADS, 0, dgate,
                            add_gate, dup, add_up, dy, gate, up, n));
}

template <typename T>
__global__ void dropout_kernel(T *y, int add, const T *x, int64_t n, DropoutMask m) {
    int64_t stride = (int64_t)gridDim.x * blockDim.x, blocks = (m.each + 3) / 4;
    for (int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; at < n / m.each * blocks;
         at += stride) {
        int64_t b = at / blocks, block = at % blocks;
        Philox r = philox(m.seed, m.stream, (m.sample + b) << 32 | block);
        for (int k = 0; k < 4 && 4 * block + k < m.each; k++) {
            int64_t i = b * m.each + 4 * block + k;
            bool dropped = (float)(r.word[k] >> 8) * 0x1p-24f < m.p;
            float kept = dropped ? 0.0f : to_float(x[i]) * (1.0f / (1.0f - m.p));
            y[i] = from_float<T>(add ? to_float(y[i]) + kept : kept);
        }
    }
}

void dropout_cuda(Gpu *gpu, DType dtype, void *y, int add, const void *x, int64_t n,
                  DropoutMask mask) {
    int64_t blocks = n / mask.each * ceil_div(mask.each, 4);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, dropout_kernel<T>, gpu_blocks(gpu, THREADS, blocks), THREADS, 0, y,
                            add, x, n, mask));
}
