/*
 * Positions on the GPU: a few numbers, so the launch is what it costs. The lengths are read where
 * they are; nothing comes from the host, and a captured graph counts on.
 */
#include "04_mla/position.h"
#include "common/cuda/gpu.cuh"

static __global__ void positions_kernel(int32_t *positions, const int32_t *first, int offset,
                                        int64_t count, int64_t tokens) {
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) positions[i] = (first ? first[i / tokens] : 0) + offset + (int32_t)(i % tokens);
}

void positions_fill_cuda(Gpu *gpu, DType dtype, int32_t *positions, const int32_t *first,
                         int offset, int64_t batch, int64_t tokens) {
    (void)dtype; /* positions are I32 whatever the activations are */
    if (batch * tokens == 0) return;
    gpu_launch(gpu, positions_kernel, ceil_div(batch * tokens, 256), 256, 0, positions, first,
               offset, batch * tokens, tokens);
}
