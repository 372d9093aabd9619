/*
 * What the CUDA kernels of causal attention share: where a row lies, which keys a query sees, and
 * which shapes the copies of 16 bytes (cp.async, TMA) can take.
 */
#ifndef CAUSAL_COMMON_CUH
#define CAUSAL_COMMON_CUH

#include "02_causal/causal.h"
#include "common/cuda/gpu.cuh"

/* Element 0 of (batch, token, head) in a tensor with these strides. */
template <typename T>
__host__ __device__ __forceinline__ T *head_row(T *base, HeadStrides s, int batch, int token,
                                                int head) {
    return base + batch * s.batch + token * s.token + head * s.head;
}

/* The last key that query i sees: the queries are the last q_len of kv_len positions. */
__host__ __device__ __forceinline__ int last_key(const AttentionShape &shape, int i) {
    int last = shape.kv_len - 1;
    return shape.causal && i + shape.kv_len - shape.q_len < last ? i + shape.kv_len - shape.q_len
                                                                 : last;
}

/* How many keys the queries first .. first + count - 1 see together (those past q_len do not
 * exist). */
__host__ __device__ __forceinline__ int keys_seen(const AttentionShape &shape, int first,
                                                  int count) {
    int last = first + count < shape.q_len ? first + count - 1 : shape.q_len - 1;
    return last_key(shape, last) + 1;
}

/* Columns of Hopper's tiles in shared memory, which lie in blocks of 64. */
__host__ __device__ constexpr int whole_blocks(int d) { return (d + 63) / 64 * 64; }

/* Does every row of this tensor start at a multiple of 16 bytes, and hold whole pieces of 16 bytes?
 * */
static inline bool rows_of_16_bytes(const void *base, HeadStrides s, int dim) {
    return (uintptr_t)base % 16 == 0 && s.batch % 8 == 0 && s.token % 8 == 0 && s.head % 8 == 0 &&
           dim % 8 == 0;
}

#endif
