/*
 * Attention over selected keys on the GPU, as plainly as on the CPU: a warp for each query of a
 * head, its numbers side by side in the lanes, and the online softmax one key at a time. Backward
 * has a warp for each query (dq) and one for each key (dk, dv), so nothing is added up by atomics
 * and every run gives the same bits.
 *
 * What limits it: a key is read again by every head and query that selected it, and one byte of the
 * mask for each pair, selected or not.
 */
#include "04_mla/selection.h"
#include "common/cuda/gpu.cuh"

enum { WARPS = 4, COLUMNS = MLA_DECODE_MAX_WIDTH / 32 }; /* columns: of a lane, at most */

/* A block for each query. */
static __global__ void mask_kernel(uint8_t *mask, const int32_t *selected, SelectedShape s) {
    int64_t row = blockIdx.x;
    int T = s.attention.q_len, S = s.attention.kv_len;
    int seen = min(selected_keys_seen(&s, (int)(row / T), (int)(row % T)), S);
    for (int j = threadIdx.x; j < S; j += blockDim.x) mask[row * S + j] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < s.count; i += blockDim.x) {
        int j = selected[row * s.count + i];
        if (j >= 0 && j < seen) mask[row * S + j] = 1; /* by several threads, perhaps: the same 1 */
    }
}

size_t selected_work_cuda(Gpu *, DType, SelectedShape s) {
    return (size_t)s.attention.batch * (size_t)s.attention.q_len * (size_t)s.attention.kv_len;
}

static void make_mask(Gpu *gpu, uint8_t *mask, const int32_t *selected, SelectedShape s) {
    unsigned rows = (unsigned)s.attention.batch * (unsigned)s.attention.q_len;
    gpu_launch(gpu, mask_kernel, rows, 256, 0, mask, selected, s);
}

static __device__ __forceinline__ int64_t at(const HeadStrides &strides, int b, int t, int h) {
    return b * strides.batch + t * strides.token + h * strides.head;
}

/* The lanes' parts of a row of `n` numbers: number 32 i + lane is x[i]. */
template <typename T>
static __device__ __forceinline__ void load(float (&x)[COLUMNS], const T *row, int n) {
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        int c = 32 * i + threadIdx.x % 32;
        x[i] = c < n ? to_float(row[c]) : 0.0f;
    }
}

/* The product of two rows; all lanes get it. */
template <typename T>
static __device__ __forceinline__ float dot(const float (&x)[COLUMNS], const T *row, int n) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        int c = 32 * i + threadIdx.x % 32;
        if (c < n) sum += x[i] * to_float(row[c]);
    }
    return warp_sum(sum);
}

/* x = x * rescale + factor * row */
template <typename T>
static __device__ __forceinline__ void join(float (&x)[COLUMNS], float rescale, float factor,
                                            const T *row, int n) {
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        int c = 32 * i + threadIdx.x % 32;
        if (c < n) x[i] = x[i] * rescale + factor * to_float(row[c]);
    }
}

/* row = or += x * factor */
template <typename T>
static __device__ __forceinline__ void put(T *row, int add, const float (&x)[COLUMNS], float factor,
                                           int n) {
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        int c = 32 * i + threadIdx.x % 32;
        if (c < n) row[c] = from_float<T>(add ? to_float(row[c]) + x[i] * factor : x[i] * factor);
    }
}

/* This warp's (b, h, t) of `tokens` in each head; false: there is none. */
struct Place {
    int b, h, t;
    int64_t row;
    __device__ bool find(const AttentionShape &a, int tokens) {
        row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
        t = (int)(row % tokens), h = (int)(row / tokens % a.heads);
        b = (int)(row / tokens / a.heads);
        return b < a.batch;
    }
};

