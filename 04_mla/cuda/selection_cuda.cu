/*
 * Attention over selected keys on the GPU: the lists put in order, the plain kernels, and the
 * choice between them and Hopper's (selection_hopper.cuh).
 *
 * Order. A block for each query: a bit for each key of a window of the sequence, in shared memory,
 * is set where the list says so; a thread counts the bits of its words, a sum over the threads says
 * where its keys go. So a list comes out ascending, once each, in every run the same.
 *
 * Plainly. A warp for each query of a head, its numbers side by side in the lanes, and the online
 * softmax one listed key at a time. Backward has a warp for each query (dq) and one for each key
 * (dk, dv), whose lanes look a key up in the lists of 32 queries at a time. Nothing is added up by
 * atomics, and every run gives the same bits.
 *
 * What limits them: a key is read again by every head and query that selected it; and the search,
 * queries x keys x log2(count) steps, which no T x S memory stands for.
 */
#include "04_mla/cuda/selection_hopper.cuh"
#include "04_mla/selection.h"
#include "common/cuda/gpu.cuh"

enum { WARPS = 4 };

/* ---- order ---- */

enum { TIDY_THREADS = 256, TIDY_WORDS = 8, WINDOW = TIDY_THREADS * TIDY_WORDS * 32 };

/* The sum of x over the threads before this one; *all: over every thread. Ends with a barrier. */
static __device__ __forceinline__ int sum_before(int x, int *all) {
    __shared__ int warps[TIDY_THREADS / 32];
    int lane = threadIdx.x % 32, sum = x, before = 0;
    for (int i = 1; i < 32; i *= 2) {
        int left = __shfl_up_sync(~0u, sum, i);
        if (lane >= i) sum += left;
    }
    if (lane == 31) warps[threadIdx.x / 32] = sum;
    __syncthreads();
    *all = 0;
    for (int i = 0; i < TIDY_THREADS / 32; i++) {
        if (i < threadIdx.x / 32) before += warps[i];
        *all += warps[i];
    }
    __syncthreads();
    return before + sum - x;
}

/* A block for each query. */
static __global__ void __launch_bounds__(TIDY_THREADS)
    tidy_kernel(int32_t *tidy, int32_t *counts, const int32_t *selected, SelectedShape s) {
    __shared__ uint32_t bits[TIDY_THREADS * TIDY_WORDS];
    int64_t row = blockIdx.x;
    int T = s.attention.q_len, filled = 0;
    int seen = min(selected_keys_seen(&s, (int)(row / T), (int)(row % T)), s.attention.kv_len);
    tidy += row * s.count, selected += row * s.count;
    uint32_t *own = bits + threadIdx.x * TIDY_WORDS;
    for (int first = 0; first < seen; first += WINDOW) {
        for (int i = 0; i < TIDY_WORDS; i++) own[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < s.count; i += TIDY_THREADS) {
            int j = selected[i] - first;
            if (selected[i] < seen && j >= 0 && j < WINDOW) atomicOr(&bits[j / 32], 1u << j % 32);
        }
        __syncthreads();
        int here = 0, all;
        for (int i = 0; i < TIDY_WORDS; i++) here += __popc(own[i]);
        int to = filled + sum_before(here, &all);
        for (int i = 0; i < TIDY_WORDS; i++)
            for (uint32_t word = own[i]; word; word &= word - 1)
                tidy[to++] = first + (threadIdx.x * TIDY_WORDS + i) * 32 + __ffs(word) - 1;
        filled += all;
    }
    for (int i = filled + threadIdx.x; i < s.count; i += TIDY_THREADS) tidy[i] = -1;
    if (threadIdx.x == 0) counts[row] = filled;
}

void selected_tidy_cuda(Gpu *gpu, DType, int32_t *tidy, const int32_t *selected, SelectedShape s) {
    int64_t rows = (int64_t)s.attention.batch * s.attention.q_len;
    gpu_launch(gpu, tidy_kernel, (unsigned)rows, TIDY_THREADS, 0, tidy, tidy + rows * s.count,
               selected, s);
}

size_t selected_work_cuda(Gpu *, DType, SelectedShape s) { return selected_work_cpu(s); }

/* ---- plain kernels ---- */

