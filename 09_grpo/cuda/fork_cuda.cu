/*
 * Copying the rows of prompts on the GPU: a block for each row that is to be written. Rows lie
 * where the page tables say, so a row, not a page, is what is copied at once; of the two bytes
 * that a thread moves at a time the memory system makes whole lines.
 */
#include "09_grpo/rollout/fork.h"
#include "common/cuda/gpu.cuh"

static __global__ void copy_rows(char *to, const char *from, const int32_t *to_table,
                                 const int32_t *from_table, const int32_t *lengths, int64_t group,
                                 int64_t to_pages, int64_t from_pages, int64_t row_bytes) {
    int64_t t = blockIdx.x, b = blockIdx.y, p = b / group;
    if (t >= lengths[p]) return;
    const uint16_t *source =
        (const uint16_t *)(from + page_row(from_table + p * from_pages, t) * row_bytes);
    uint16_t *row = (uint16_t *)(to + page_row(to_table + b * to_pages, t) * row_bytes);
    for (int64_t i = threadIdx.x; i < row_bytes / 2; i += blockDim.x) row[i] = source[i];
}

extern "C" void cache_fork_cuda(Gpu *gpu, DType dtype, void *to, const void *from,
                                const int32_t *to_table, const int32_t *from_table,
                                const int32_t *lengths, int64_t batch, int64_t group,
                                int64_t longest, int64_t to_pages, int64_t from_pages,
                                int64_t row_bytes) {
    (void)dtype; /* bytes are copied, whatever they mean */
    CHECK(row_bytes % 2 == 0, "cache_fork: rows of %lld bytes", (long long)row_bytes);
    CHECK(batch <= 65535, "cache_fork: %lld sequences; a grid has 65535", (long long)batch);
    gpu_launch(gpu, copy_rows, dim3((unsigned)longest, (unsigned)batch), 256, 0, to, from, to_table,
               from_table, lengths, group, to_pages, from_pages, row_bytes);
}
