/*
 * The indexer's loss on the GPU, in passes of as many queries as PASS numbers have rows for: p and
 * I of a pass, [queries, T] each, are all that is ever stored.
 *
 *   attention_row, index_row   p and I: eight threads for a key, whose numbers they read side by
 *                              side; the query's lie in shared memory
 *   divergence                 a block for each query: loss, and dI in the place of I
 *   query_gradient             a block for each query, 32 keys at a time: dq and dw
 *   key_gradient               a block for eight keys, the pass's queries in order: dk
 *
 * Every sum has one order. Queries of p and I share no keys: these come from the L2 cache.
 */
#include "10_full_model/sparse/index_kernels.h"
#include "10_full_model/sparse/index_loss.h"
#include "common/cuda/gpu.cuh"

enum {
    THREADS = 256,
    TEAM = 8,             /* threads for a key */
    KEYS = 256,           /* keys of a block of p or I */
    TILE = 32,            /* keys at a time, for a query's gradient */
    WARPS = THREADS / 32, /* keys of a block, for a key's gradient */
    PASS = 1 << 22
};

/* The rows of a pass: i is query min(base + i step, all - 1) of all B T. */
struct Pass {
    IndexLossInput in;
    IndexLossShape s;
    const int32_t *counts; /* of the lists */
    int64_t base;
    int step, rows;
};

struct Row {
    int64_t query;
    int b, t, keys;
    const int32_t *list; /* NULL: keys 0 .. keys - 1 */
    __device__ int at(int e) const { return list ? list[e] : e; }
};

static __device__ __forceinline__ Row row_of(const Pass &p, int i) {
    int T = p.s.tokens;
    Row r;
    r.query = min(p.base + (int64_t)i * p.step, (int64_t)p.s.batch * T - 1);
    r.b = (int)(r.query / T), r.t = (int)(r.query % T);
    r.keys = p.in.lists ? p.counts[r.query] : r.t + 1;
    r.list = p.in.lists ? p.in.lists + r.query * p.s.count : NULL;
    return r;
}

/* The sum over a team; each of its threads gets it. */
static __device__ __forceinline__ float team_sum(float x) {
    for (int offset = TEAM / 2; offset; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
    return x;
}

/* q . k of d numbers, of which a team has every eighth. */
template <typename Q, typename T>
static __device__ __forceinline__ float team_dot(const Q *q, const T *k, int d) {
    float sum = 0.0f;
    for (int c = threadIdx.x % TEAM; c < d; c += TEAM) sum += to_float(q[c]) * to_float(k[c]);
    return team_sum(sum);
}

/* The sum, or the maximum, over a block, in one order; every thread gets it. */
template <bool MAX> static __device__ float block_reduce(float x) {
    __shared__ float warps[WARPS];
    x = MAX ? warp_max(x) : warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = warps[0];
    for (int i = 1; i < WARPS; i++) x = MAX ? fmaxf(x, warps[i]) : x + warps[i];
    return x;
}

template <typename T> static __device__ void to_shared(float *to, const T *from, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = to_float(from[i]);
}

/* lse [rows, H] over all keys that a row's list, or the row, sees. grid (rows, H). */
template <typename T>
__global__ void __launch_bounds__(THREADS) lse_kernel(float *lse, const __grid_constant__ Pass p) {
    extern __shared__ float q[];
    Row r = row_of(p, blockIdx.x);
    int H = p.s.heads, qk = p.s.qk_dim, h = blockIdx.y, kv_h = p.s.kv_heads == 1 ? 0 : h;
    to_shared(q, (const T *)p.in.q + (r.query * H + h) * qk, qk);
    __syncthreads();
    float top = -INFINITY, sum = 0.0f;
    for (int e0 = 0; e0 < r.keys; e0 += THREADS / TEAM) {
        int e = e0 + threadIdx.x / TEAM, j = r.at(min(e, r.keys - 1));
        const T *k =
            (const T *)p.in.k + (((int64_t)r.b * p.s.tokens + j) * p.s.kv_heads + kv_h) * qk;
        float x = p.s.attention_scale * team_dot(q, k, qk);
        if (e >= r.keys) continue;
        float higher = fmaxf(top, x);
        sum = sum * expf(top - higher) + expf(x - higher), top = higher;
    }
    float all = block_reduce<true>(top);
    sum = top == -INFINITY || threadIdx.x % TEAM ? 0.0f : sum * expf(top - all);
    sum = block_reduce<false>(sum);
    if (threadIdx.x == 0) lse[(int64_t)blockIdx.x * H + h] = all + logf(sum);
}

/* p [rows, T]. grid (rows, T / KEYS). lse, of each head: own [rows, H], by rows of the
 * pass; NULL: in.lse. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    attention_row_kernel(float *out, const float *own, const __grid_constant__ Pass p) {
    extern __shared__ float
        lse[]; /* [H], then the query as it is, [H, qk]: 147 KB of V3's latents */
    Row r = row_of(p, blockIdx.x);
    int H = p.s.heads, qk = p.s.qk_dim, tokens = p.s.tokens, first = blockIdx.y * KEYS;
    T *q = (T *)(lse + H);
    if (first >= r.keys) return; /* all threads alike */
    for (int i = threadIdx.x; i < H * qk; i += THREADS)
        q[i] = ((const T *)p.in.q)[r.query * H * qk + i];
    for (int h = threadIdx.x; h < H; h += THREADS)
        lse[h] = own ? own[(int64_t)blockIdx.x * H + h]
                     : p.in.lse[((int64_t)r.b * H + h) * tokens + r.t];
    __syncthreads();
    for (int e0 = first; e0 < min(first + KEYS, r.keys); e0 += THREADS / TEAM) {
        int e = e0 + threadIdx.x / TEAM, j = r.at(min(e, r.keys - 1));
        const T *k = (const T *)p.in.k + ((int64_t)r.b * tokens + j) * p.s.kv_heads * qk;
        float sum = 0.0f;
        for (int h = 0; h < H; h++) {
            const T *k_h = p.s.kv_heads == 1 ? k : k + h * qk;
            sum += expf(p.s.attention_scale * team_dot(q + h * qk, k_h, qk) - lse[h]) / (float)H;
        }
        if (threadIdx.x % TEAM == 0 && e < r.keys) out[(int64_t)blockIdx.x * tokens + e] = sum;
    }
}

