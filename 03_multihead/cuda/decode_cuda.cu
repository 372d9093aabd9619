/*
 * Decoding attention on the GPU, two rungs.
 *
 * Plain: a block for each (query head, piece of the keys). Any head size. Every query head reads
 * the keys of its group again: from L2, if the heads of a group happen to run together.
 *
 * Grouped: a block for each (key head, piece). Up to 8 query heads of a group share every load, and
 * loads are 16 bytes wide. For D 64 and 128.
 *
 * Bytes: the cache, once: 2 B length H_kv D numbers. Operations: 4 for each number and query head
 * of the group. Both leave (m, l, o) of each piece in scratch, and join_kernel adds them up.
 * Exponentials are to base 2, the hardware's own: log2(e) is multiplied into the queries once.
 */
#include "03_multihead/decode.h"
#include "common/cuda/gpu.cuh"

#include <math.h>

static const float LOG2_E = 1.44269504f;
enum { WARPS = 4, THREADS = 32 * WARPS };

/* e^(m - max) in base 2, where both may be -inf: a piece without keys weighs nothing. */
__device__ __forceinline__ float rescale(float m, float max) {
    return m == -INFINITY ? 0.0f : exp2f(m - max);
}

/* ---- plain ---- */

/*
 * grid (pieces, H, B). The query (scaled) and one output for each warp lie in shared memory: (1 +
 * WARPS) * D floats. A warp takes every WARPS-th key; lane i owns the columns i, i + 32, ... of
 * the query and of its warp's output, so inside the loop no warp waits for another.
 */
template <typename T>
__global__ void plain_kernel(float *scratch, const T *q, const T *k, const T *v, DecodeShape s) {
    extern __shared__ float shared[];
    __shared__ float warp_m[WARPS], warp_l[WARPS];
    int D = s.head_dim, piece = blockIdx.x, h = blockIdx.y, b = blockIdx.z;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t head = (int64_t)b * s.heads + h, token = (int64_t)s.kv_heads * D;
    int64_t first = (int64_t)b * s.capacity * token + (int64_t)(h / (s.heads / s.kv_heads)) * D;
    float *query = shared, *o = shared + (1 + warp) * D;

    for (int c = threadIdx.x; c < D; c += THREADS)
        query[c] = to_float(q[head * D + c]) * s.scale * LOG2_E;
    for (int c = lane; c < D; c += 32) o[c] = 0.0f;
    __syncthreads();

    float m = -INFINITY, l = 0.0f;
    int end = min((piece + 1) * s.split, s.length);
    for (int j = piece * s.split + warp; j < end; j += WARPS) {
        const T *key = k + first + j * token, *value = v + first + j * token;
        float score = 0.0f;
        for (int c = lane; c < D; c += 32) score += query[c] * to_float(key[c]);
        score = warp_sum(score);
        float m_new = fmaxf(m, score), old = rescale(m, m_new), p = exp2f(score - m_new);
        m = m_new;
        l = l * old + p;
        for (int c = lane; c < D; c += 32) o[c] = o[c] * old + p * to_float(value[c]);
    }
    if (lane == 0) {
        warp_m[warp] = m;
        warp_l[warp] = l;
    }
    __syncthreads();

    float top = -INFINITY, sum = 0.0f;
    for (int w = 0; w < WARPS; w++) top = fmaxf(top, warp_m[w]);
    for (int w = 0; w < WARPS; w++) sum += rescale(warp_m[w], top) * warp_l[w];
    float *state = scratch + (head * gridDim.x + piece) * (D + 2);
    if (threadIdx.x == 0) {
        state[0] = top;
        state[1] = sum;
    }
    for (int c = threadIdx.x; c < D; c += THREADS) {
        float total = 0.0f;
        for (int w = 0; w < WARPS; w++) total += rescale(warp_m[w], top) * shared[(1 + w) * D + c];
        state[2 + c] = total;
    }
}

/* ---- joining the pieces ---- */

/* grid (H, B), one thread for each column. */
template <typename T> __global__ void join_kernel(T *o, const float *scratch, int pieces, int D) {
    int64_t head = (int64_t)blockIdx.y * gridDim.x + blockIdx.x;
    const float *state = scratch + head * pieces * (D + 2);
    float top = -INFINITY;
    for (int p = 0; p < pieces; p++) top = fmaxf(top, state[p * (D + 2)]);
    for (int c = threadIdx.x; c < D; c += blockDim.x) {
        float sum = 0.0f, total = 0.0f;
        for (int p = 0; p < pieces; p++) {
            const float *piece = state + p * (D + 2);
            float weight = rescale(piece[0], top);
            sum += weight * piece[1];
            total += weight * piece[2 + c];
        }
        o[head * D + c] = from_float<T>(total / sum);
    }
}

static void join(Gpu *gpu, DType dtype, void *o, const float *scratch, const DecodeShape &s) {
    dim3 grid((unsigned)s.heads, (unsigned)s.batch);
    DTYPE_SWITCH(
        dtype, T,
        gpu_launch(gpu, join_kernel<T>, grid, 128, 0, o, scratch, decode_pieces(s), s.head_dim));
}