static __device__ __forceinline__ int64_t at(const HeadStrides &strides, int b, int t, int h) {
    return b * strides.batch + t * strides.token + h * strides.head;
}

/* The lanes' parts of a row of `n` numbers: number 32 i + lane is x[i]. */
template <int COLUMNS, typename T>
static __device__ __forceinline__ void load(float (&x)[COLUMNS], const T *row, int n) {
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        int c = 32 * i + threadIdx.x % 32;
        x[i] = c < n ? to_float(row[c]) : 0.0f;
    }
}

/* The product of two rows; all lanes get it. */
template <int COLUMNS, typename T>
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
template <int COLUMNS, typename T>
static __device__ __forceinline__ void join(float (&x)[COLUMNS], float rescale, float factor,
                                            const T *row, int n) {
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        int c = 32 * i + threadIdx.x % 32;
        if (c < n) x[i] = x[i] * rescale + factor * to_float(row[c]);
    }
}

/* row = or += x * factor */
template <int COLUMNS, typename T>
static __device__ __forceinline__ void put(T *row, int add, const float (&x)[COLUMNS], float factor,
                                           int n) {
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        int c = 32 * i + threadIdx.x % 32;
        if (c < n) row[c] = from_float<T>(add ? to_float(row[c]) + x[i] * factor : x[i] * factor);
    }
}

/* This warp's (b, h, t) of `tokens` in each of `heads`; false: there is none. */
struct Place {
    int b, h, t;
    int64_t row;
    __device__ bool find(int batch, int heads, int tokens) {
        row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
        t = (int)(row % tokens), h = (int)(row / tokens % heads);
        b = (int)(row / tokens / heads);
        return b < batch;
    }
};

/* WIDTH_SWITCH(a, COLUMNS, statement): runs it with what a lane has of the widest row. */
#define WIDTH_SWITCH(a, COLUMNS, ...)                                     \
    do {                                                                  \
        int width_ = (a)->qk_dim > (a)->v_dim ? (a)->qk_dim : (a)->v_dim; \
        if (width_ <= 64) {                                               \
            const int COLUMNS = 2;                                        \
            __VA_ARGS__;                                                  \
        } else if (width_ <= 128) {                                       \
            const int COLUMNS = 4;                                        \
            __VA_ARGS__;                                                  \
        } else {                                                          \
            const int COLUMNS = MLA_DECODE_MAX_WIDTH / 32;                \
            __VA_ARGS__;                                                  \
        }                                                                 \
    } while (0)

/* The lists in order, and how long each is. */
struct Lists {
    const int32_t *list, *counts;
    Lists(const void *work, const SelectedShape &s) : list((const int32_t *)work) {
        counts = list + (int64_t)s.attention.batch * s.attention.q_len * s.count;
    }
};

template <typename T, int COLUMNS>
__global__ void __launch_bounds__(32 * WARPS)
    selected_forward_kernel(T *o, float *lse, const T *q, const T *k, const T *v, Lists lists,
                            SelectedShape s) {
    const AttentionShape &a = s.attention;
    Place p;
    if (!p.find(a.batch, a.heads, a.q_len)) return;
    int64_t token = (int64_t)p.b * a.q_len + p.t;
    const int32_t *list = lists.list + token * s.count;
    float query[COLUMNS], out[COLUMNS] = {}, m = -INFINITY, l = 0.0f;
    load(query, q + at(a.q, p.b, p.t, p.h), a.qk_dim);
    for (int e = 0; e < lists.counts[token]; e++) {
        int j = list[e];
        float score = a.scale * dot(query, k + selected_at(&s, a.k, p.b, j, p.h), a.qk_dim);
        float top = fmaxf(m, score), rescale = expf(m - top), weight = expf(score - top);
        join(out, rescale, weight, v + selected_at(&s, a.v, p.b, j, p.h), a.v_dim);
        l = l * rescale + weight, m = top;
    }
    put(o + at(a.o, p.b, p.t, p.h), 0, out, l > 0.0f ? 1.0f / l : 0.0f, a.v_dim);
    if (lse && threadIdx.x % 32 == 0) lse[p.row] = m + logf(l);
}