/* I [rows, T]. alive [Hi]: which heads had a positive product; or NULL. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    index_row_kernel(float *out, int *alive, const __grid_constant__ Pass p) {
    extern __shared__ float q[]; /* [Hi, D], then w [Hi] */
    Row r = row_of(p, blockIdx.x);
    int H = p.s.index_heads, D = p.s.index_dim, first = blockIdx.y * KEYS;
    float *w = q + H * D;
    if (first >= r.keys) return;
    to_shared(q, (const T *)p.in.iq + r.query * H * D, H * D);
    to_shared(w, p.in.iw + r.query * H, H);
    __syncthreads();
    for (int e0 = first; e0 < min(first + KEYS, r.keys); e0 += THREADS / TEAM) {
        int e = e0 + threadIdx.x / TEAM, j = r.at(min(e, r.keys - 1));
        const T *k = (const T *)p.in.ik + ((int64_t)r.b * p.s.tokens + j) * D;
        float sum = 0.0f;
        for (int h = 0; h < H; h++) {
            float d = team_dot(q + h * D, k, D);
            sum += w[h] * fmaxf(d, 0.0f);
            if (alive && d > 0.0f && threadIdx.x % TEAM == 0) alive[h] = 1;
        }
        if (threadIdx.x % TEAM == 0 && e < r.keys)
            out[(int64_t)blockIdx.x * p.s.tokens + e] = p.s.index_scale * sum;
    }
}

