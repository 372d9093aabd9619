/*
 * Solution 07.10. A thread owns a pair: it reads both numbers before it writes either, and nobody
 * else touches them. Neighbouring threads have neighbouring i, so that each half of a head is read
 * and written as one piece.
 *
 * The tempting wrong answer has a thread for each number, which reads its partner and writes
 * itself. That is right from one buffer to another, as in exercise 04.10; in place the partner may
 * be written already. Where a head lies within one warp, all lanes read before one writes, and the
 * tests of small heads pass; 64 numbers lie in two warps, and which one comes first is luck.
 */
#include "07_rope/rope.h"
#include "common/cuda/gpu.cuh"

template <typename T>
__global__ void turn_halves(RopePart q, RopePart k, const float *cos, const float *sin,
                            const int32_t *positions, int64_t count, int half, int max_position,
                            float sign) {
    int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= count) return;
    int i = (int)(thread % half), heads = q.heads + k.heads;
    int64_t row = thread / half, token = row / heads;
    int head = (int)(row % heads);
    bool in_q = head < q.heads;
    RopePart part = in_q ? q : k;
    T *a = (T *)part.data + (token * part.heads + (in_q ? head : head - q.heads)) * part.head_dim +
           part.offset + i;
    T *b = a + half;
    int position = positions[token];
    bool known = position >= 0 && position < max_position;
    float c = known ? cos[(int64_t)position * half + i] : NAN;
    float s = known ? sign * sin[(int64_t)position * half + i] : NAN;
    float x = to_float(*a), y = to_float(*b);
    *a = from_float<T>(x * c - y * s);
    *b = from_float<T>(x * s + y * c);
}

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