void selected_forward_plain_cuda(Gpu *gpu, DType dtype, void *o, float *lse, const void *q,
                                 const void *k, const void *v, const int32_t *selected, void *work,
                                 SelectedShape s) {
    const AttentionShape *a = &s.attention;
    CHECK(a->qk_dim <= MLA_DECODE_MAX_WIDTH && a->v_dim <= MLA_DECODE_MAX_WIDTH,
          "selected_forward: heads of %d and %d; at most %d", a->qk_dim, a->v_dim,
          MLA_DECODE_MAX_WIDTH);
    selected_tidy_cuda(gpu, I32, (int32_t *)work, selected, s);
    unsigned blocks = (unsigned)ceil_div((int64_t)a->batch * a->heads * a->q_len, WARPS);
    DTYPE_SWITCH(dtype, T,
                 WIDTH_SWITCH(a, COLUMNS,
                              gpu_launch(gpu, selected_forward_kernel<T, COLUMNS>, blocks,
                                         32 * WARPS, 0, o, lse, q, k, v, Lists(work, s), s)));
}

/* What the gradients need of one side: rows of d_o, o, q, k and v, and what they have in common. */
template <typename T> struct Backward {
    const T *d_o, *q, *k, *v, *o;
    const float *lse; /* [B, H, q_len] */
    Lists lists;
    SelectedShape s;
};

/* A warp for each query: dq = sum over its keys of ds k. */
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(32 * WARPS)
    selected_query_gradient_kernel(T *dq, int add, const __grid_constant__ Backward<T> g) {
    const AttentionShape &a = g.s.attention;
    Place p;
    if (!p.find(a.batch, a.heads, a.q_len)) return;
    int64_t token = (int64_t)p.b * a.q_len + p.t;
    const int32_t *list = g.lists.list + token * g.s.count;
    float query[COLUMNS], d_out[COLUMNS], sum[COLUMNS] = {}, lse = g.lse[p.row];
    load(query, g.q + at(a.q, p.b, p.t, p.h), a.qk_dim);
    load(d_out, g.d_o + at(a.o, p.b, p.t, p.h), a.v_dim);
    float delta = dot(d_out, g.o + at(a.o, p.b, p.t, p.h), a.v_dim);
    for (int e = 0; e < g.lists.counts[token]; e++) {
        int j = list[e];
        const T *key = g.k + selected_at(&g.s, a.k, p.b, j, p.h);
        float weight = expf(a.scale * dot(query, key, a.qk_dim) - lse);
        float dp = dot(d_out, g.v + selected_at(&g.s, a.v, p.b, j, p.h), a.v_dim);
        join(sum, 1.0f, a.scale * weight * (dp - delta), key, a.qk_dim);
    }
    put(dq + at(a.q, p.b, p.t, p.h), add, sum, 1.0f, a.qk_dim);
}

