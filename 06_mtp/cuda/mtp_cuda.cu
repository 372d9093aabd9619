/*
 * The shift of ids and targets on the GPU: a few numbers, so the launch is what it costs.
 */
#include "06_mtp/mtp.h"
#include "common/core/ops.h"
#include "common/cuda/gpu.cuh"

static __global__ void shift(int32_t *ids_k, int32_t *targets_k, const int32_t *ids,
                             const int32_t *targets, int64_t count, int64_t tokens, int k,
                             int32_t end) {
    int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= count) return;
    int64_t window_end = (at / tokens + 1) * tokens;
    bool there = at + k < window_end;
    ids_k[at] = ids[there ? at + k : window_end - 1];
    for (int j = 1; there && j <= k; j++) there = ids[at + j] != end;
    targets_k[at] = there ? targets[at + k] : IGNORE_TARGET;
}

extern "C" void mtp_shift_cuda(Gpu *gpu, DType dtype, int32_t *ids_k, int32_t *targets_k,
                               const int32_t *ids, const int32_t *targets, int64_t batch,
                               int64_t tokens, int k, int32_t end) {
    (void)dtype; /* ids are I32 whatever the activations are */
    gpu_launch(gpu, shift, ceil_div(batch * tokens, 256), 256, 0, ids_k, targets_k, ids, targets,
               batch * tokens, tokens, k, end);
}