/* losses of the rows; I becomes dI, times the index scale. lines: the same by position, or NULL. */
static __global__ void __launch_bounds__(THREADS)
    divergence_kernel(float *losses, float *scores, float *lines, const float *probabilities,
                      const __grid_constant__ Pass p) {
    Row r = row_of(p, blockIdx.x);
    float *x = scores + (int64_t)blockIdx.x * p.s.tokens;
    const float *q = probabilities + (int64_t)blockIdx.x * p.s.tokens;
    float top = -INFINITY, sum = 0.0f, whole = 0.0f, loss = 0.0f;
    float rows = (float)((int64_t)p.s.batch * p.s.tokens);
    for (int e = threadIdx.x; e < r.keys; e += THREADS) top = fmaxf(top, x[e]);
    top = block_reduce<true>(top);
    for (int e = threadIdx.x; e < r.keys; e += THREADS) sum += expf(x[e] - top), whole += q[e];
    float lse = top + logf(block_reduce<false>(sum));
    whole = block_reduce<false>(whole);
    for (int e = threadIdx.x; e < r.keys; e += THREADS) {
        if (q[e] > 0.0f) loss += q[e] * (logf(q[e]) - (x[e] - lse));
        x[e] = p.s.index_scale * (expf(x[e] - lse) * whole - q[e]) / rows;
        if (lines) lines[(int64_t)blockIdx.x * p.s.tokens + r.list[e]] = x[e];
    }
    loss = block_reduce<false>(loss);
    if (threadIdx.x == 0) losses[r.query] = loss;
}

/* dq and dw of a query: in shared memory the query and dq, [Hi, D], 32 keys, and what each of them
 * gives to each head. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    query_gradient_kernel(T *dq, float *dw, const float *scores, const __grid_constant__ Pass p) {
    extern __shared__ float q[];
    Row r = row_of(p, blockIdx.x);
    int H = p.s.index_heads, D = p.s.index_dim, lane = threadIdx.x % 32;
    float *sum = q + H * D, *k = sum + H * D, *to_head = k + TILE * (D + 1);
    float *w = to_head + TILE * H, *w_sum = w + H;
    const float *g = scores + (int64_t)blockIdx.x * p.s.tokens;
    to_shared(q, (const T *)p.in.iq + r.query * H * D, H * D);
    to_shared(w, p.in.iw + r.query * H, H);
    for (int i = threadIdx.x; i < H * D; i += THREADS) sum[i] = 0.0f;
    for (int h = threadIdx.x; h < H; h += THREADS) w_sum[h] = 0.0f;
    for (int first = 0; first < r.keys; first += TILE) {
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * D; i += THREADS) {
            int e = first + i / D;
            int64_t row = (int64_t)r.b * p.s.tokens + (e < r.keys ? r.at(e) : 0);
            k[i / D * (D + 1) + i % D] =
                e < r.keys ? to_float(((const T *)p.in.ik)[row * D + i % D]) : 0.0f;
        }
        __syncthreads();
        float mine = first + lane < r.keys ? g[first + lane] : 0.0f;
        for (int h = threadIdx.x / 32; h < H; h += WARPS) { /* a lane has a key */
            float d = 0.0f;
            for (int c = 0; c < D; c++) d += q[h * D + c] * k[lane * (D + 1) + c];
            to_head[lane * H + h] = d > 0.0f ? mine * w[h] : 0.0f; /* ReLU */
            float of_w = warp_sum(mine * fmaxf(d, 0.0f));
            if (lane == 0) w_sum[h] += of_w;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < H * D; i += THREADS) {
            float x = sum[i];
            for (int e = 0; e < TILE; e++) x += to_head[e * H + i / D] * k[e * (D + 1) + i % D];
            sum[i] = x;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < H * D; i += THREADS)
        dq[r.query * H * D + i] = from_float<T>(sum[i]);
    for (int h = threadIdx.x; h < H; h += THREADS) dw[r.query * H + h] = w_sum[h];
}