/* Is key j in the list, which ascends? */
static __device__ __forceinline__ bool listed(const int32_t *list, int count, int j) {
    int low = 0;
    for (int high = count; low < high;) {
        int middle = (low + high) / 2;
        if (list[middle] < j)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && list[low] == j;
}

/* A warp for each key: dk = sum over its queries and their heads of ds q, dv = sum of p do; of a
 * latent, both in dk. */
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(32 * WARPS)
    selected_key_gradient_kernel(T *dk, int add_k, T *dv, int add_v,
                                 const __grid_constant__ Backward<T> g) {
    const AttentionShape &a = g.s.attention;
    int lane = threadIdx.x % 32, group = a.heads / a.kv_heads;
    Place p; /* h: the key's head, t: the key */
    if (!p.find(a.batch, a.kv_heads, a.kv_len)) return;
    float key[COLUMNS], value[COLUMNS], sum_k[COLUMNS] = {}, sum_v[COLUMNS] = {};
    load(key, g.k + at(a.k, p.b, p.t, p.h), a.qk_dim);
    load(value, g.v + at(a.v, p.b, p.t, p.h), a.v_dim);
    for (int first = max(p.t - (a.kv_len - a.q_len), 0); first < a.q_len; first += 32) {
        int64_t token = (int64_t)p.b * a.q_len + first + lane;
        bool here = first + lane < a.q_len &&
                    listed(g.lists.list + token * g.s.count, g.lists.counts[token], p.t);
        for (unsigned left = __ballot_sync(~0u, here); left; left &= left - 1)
            for (int h = p.h * group; h < (p.h + 1) * group; h++) {
                int t = first + __ffs(left) - 1;
                const T *query = g.q + at(a.q, p.b, t, h), *d_out = g.d_o + at(a.o, p.b, t, h);
                float lse = g.lse[((int64_t)p.b * a.heads + h) * a.q_len + t], d[COLUMNS];
                load(d, d_out, a.v_dim);
                float weight = expf(a.scale * dot(key, query, a.qk_dim) - lse);
                float delta = dot(d, g.o + at(a.o, p.b, t, h), a.v_dim);
                float ds = a.scale * weight * (dot(value, d_out, a.v_dim) - delta);
                join(sum_k, 1.0f, ds, query, a.qk_dim);
                join(sum_v, 1.0f, weight, d_out, a.v_dim);
            }
    }
    for (int i = 0; i < COLUMNS && g.s.latent; i++) sum_k[i] += sum_v[i]; /* the same columns */
    if (dk) put(dk + at(a.k, p.b, p.t, p.h), add_k, sum_k, 1.0f, a.qk_dim);
    if (dv) put(dv + at(a.v, p.b, p.t, p.h), add_v, sum_v, 1.0f, a.v_dim);
}

template <typename T, int COLUMNS>
static void backward(Gpu *gpu, T *dq, int add_q, T *dk, int add_k, T *dv, int add_v,
                     const Backward<T> &g) {
    const AttentionShape &a = g.s.attention;
    unsigned queries = (unsigned)ceil_div((int64_t)a.batch * a.heads * a.q_len, WARPS);
    unsigned keys = (unsigned)ceil_div((int64_t)a.batch * a.kv_heads * a.kv_len, WARPS);
    if (dq)
        gpu_launch(gpu, selected_query_gradient_kernel<T, COLUMNS>, queries, 32 * WARPS, 0, dq,
                   add_q, g);
    if (dk || dv)
        gpu_launch(gpu, selected_key_gradient_kernel<T, COLUMNS>, keys, 32 * WARPS, 0, dk, add_k,
                   dv, add_v, g);
}

void selected_backward_plain_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, void *dk, int add_k,
                                  void *dv, int add_v, void *, const void *d_o, const void *q,
                                  const void *k, const void *v, const void *o, const float *lse,
                                  const void *work, SelectedShape s) {
    selected_backward_check(&s, k, v, dv);
    const AttentionShape *a = &s.attention;
    DTYPE_SWITCH(dtype, T, {
        Backward<T> g = {(const T *)d_o, (const T *)q, (const T *)k,   (const T *)v,
                         (const T *)o,   lse,          Lists(work, s), s};
        WIDTH_SWITCH(a, COLUMNS,
                     backward<T, COLUMNS>(gpu, (T *)dq, add_q, (T *)dk, add_k, (T *)dv, add_v, g));
    });
}

/* ---- in use ---- */

void selected_forward_cuda(Gpu *gpu, DType dtype, void *o, float *lse, const void *q, const void *k,
                           const void *v, const int32_t *selected, void *work, SelectedShape s) {
    auto rung = selected_hopper_supports(gpu, dtype, o, q, k, v, s) ? selected_forward_hopper_cuda
                                                                    : selected_forward_plain_cuda;
    rung(gpu, dtype, o, lse, q, k, v, selected, work, s);
}

size_t selected_backward_scratch_cuda(Gpu *gpu, DType dtype, SelectedShape s) {
    return s.latent && selected_hopper_supports(gpu, dtype, NULL, NULL, NULL, NULL, s)
               ? selected_backward_hopper_scratch(gpu, s)
               : 0;
}

void selected_backward_cuda(Gpu *gpu, DType dtype, void *dq, int add_q, void *dk, int add_k,
                            void *dv, int add_v, void *scratch, const void *d_o, const void *q,
                            const void *k, const void *v, const void *o, const float *lse,
                            const void *work, SelectedShape s) {
    bool hopper = s.latent && selected_hopper_supports(gpu, dtype, o, q, k, v, s);
    (hopper ? selected_backward_hopper_cuda : selected_backward_plain_cuda)(
        gpu, dtype, dq, add_q, dk, add_k, dv, add_v, scratch, d_o, q, k, v, o, lse, work, s);
}