template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    selected_forward_kernel(T *o, float *lse, const T *q, const T *k, const T *v,
                            const uint8_t *mask, SelectedShape s) {
    const AttentionShape &a = s.attention;
    Place p;
    if (!p.find(a, a.q_len)) return;
    const uint8_t *selected = mask + ((int64_t)p.b * a.q_len + p.t) * a.kv_len;
    int seen = min(selected_keys_seen(&s, p.b, p.t), a.kv_len);
    float query[COLUMNS], out[COLUMNS] = {}, m = -INFINITY, l = 0.0f;
    load(query, q + at(a.q, p.b, p.t, p.h), a.qk_dim);
    for (int j = 0; j < seen; j++) {
        if (!selected[j]) continue; /* for all lanes alike */
        float score = a.scale * dot(query, k + selected_at(&s, a.k, p.b, j, p.h), a.qk_dim);
        float top = fmaxf(m, score), rescale = expf(m - top), weight = expf(score - top);
        join(out, rescale, weight, v + selected_at(&s, a.v, p.b, j, p.h), a.v_dim);
        l = l * rescale + weight, m = top;
    }
    put(o + at(a.o, p.b, p.t, p.h), 0, out, l > 0.0f ? 1.0f / l : 0.0f, a.v_dim);
    if (lse && threadIdx.x % 32 == 0) lse[p.row] = m + logf(l);
}

void selected_forward_cuda(Gpu *gpu, DType dtype, void *o, float *lse, const void *q, const void *k,
                           const void *v, const int32_t *selected, void *work, SelectedShape s) {
    uint8_t *mask = (uint8_t *)work;
    make_mask(gpu, mask, selected, s);
    const AttentionShape *a = &s.attention;
    CHECK(a->qk_dim <= MLA_DECODE_MAX_WIDTH && a->v_dim <= MLA_DECODE_MAX_WIDTH,
          "selected_forward: heads of %d and %d; at most %d", a->qk_dim, a->v_dim,
          MLA_DECODE_MAX_WIDTH);
    unsigned blocks = (unsigned)ceil_div((int64_t)a->batch * a->heads * a->q_len, WARPS);
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, selected_forward_kernel<T>, blocks, 32 * WARPS, 0, o, lse, q, k, v,
                            mask, s));
}

/* What the gradients need of one side: rows of d_o, o, q, k and v, and what they have in common. */
template <typename T> struct Backward {
    const T *d_o, *q, *k, *v, *o;
    const float *lse; /* [B, H, q_len] */
    const uint8_t *mask;
    SelectedShape s;
};

/* A warp for each query: dq = sum over its keys of ds k. */
template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    selected_query_gradient_kernel(T *dq, int add, const __grid_constant__ Backward<T> g) {
    const AttentionShape &a = g.s.attention;
    Place p;
    if (!p.find(a, a.q_len)) return;
    const uint8_t *selected = g.mask + ((int64_t)p.b * a.q_len + p.t) * a.kv_len;
    int seen = min(selected_keys_seen(&g.s, p.b, p.t), a.kv_len);
    float query[COLUMNS], d_out[COLUMNS], sum[COLUMNS] = {}, lse = g.lse[p.row];
    load(query, g.q + at(a.q, p.b, p.t, p.h), a.qk_dim);
    load(d_out, g.d_o + at(a.o, p.b, p.t, p.h), a.v_dim);
    float delta = dot(d_out, g.o + at(a.o, p.b, p.t, p.h), a.v_dim);
    for (int j = 0; j < seen; j++) {
        if (!selected[j]) continue;
        const T *key = g.k + at(a.k, p.b, j, p.h);
        float weight = expf(a.scale * dot(query, key, a.qk_dim) - lse);
        float dp = dot(d_out, g.v + at(a.v, p.b, j, p.h), a.v_dim);
        join(sum, 1.0f, a.scale * weight * (dp - delta), key, a.qk_dim);
    }
    put(dq + at(a.q, p.b, p.t, p.h), add, sum, 1.0f, a.qk_dim);
}