/* dk [B, T, D] += what the queries of the pass's blockIdx.y-th sequence have for eight keys, a warp
 * each; 32 queries at a time say which of them any key needs. lines [rows, T]: dI by position. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    key_gradient_kernel(float *dk, const float *lines, const __grid_constant__ Pass p) {
    extern __shared__ float q[]; /* [Hi, D]; w [Hi]; key and sum, [WARPS, D] */
    __shared__ unsigned wanted[WARPS];
    int H = p.s.index_heads, D = p.s.index_dim, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *w = q + H * D, *k = w + H + warp * D, *sum = w + H + (WARPS + warp) * D;
    int start = blockIdx.y * p.s.tokens, rows = min(p.rows - start, p.s.tokens);
    Row first = row_of(p, start);
    int j = blockIdx.x * WARPS + warp;
    bool valid = j < p.s.tokens;
    int64_t key = (int64_t)first.b * p.s.tokens + (valid ? j : 0);
    for (int c = lane; c < D; c += 32) {
        k[c] = to_float(((const T *)p.in.ik)[key * D + c]);
        sum[c] = 0.0f;
    }
    for (int i0 = 0; i0 < rows; i0 += 32) {
        int i = i0 + lane;
        float own = valid && i < rows && j <= first.t + i
                        ? lines[(int64_t)(start + i) * p.s.tokens + j]
                        : 0.0f;
        unsigned mine = __ballot_sync(~0u, own != 0.0f), any = 0;
        __syncthreads(); /* all have read what was wanted before */
        if (lane == 0) wanted[warp] = mine;
        __syncthreads();
        for (int i = 0; i < WARPS; i++) any |= wanted[i];
        for (; any; any &= any - 1) {
            int at = __ffs(any) - 1;
            int64_t query = first.query + i0 + at;
            __syncthreads();
            to_shared(q, (const T *)p.in.iq + query * H * D, H * D);
            to_shared(w, p.in.iw + query * H, H);
            __syncthreads();
            float g = __shfl_sync(~0u, own, at);
            for (int h = 0; h < H && g != 0.0f; h++) {
                float d = 0.0f;
                for (int c = lane; c < D; c += 32) d += q[h * D + c] * k[c];
                if (warp_sum(d) <= 0.0f) continue;
                for (int c = lane; c < D; c += 32) sum[c] += g * w[h] * q[h * D + c];
            }
        }
    }
    for (int c = lane; c < D && valid; c += 32) dk[key * D + c] += sum[c];
}

template <typename T> __global__ void round_kernel(T *to, const float *from, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        to[i] = from_float<T>(from[i]);
}

/* ---- host ---- */

/* Rows of a pass: a part of one sequence, or several whole ones. */
static int pass_rows(const IndexLossShape &s) {
    int rows = PASS / s.tokens;
    if (rows < s.tokens) return rows < 1 ? 1 : rows;
    rows -= rows % s.tokens;
    return rows < s.batch * s.tokens ? rows : s.batch * s.tokens;
}

/* A dynamic block of shared memory, which this GPU must have. */
static size_t shared_floats(const Gpu *gpu, int64_t floats) {
    CHECK(floats * 4 <= gpu->shared_memory_max,
          "index_loss: a query takes %lld bytes of shared memory; this GPU has %d",
          (long long)floats * 4, gpu->shared_memory_max);
    return (size_t)floats * 4;
}

template <typename T>
static void rows_of_pass(Gpu *gpu, float *p, float *scores, int *alive, const float *lse,
                         const Pass &pass) {
    const IndexLossShape &s = pass.s;
    int most = pass.in.lists ? s.count : s.tokens;
    dim3 grid((unsigned)pass.rows, (unsigned)ceil_div(most, KEYS));
    gpu_launch(gpu, attention_row_kernel<T>, grid, THREADS,
               shared_floats(gpu, s.heads + ceil_div((int64_t)s.heads * s.qk_dim * sizeof(T), 4)),
               p, lse, pass);
    gpu_launch(gpu, index_row_kernel<T>, grid, THREADS,
               shared_floats(gpu, (int64_t)s.index_heads * (s.index_dim + 1)), scores, alive, pass);
}

template <typename T>
static void gradients(Gpu *gpu, T *dq, float *dk, float *dw, const float *scores,
                      const float *lines, const Pass &pass) {
    int64_t H = pass.s.index_heads, D = pass.s.index_dim;
    gpu_launch(gpu, query_gradient_kernel<T>, (unsigned)pass.rows, THREADS,
               shared_floats(gpu, 2 * H * D + TILE * (D + 1) + TILE * H + 2 * H), dq, dw, scores,
               pass);
    dim3 keys((unsigned)ceil_div(pass.s.tokens, WARPS),
              (unsigned)ceil_div(pass.rows, pass.s.tokens));
    gpu_launch(gpu, key_gradient_kernel<T>, keys, THREADS,
               shared_floats(gpu, H * D + H + 2 * WARPS * D), dk, lines, pass);
}

