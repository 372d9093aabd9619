/*
 * Solution 04.10. Threads i, i + 1, ... write k[i], k[i + 1], ...; within a head their reads are
 * neighbours, too. The tempting wrong answer gives each thread a whole head: 32 lanes then write 32
 * places that are 192 numbers apart, and seven eighths of each sector are written for nothing.
 */
#include "04_mla/mla.h"
#include "common/cuda/gpu.cuh"

template <typename T>
__global__ void keys(T *k, const T *kv, const T *k_rope, int64_t rows, MlaShape s) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, width = s.nope + s.rope;
    if (i >= rows * s.heads * width) return;
    int64_t column = i % width, head = i / width; /* head of all rows' heads */
    k[i] = column < s.nope ? kv[head * (s.nope + s.v) + column]
                           : k_rope[head / s.heads * s.rope + column - s.nope];
}

extern "C" void mla_keys_cuda(Gpu *gpu, DType dtype, void *k, const void *kv, const void *k_rope,
                              int64_t rows, MlaShape s) {
    int64_t count = rows * s.heads * (s.nope + s.rope);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, keys<T>, ceil_div(count, 256), 256, 0, k, kv, k_rope, rows, s));
}
