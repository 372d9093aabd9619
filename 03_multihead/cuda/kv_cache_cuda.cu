/*
 * Appending to the KV cache on the GPU.
 *
 * A pure copy of batch * tokens * width numbers, read and written once. For one token of each
 * sequence that is a few kilobytes, so what limits it is the launch. Numbers move as whole 16-byte
 * words where width and both addresses allow it, and one by one otherwise.
 */
#include "03_multihead/kv_cache.h"
#include "common/cuda/gpu.cuh"

static const int THREADS = 256;
static const int64_t MAX_BLOCKS = 1024, MAX_GRID_Y = 65535;

/*
 * The new rows of one sequence are `words` contiguous words; in the cache they begin at to_offset
 * of the sequence's to_stride words. blockIdx.y counts sequences (in steps of gridDim.y: a grid has
 * at most 65535 rows), blockIdx.x strides over the words.
 */
template <typename Word>
__global__ void kv_append_kernel(Word *to, const Word *from, int64_t batch, int64_t words,
                                 int64_t to_stride, int64_t to_offset) {
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t b = blockIdx.y; b < batch; b += gridDim.y)
        for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += step)
            to[b * to_stride + to_offset + i] = from[b * words + i];
}

template <typename Word>
static void launch(Gpu *gpu, void *to, const void *from, int64_t batch, int64_t words,
                   int64_t to_stride, int64_t to_offset) {
    int64_t blocks = ceil_div(words, THREADS);
    dim3 grid((unsigned)(blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS),
              (unsigned)(batch < MAX_GRID_Y ? batch : MAX_GRID_Y));
    gpu_launch(gpu, kv_append_kernel<Word>, grid, THREADS, 0, to, from, batch, words, to_stride,
               to_offset);
}

void kv_append_cuda(Gpu *gpu, DType dtype, void *to, const void *from, int64_t batch,
                    int64_t tokens, int64_t width, int64_t capacity, int64_t position) {
    if (batch * tokens * width == 0) return; /* a grid of no blocks is an error */
    int64_t row_bytes = width * (int64_t)dtype_size(dtype);
    bool aligned = row_bytes % sizeof(uint4) == 0 && (uintptr_t)to % sizeof(uint4) == 0 &&
                   (uintptr_t)from % sizeof(uint4) == 0;
    if (aligned) {
        int64_t words = row_bytes / (int64_t)sizeof(uint4); /* of one row */
        launch<uint4>(gpu, to, from, batch, tokens * words, capacity * words, position * words);
    } else {
        DTYPE_SWITCH(
            dtype, T,
            launch<T>(gpu, to, from, batch, tokens * width, capacity * width, position * width));
    }
}