/* What lies where: p, I and dI by position of a pass; dk; and for the measures lse and lists. */
struct Scratch {
    float *p, *scores, *lines, *dk, *lse, *found;
    int32_t *lists, *lengths;
    int *alive;
    size_t bytes;
    Scratch(float *scratch, const IndexLossShape &s) {
        int64_t rows = pass_rows(s), at = 0, row = rows * s.tokens;
        p = scratch + at, at += row;
        scores = scratch + at, at += row;
        lines = scratch + at, at += row;
        dk = scratch + at, at += (int64_t)s.batch * s.tokens * s.index_dim;
        lse = scratch + at, at += rows * s.heads;
        found = scratch + at, at += rows * 3;
        lists = (int32_t *)scratch + at, at += rows * 2 * s.topk;
        lengths = (int32_t *)scratch + at, at += rows;
        alive = (int *)scratch + at, at += s.index_heads;
        bytes = (size_t)at * 4;
    }
};

size_t index_loss_scratch_cuda(Gpu *, DType, IndexLossShape s) { return Scratch(NULL, s).bytes; }

void index_loss_cuda(Gpu *gpu, DType dtype, float *losses, void *dq, void *dk, float *dw,
                     void *scratch, IndexLossInput in, IndexLossShape s) {
    Scratch w((float *)scratch, s);
    int64_t all = (int64_t)s.batch * s.tokens, keys = all * s.index_dim;
    Pass pass = {in, s, in.lists ? in.lists + all * s.count : NULL, 0, 1, 0};
    if (dk) gpu_set(gpu, w.dk, 0, (size_t)keys * sizeof(float));
    for (int64_t b = 0; b < s.batch; b++)
        for (int t = 0; t < s.tokens; t += pass.rows) {
            pass.base = b * s.tokens + t;
            pass.rows = s.tokens - t < pass_rows(s) ? s.tokens - t : pass_rows(s);
            float *lines = in.lists ? w.lines : NULL;
            if (lines && dk)
                gpu_set(gpu, lines, 0, (size_t)pass.rows * (size_t)s.tokens * sizeof(float));
            DTYPE_SWITCH(dtype, T, rows_of_pass<T>(gpu, w.p, w.scores, NULL, NULL, pass));
            gpu_launch(gpu, divergence_kernel, (unsigned)pass.rows, THREADS, 0, losses, w.scores,
                       lines, w.p, pass);
            if (dk)
                DTYPE_SWITCH(
                    dtype, T,
                    gradients<T>(gpu, (T *)dq, w.dk, dw, w.scores, lines ? lines : w.scores, pass));
        }
    if (dk)
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, round_kernel<T>, (unsigned)gpu_blocks(gpu, 256, keys), 256, 0,
                                dk, w.dk, keys));
}

/* ---- measures ---- */

static __global__ void lengths_kernel(int32_t *lengths, const __grid_constant__ Pass p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.rows) lengths[i] = row_of(p, i).keys;
}

/* found [rows, 3]: recall, mass and the best mass of each row; of one that sees no more than k: -1.
 * lists [2, rows, k], ascending: the k largest of p, of I. A block for each row. */
static __global__ void __launch_bounds__(THREADS)
    compare_kernel(float *found, const int32_t *lists, const float *probabilities,
                   const __grid_constant__ Pass p) {
    int k = p.s.topk, i = blockIdx.x;
    const int32_t *best = lists + (int64_t)i * k, *own = lists + ((int64_t)p.rows + i) * k;
    const float *row = probabilities + (int64_t)i * p.s.tokens;
    float recall = 0.0f, mass = 0.0f, most = 0.0f;
    bool counts = row_of(p, i).keys > k; /* for all threads alike */
    for (int e = threadIdx.x; e < k && counts; e += THREADS) {
        int low = 0;
        for (int high = k; low < high;) {
            int middle = (low + high) / 2;
            if (best[middle] < own[e])
                low = middle + 1;
            else
                high = middle;
        }
        recall += low < k && best[low] == own[e];
        mass += row[own[e]], most += row[best[e]];
    }
    recall = block_reduce<false>(recall), mass = block_reduce<false>(mass);
    most = block_reduce<false>(most);
    if (threadIdx.x) return;
    found[3 * i] = counts ? recall / (float)k : -1.0f;
    found[3 * i + 1] = mass, found[3 * i + 2] = most;
}