void decode_plain_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q, const void *k,
                       const void *v, DecodeShape s) {
    CHECK(s.batch <= 65535 && s.heads <= 65535,
          "decode: %d sequences, %d heads; a grid holds 65535", s.batch, s.heads);
    dim3 grid((unsigned)decode_pieces(s), (unsigned)s.heads, (unsigned)s.batch);
    size_t shared = (size_t)(1 + WARPS) * s.head_dim * sizeof(float);
    CHECK(shared <= 40 * 1024, "decode: head_dim %d is too large", s.head_dim);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, plain_kernel<T>, grid, THREADS, shared, scratch, q, k, v, s));
    join(gpu, dtype, o, scratch, s);
}

/* ---- grouped ---- */

/* 16 bytes of a row as floats. */
template <typename T> struct Word;
template <> struct Word<float> {
    enum { N = 4 };
    float4 raw;
    __device__ void load(const float *p) { raw = *(const float4 *)p; }
    __device__ float get(int i) const { return (&raw.x)[i]; }
};
template <> struct Word<__nv_bfloat16> {
    enum { N = 8 };
    uint4 raw;
    __device__ void load(const __nv_bfloat16 *p) { raw = *(const uint4 *)p; }
    /* a BF16 is the upper half of an F32 */
    __device__ float get(int i) const {
        uint32_t pair = (&raw.x)[i / 2];
        return __uint_as_float(i % 2 ? pair & 0xffff0000u : pair << 16);
    }
};

/* The slots of a warp become one: m = max, l and o scaled to it and added, left in shared
 * memory. */
template <int D, int HEADS, int N>
__device__ __forceinline__ void join_slots(float (&shared_m)[WARPS][HEADS],
                                           float (&shared_l)[WARPS][HEADS],
                                           float (&shared_o)[WARPS][HEADS][D], float (&m)[HEADS],
                                           float (&l)[HEADS], float (&o)[HEADS][N], int warp,
                                           int lane, int slot, int column) {
    constexpr int LANES = D / N;
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        float top = m[i];
#pragma unroll
        for (int offset = LANES; offset < 32; offset *= 2)
            top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
        float weight = rescale(m[i], top);
        l[i] *= weight;
#pragma unroll
        for (int offset = LANES; offset < 32; offset *= 2)
            l[i] += __shfl_xor_sync(~0u, l[i], offset);
#pragma unroll
        for (int c = 0; c < N; c++) {
            o[i][c] *= weight;
#pragma unroll
            for (int offset = LANES; offset < 32; offset *= 2)
                o[i][c] += __shfl_xor_sync(~0u, o[i][c], offset);
            if (slot == 0) shared_o[warp][i][column + c] = o[i][c];
        }
        if (lane == 0) {
            shared_m[warp][i] = top;
            shared_l[warp][i] = l[i];
        }
    }
}

/* The warps of the block become one state of (m, l, o) for each query head, in scratch. */
template <int D, int HEADS>
__device__ __forceinline__ void join_warps(float *scratch, const float (&shared_m)[WARPS][HEADS],
                                           const float (&shared_l)[WARPS][HEADS],
                                           const float (&shared_o)[WARPS][HEADS][D], int64_t head,
                                           int piece) {
    for (int x = threadIdx.x; x < HEADS * D; x += THREADS) {
        int i = x / D, c = x % D;
        float top = -INFINITY, sum = 0.0f, total = 0.0f;
        for (int w = 0; w < WARPS; w++) top = fmaxf(top, shared_m[w][i]);
        for (int w = 0; w < WARPS; w++) {
            float weight = rescale(shared_m[w][i], top);
            sum += weight * shared_l[w][i];
            total += weight * shared_o[w][i][c];
        }
        float *state = scratch + ((head + i) * gridDim.x + piece) * (D + 2);
        state[2 + c] = total;
        if (c == 0) {
            state[0] = top;
            state[1] = sum;
        }
    }
}

/*
 * grid (pieces, H_kv * (group / HEADS), B). LANES lanes hold one key (16 bytes each), so a warp
 * works on 32 / LANES keys at once ("slots"), and on UNROLL such rounds: all their loads are
 * issued before the first is used, for it is loads in flight that fill the bandwidth. Each slot
 * has its own m, l and o until the end.
 */
