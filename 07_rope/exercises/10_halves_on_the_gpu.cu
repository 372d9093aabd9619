/*
 * Exercise 07.10: halves on the GPU.
 *
 * Exercise 3 for a GPU, in the layout of Llama (it needs nvcc and a GPU, and is skipped without):
 * the queries and the keys of all tokens are turned in one launch, in place, in F32 and in BF16.
 * Pair i of a head is the numbers i and i + half of its rotated part, which begins at `offset`.
 * Either part may be missing (data NULL); the other layout is done already.
 *
 * The launch below has a thread for each pair of each head, q's heads before k's:
 *
 *     thread = (token * (q.heads + k.heads) + head) * half + i
 *
 * Why for each pair, and not for each number as in exercise 04.10? The solution answers; think of
 * it before you look. cos and sin are [max_position, half]; at a position that is not in them
 * nothing is read, and the token's numbers become NaN. Compute in F32 (to_float, from_float).
 *
 * POINTS: 3
 * REPLACES: rope_rotate_cuda in 07_rope/cuda/rope_cuda.cu
 * TESTS: test_rope:rotate/equals_complex_numbers_cuda* test_rope:rotate/inverse_undoes_cuda*
 *   test_rope:rotate/k_may_be_missing_cuda* test_rope:rotate/counts_from_an_offset_cuda*
 *   test_rope:positions/beyond*cuda
 */
#include "07_rope/rope.h"
#include "common/cuda/gpu.cuh"

template <typename T>
__global__ void turn_halves(RopePart q, RopePart k, const float *cos, const float *sin,
                            const int32_t *positions, int64_t count, int half, int max_position,
                            float sign) {}

extern "C" void rope_rotate_cuda(Gpu *gpu, DType dtype, RopePart q, RopePart k, const float *cos,
                                 const float *sin, const int32_t *positions, int64_t tokens,
                                 int dim, int max_position, RopeLayout layout, int inverse) {
    if (layout != ROPE_HALVES) {
        rope_table_cuda(gpu, dtype, q, k, cos, sin, positions, tokens, dim, max_position, layout,
                        inverse);
        return;
    }
    if (!q.data) q.heads = 0;
    if (!k.data) k.heads = 0;
    int64_t count = tokens * (q.heads + k.heads) * (dim / 2);
    if (count)
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, turn_halves<T>, ceil_div(count, 256), 256, 0, q, k, cos, sin,
                                positions, count, dim / 2, max_position, inverse ? -1.0f : 1.0f));
}