/* out [5] += what the rows found. One block, in one order. */
static __global__ void __launch_bounds__(THREADS)
    found_kernel(float *out, const float *found, int rows) {
    float sums[4] = {};
    for (int i = threadIdx.x; i < rows; i += THREADS) {
        if (found[3 * i] < 0.0f) continue;
        sums[0] += 1.0f;
        for (int j = 0; j < 3; j++) sums[j + 1] += found[3 * i + j];
    }
    for (int j = 0; j < 4; j++) {
        float sum = block_reduce<false>(sums[j]);
        if (threadIdx.x == 0) out[j] += sum;
    }
}

static __global__ void alive_kernel(float *out, const int *alive, int heads) {
    int sum = 0;
    for (int h = 0; h < heads; h++) sum += alive[h];
    out[4] = (float)sum;
}

void index_measure_cuda(Gpu *gpu, DType dtype, float *out, void *scratch, IndexLossInput in,
                        IndexLossShape s) {
    Scratch w((float *)scratch, s);
    int64_t sampled = ceil_div((int64_t)s.batch * s.tokens, INDEX_MEASURED);
    bool chose = in.lists != NULL; /* then lse is of the chosen keys, and made anew for all */
    in.lists = NULL;
    Pass pass = {in, s, NULL, 0, INDEX_MEASURED, 0};
    gpu_set(gpu, out, 0, 5 * sizeof *out);
    gpu_set(gpu, w.alive, 0, (size_t)s.index_heads * sizeof *w.alive);
    for (int64_t first = 0; first < sampled; first += pass.rows) {
        pass.base = (first + 1) * INDEX_MEASURED - 1;
        pass.rows = (int)(sampled - first < pass_rows(s) ? sampled - first : pass_rows(s));
        size_t query = shared_floats(gpu, s.qk_dim);
        DTYPE_SWITCH(dtype, T, {
            if (chose)
                gpu_launch(gpu, lse_kernel<T>, dim3((unsigned)pass.rows, (unsigned)s.heads),
                           THREADS, query, w.lse, pass);
            rows_of_pass<T>(gpu, w.p, w.scores, w.alive, chose ? w.lse : NULL, pass);
        });
        gpu_launch(gpu, lengths_kernel, (unsigned)ceil_div(pass.rows, 256), 256, 0, w.lengths,
                   pass);
        IndexShape rows = {}; /* each row a sequence of its own */
        rows.batch = pass.rows, rows.q_len = rows.count = 1, rows.kv_len = s.tokens;
        rows.lengths = w.lengths;
        top_k_cuda(gpu, F32, w.lists, w.p, s.topk, rows);
        top_k_cuda(gpu, F32, w.lists + (int64_t)pass.rows * s.topk, w.scores, s.topk, rows);
        gpu_launch(gpu, compare_kernel, (unsigned)pass.rows, THREADS, 0, w.found, w.lists, w.p,
                   pass);
        gpu_launch(gpu, found_kernel, 1, THREADS, 0, out, w.found, pass.rows);
    }
    gpu_launch(gpu, alive_kernel, 1, 1, 0, out, w.alive, s.index_heads);
}

/* ---- the operation's own ---- */

/* One block, in one order. */
static __global__ void __launch_bounds__(THREADS)
    mean_kernel(float *mean, const float *x, int64_t n) {
    __shared__ double sums[THREADS];
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum += x[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x) return;
    for (int i = 1; i < THREADS; i++) sum += sums[i];
    *mean = (float)(sum / (double)n);
}

void index_mean_cuda(Gpu *gpu, DType, float *mean, const float *x, int64_t n) {
    gpu_launch(gpu, mean_kernel, 1, THREADS, 0, mean, x, n);
}

template <typename T>
__global__ void multiply_kernel(T *to, int add, const T *from, const float *factor, int64_t n) {
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        float x = *factor * to_float(from[i]);
        to[i] = from_float<T>(add ? to_float(to[i]) + x : x);
    }
}

void index_multiply_cuda(Gpu *gpu, DType dtype, void *to, int add, const void *from,
                         const float *factor, int64_t n) {
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, multiply_kernel<T>, (unsigned)gpu_blocks(gpu, 256, n), 256, 0, to,
                            add, from, factor, n));
}