template <typename T, int D, int HEADS>
__global__ void __launch_bounds__(THREADS)
    grouped_kernel(float *scratch, const T *q, const T *k, const T *v, DecodeShape s) {
    constexpr int N = Word<T>::N, LANES = D / N, SLOTS = 32 / LANES, UNROLL = HEADS > 4 ? 2 : 4;
    constexpr int ROUND = WARPS * SLOTS; /* keys that a block looks at in one round */
    static_assert(LANES <= 32 && 32 % LANES == 0, "a key must fit in a warp");
    __shared__ float shared_m[WARPS][HEADS], shared_l[WARPS][HEADS], shared_o[WARPS][HEADS][D];

    int group = s.heads / s.kv_heads, parts = group / HEADS;
    int piece = blockIdx.x, g = blockIdx.y / parts, b = blockIdx.z;
    int h = g * group + blockIdx.y % parts * HEADS; /* the first of this block's query heads */
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, slot = lane / LANES;
    int column = lane % LANES * N;
    int64_t head = (int64_t)b * s.heads + h, token = (int64_t)s.kv_heads * D;
    int64_t first = (int64_t)b * s.capacity * token + (int64_t)g * D + column;

    float query[HEADS][N], o[HEADS][N], m[HEADS], l[HEADS];
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        Word<T> w;
        w.load(q + (head + i) * D + column);
        m[i] = -INFINITY;
        l[i] = 0.0f;
#pragma unroll
        for (int c = 0; c < N; c++) {
            query[i][c] = w.get(c) * s.scale * LOG2_E;
            o[i][c] = 0.0f;
        }
    }

    int end = min((piece + 1) * s.split, s.length);
    for (int j = piece * s.split + warp * SLOTS + slot; __any_sync(~0u, j < end);
         j += ROUND * UNROLL) {
        Word<T> key[UNROLL], value[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            /* past the end the last key is read again, and its score is -inf below */
            int64_t row = first + (int64_t)min(j + u * ROUND, end - 1) * token;
            key[u].load(k + row);
            value[u].load(v + row);
        }
#pragma unroll
        for (int i = 0; i < HEADS; i++) {
            float score[UNROLL], m_new = m[i];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                score[u] = 0.0f;
#pragma unroll
                for (int c = 0; c < N; c++) score[u] += query[i][c] * key[u].get(c);
#pragma unroll
                for (int offset = LANES / 2; offset; offset /= 2)
                    score[u] += __shfl_xor_sync(~0u, score[u], offset);
                if (j + u * ROUND >= end) score[u] = -INFINITY;
                m_new = fmaxf(m_new, score[u]);
            }
            float old = rescale(m[i], m_new);
            m[i] = m_new;
            l[i] *= old;
#pragma unroll
            for (int c = 0; c < N; c++) o[i][c] *= old;
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                float p = rescale(score[u], m_new);
                l[i] += p;
#pragma unroll
                for (int c = 0; c < N; c++) o[i][c] += p * value[u].get(c);
            }
        }
    }

    join_slots<D, HEADS, N>(shared_m, shared_l, shared_o, m, l, o, warp, lane, slot, column);
    __syncthreads();

    join_warps<D, HEADS>(scratch, shared_m, shared_l, shared_o, head, piece);
}

template <typename T, int D, int HEADS>
static void launch_grouped(Gpu *gpu, float *scratch, const void *q, const void *k, const void *v,
                           const DecodeShape &s) {
    int parts = s.heads / s.kv_heads / HEADS;
    dim3 grid((unsigned)decode_pieces(s), (unsigned)(s.kv_heads * parts), (unsigned)s.batch);
    gpu_launch(gpu, grouped_kernel<T, D, HEADS>, grid, THREADS, 0, scratch, q, k, v, s);
}

/* As many heads at once as divide the group, up to 8: more would not fit into registers. */
template <typename T, int D>
static void choose_heads(Gpu *gpu, float *scratch, const void *q, const void *k, const void *v,
                         const DecodeShape &s) {
    int group = s.heads / s.kv_heads;
    if (group % 8 == 0)
        launch_grouped<T, D, 8>(gpu, scratch, q, k, v, s);
    else if (group % 4 == 0)
        launch_grouped<T, D, 4>(gpu, scratch, q, k, v, s);
    else if (group % 2 == 0)
        launch_grouped<T, D, 2>(gpu, scratch, q, k, v, s);
    else
        launch_grouped<T, D, 1>(gpu, scratch, q, k, v, s);
}

int decode_grouped_supports(const void *q, const void *k, const void *v, DecodeShape s) {
    bool aligned = ((uintptr_t)q | (uintptr_t)k | (uintptr_t)v) % 16 == 0;
    return aligned && (s.head_dim == 64 || s.head_dim == 128);
}

void decode_grouped_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                         const void *k, const void *v, DecodeShape s) {
    CHECK(s.batch <= 65535 && s.heads <= 65535,
          "decode: %d sequences, %d heads; a grid holds 65535", s.batch, s.heads);
    CHECK(decode_grouped_supports(q, k, v, s), "decode: no grouped kernel for head_dim %d",
          s.head_dim);
    if (s.head_dim == 64)
        DTYPE_SWITCH(dtype, T, choose_heads<T, 64>(gpu, scratch, q, k, v, s));
    else
        DTYPE_SWITCH(dtype, T, choose_heads<T, 128>(gpu, scratch, q, k, v, s));
    join(gpu, dtype, o, scratch, s);
}

void decode_attention_cuda(Gpu *gpu, DType dtype, void *o, float *scratch, const void *q,
                           const void *k, const void *v, DecodeShape s) {
    if (decode_grouped_supports(q, k, v, s))
        decode_grouped_cuda(gpu, dtype, o, scratch, q, k, v, s);
    else
        decode_plain_cuda(gpu, dtype, o, scratch, q, k, v, s);
}