/* A warp for each key: dk = sum over its queries of ds q, dv = sum of p do. */
template <typename T>
__global__ void __launch_bounds__(32 * WARPS)
    selected_key_gradient_kernel(T *dk, int add_k, T *dv, int add_v,
                                 const __grid_constant__ Backward<T> g) {
    const AttentionShape &a = g.s.attention;
    Place p; /* t: the key */
    if (!p.find(a, a.kv_len)) return;
    float key[COLUMNS], value[COLUMNS], sum_k[COLUMNS] = {}, sum_v[COLUMNS] = {};
    load(key, g.k + at(a.k, p.b, p.t, p.h), a.qk_dim);
    load(value, g.v + at(a.v, p.b, p.t, p.h), a.v_dim);
    for (int t = max(p.t - (a.kv_len - a.q_len), 0); t < a.q_len; t++) {
        if (!g.mask[((int64_t)p.b * a.q_len + t) * a.kv_len + p.t]) continue;
        const T *query = g.q + at(a.q, p.b, t, p.h), *d_out = g.d_o + at(a.o, p.b, t, p.h);
        float lse = g.lse[((int64_t)p.b * a.heads + p.h) * a.q_len + t], d[COLUMNS];
        load(d, d_out, a.v_dim);
        float weight = expf(a.scale * dot(key, query, a.qk_dim) - lse);
        float delta = dot(d, g.o + at(a.o, p.b, t, p.h), a.v_dim);
        float ds = a.scale * weight * (dot(value, d_out, a.v_dim) - delta);
        join(sum_k, 1.0f, ds, query, a.qk_dim);
        join(sum_v, 1.0f, weight, d_out, a.v_dim);
    }
    if (dk) put(dk + at(a.k, p.b, p.t, p.h), add_k, sum_k, 1.0f, a.qk_dim);
    if (dv) put(dv + at(a.v, p.b, p.t, p.h), add_v, sum_v, 1.0f, a.v_dim);
}

template <typename T>
static void backward(Gpu *gpu, T *dq, int add_q, T *dk, int add_k, T *dv, int add_v,
                     const Backward<T> &g) {
    const AttentionShape &a = g.s.attention;
    int64_t heads = (int64_t)a.batch * a.heads;
    unsigned queries = (unsigned)ceil_div(heads * a.q_len, WARPS);
    unsigned keys = (unsigned)ceil_div(heads * a.kv_len, WARPS);
    if (dq)
        gpu_launch(gpu, selected_query_gradient_kernel<T>, queries, 32 * WARPS, 0, dq, add_q, g);
    if (dk || dv)
        gpu_launch(gpu, selected_key_gradient_kernel<T>, keys, 32 * WARPS, 0, dk, add_k, dv, add_v,
                   g);
}

void selected_backward_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, void *dk, int add_k,
                            void *dv, int add_v, const void *d_o, const void *q, const void *k,
                            const void *v, const void *o, const float *lse, const void *work,
                            SelectedShape s) {
    CHECK(!s.block_table && s.attention.kv_heads == s.attention.heads,
          "selected_backward: keys of their own heads");
    DTYPE_SWITCH(dtype, T,
                 backward<T>(gpu, (T *)dq, add_q, (T *)dk, add_k, (T *)dv, add_v,
                             Backward<T>{(const T *)d_o, (const T *)q, (const T *)k, (const T *)v,
                                         (const T *)o, lse, (const uint8_t *)work, s}));
}

/* A row of the pool is key and value of all heads. */
static SelectedShape decode_shape(const int32_t *block_table, const int32_t *lengths, int count,
                                  const MlaDecodeShape &s) {
    SelectedShape shape = {};
    shape.attention = attention_shape(s.batch, s.heads, 1, s.q_len, s.max_length,
                                      s.kv_lora_rank + s.rope_dim, s.kv_lora_rank, 1);
    shape.attention.scale = s.scale;
    shape.attention.k.token = shape.attention.v.token = s.kv_lora_rank + s.rope_dim;
    shape.count = count;
    shape.block_table = block_table, shape.lengths = lengths;
    shape.max_pages = s.max_pages;
    return shape;
}

size_t selected_decode_work_cuda(Gpu *gpu, DType dtype, int count, MlaDecodeShape s) {
    return selected_work_cuda(gpu, dtype, decode_shape(NULL, NULL, count, s));
}

void selected_decode_cuda(Gpu *gpu, DType dtype, void *o, void *work, const void *q,
                          const void *latent, const int32_t *block_table, const int32_t *lengths,
                          const int32_t *selected, int count, MlaDecodeShape s) {
    CHECK(!s.e4m3, "selected_decode: on a GPU it reads numbers; this cache has rows in FP8");
    selected_forward_cuda(gpu, dtype, o, NULL, q, latent, latent, selected, work,
                          decode_shape(block_table, lengths, count, s));
}
