/*
 * Exercise 04.10: keys on the GPU.
 *
 * Exercise 3 for a GPU, forward only (it needs nvcc and a GPU, and is skipped without):
 *
 *     k[row, h] = [ k_nope[row, h] | k_rope[row] ]
 *
 * with k [rows, H, nope + rope], kv [rows, H, nope + v] = per head [k_nope | v], k_rope [rows,
 * rope], in F32 and in BF16. The launch below has a thread for each number of k. The kernel leaves
 * k as it was.
 *
 * Nothing is computed here, so only memory counts: let neighbouring threads write neighbouring
 * numbers. rope may be 0, and k_rope NULL then.
 *
 * POINTS: 3
 * REPLACES: mla_keys_cuda in 04_mla/cuda/mla_cuda.cu
 * TESTS: test_mla_kernels:mla_kernels/keys*_cuda*
 */
#include "04_mla/mla.h"
#include "common/cuda/gpu.cuh"

template <typename T>
__global__ void keys(T *k, const T *kv, const T *k_rope, int64_t rows, MlaShape s) {}

extern "C" void mla_keys_cuda(Gpu *gpu, DType dtype, void *k, const void *kv, const void *k_rope,
                              int64_t rows, MlaShape s) {
    int64_t count = rows * s.heads * (s.nope + s.rope);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, keys<T>, ceil_div(count, 256), 256, 0, k, kv, k_rope, rows, s));
}
