/*
 * Quantised weights on the GPU: the plain rung of their products, and their numbers.
 *
 * plain: a warp takes a number of y. Its lanes look at neighbouring columns, make a number of each
 * code where it is, and add up in F32. All codes are read again for every row of x, most of them
 * from the L2 cache; each is turned into a number for every row, too. What limits it is arithmetic:
 * some ten instructions a code, against two operations that count.
 *
 * numbers: a thread takes eight columns of a row. One is plain; the other has the conversion of the
 * products with few rows: a byte or half of one is read and two are written for each number, and
 * memory limits it.
 */
#include "08_quant/quantised_gpu.h"
#include "common/cuda/few_rows_codes.cuh"

#include <cuda_fp8.h>

enum { WARPS = 8, THREADS = 32 * WARPS };

/* Number j of row i of matrix e, as F32 has it. */
static __device__ __forceinline__ float number(const QuantisedCodes &w, int64_t e, int64_t i,
                                               int64_t j) {
    int64_t row = e * w.out + i;
    float scale = w.scale[(e * w.scale_rows + i / w.block_out) * w.scales + j / w.block_in];
    if (w.dtype == I4) {
        int64_t half = w.block_in / 2, in_group = j % w.block_in;
        int byte = ((const uint8_t *)w.codes)[(row * w.in + j - in_group) / 2 + in_group % half];
        return scale * (float)((in_group < half ? byte & 15 : byte >> 4) - 8);
    }
    uint8_t code = ((const uint8_t *)w.codes)[row * w.in + j];
    if (w.dtype == U8) return scale * (float)(code - 128);
    __half_raw h = __nv_cvt_fp8_to_halfraw(code, __NV_E4M3);
    return scale * __half2float(*(__half *)&h);
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    plain_kernel(const __grid_constant__ QuantisedPlain p, int64_t count) {
    const QuantisedCodes &w = p.w;
    int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (at >= count) return;
    int64_t n = at / w.out, o = at % w.out;
    int e = 0;
    if (p.offsets) {
        while (e < p.experts && n >= p.offsets[e + 1]) e++;
        if (e == p.experts) return; /* a row that belongs to nobody */
    }
    const T *x = (const T *)p.x + n * w.in;
    float sum = 0;
    for (int64_t j = threadIdx.x % 32; j < w.in; j += 32)
        sum += to_float(x[j]) * number(w, e, o, j);
    sum = warp_sum(sum);
    if (threadIdx.x % 32) return;
    if (p.bias) sum += to_float(((const T *)p.bias)[o]);
    if (p.base) sum += to_float(((const T *)p.base)[at]);
    ((T *)p.y)[at] = from_float<T>(sum);
}

void quantised_plain_cuda(Gpu *gpu, DType dtype, const QuantisedPlain *p) {
    int64_t count = p->rows * p->w.out;
    if (count == 0) return;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, plain_kernel<T>, ceil_div(count, WARPS), THREADS, 0, *p, count));
}

template <typename T>
__global__ void __launch_bounds__(THREADS)
    numbers_kernel(T *to, const __grid_constant__ QuantisedCodes w, int64_t first, int64_t packs) {
    int64_t each = (w.in + 7) / 8; /* packs of a row */
    for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < packs;
         i += (int64_t)gridDim.x * THREADS) {
        int64_t row = first + i / each, j = i % each * 8, end = min(j + 8, w.in);
        T *at = to + (row - first) * w.in;
        for (; j < end; j++) at[j] = from_float<T>(number(w, row / w.out, row % w.out, j));
    }
}

void quantised_numbers_cuda(Gpu *gpu, DType dtype, void *to, const QuantisedCodes *w, int64_t first,
                            int64_t count) {
    int64_t packs = count * ((w->in + 7) / 8);
    if (packs == 0) return;
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, numbers_kernel<T>, gpu_blocks(gpu, THREADS, packs), THREADS, 0, to,
                            *w, first, packs));
}

template <DType F>
__global__ void __launch_bounds__(THREADS)
    numbers_fast_kernel(bf16 *to, const __grid_constant__ FewRowsWeight w, int64_t first) {
    int64_t row = first + blockIdx.x, matrix = row / w.out, in_matrix = row - matrix * w.out;
    bf16 *at = to + (int64_t)blockIdx.x * w.in;
    for (int j = threadIdx.x * 8; j < w.in; j += THREADS * 8)
        *(uint4 *)(at + j) = few_rows_eight<F>(w, matrix, in_matrix, j);
}

void quantised_numbers_fast_cuda(Gpu *gpu, void *to, const FewRowsWeight *w, int64_t first,
                                 int64_t count) {
    if (count == 0) return;
    auto kernel = w->dtype == I4   ? numbers_fast_kernel<I4>
                  : w->dtype == U8 ? numbers_fast_kernel<U8>
                                   : numbers_fast_kernel<F8_E4M3>;
    gpu_launch(gpu, kernel, count, THREADS, 0, to, *w, first);
}
