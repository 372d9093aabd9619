/*
 * The feed-forward half of a block for a few tokens. See ffn_few.h; the products: common/skinny.cuh.
 *
 * Bytes: the weights of the experts that are chosen, once. What limits with one token: the chain
 * norm, router, choice, weights of the chosen, each of which waits for the one before. The shared
 * experts' weights, and with many tokens those of all experts, need not wait for the choice, nor
 * for the kernel in front (common/early.cuh).
 */
#include "../common/skinny.cuh"
#include "ffn_few.h"
#include "router.cuh"

enum { UP_WARPS = 8, UP_AHEAD = 2, DOWN_WARPS = 16, DOWN_AHEAD = 3 };
enum { MOST = FFN_FEW_EXPERTS };

/* Few tokens: blocks for the chosen experts of each; else for all experts. */
static __host__ __device__ __forceinline__ bool by_choice(const FfnFew &f) {
    return f.rows * f.route.top_k < f.route.experts;
}
static __host__ __device__ __forceinline__ int jobs(const FfnFew &f) {
    return by_choice(f) ? f.rows * f.route.top_k : f.route.experts;
}

/* ---- up ---- */

template <typename T, int NT> struct UpShared {
    typedef SkinnyParts<NT, UP_WARPS> Parts;
    Parts parts[2]; /* gate and up */
    /* then the rows, T [rows, stride], and what the router says of them */
    static __host__ __device__ size_t rows_at() { return sizeof(UpShared); }
    static __host__ __device__ size_t logits_at(const FfnFew &f) {
        return rows_at() + (size_t)f.rows * skinny_stride<T>(f.hidden) * sizeof(T);
    }
    static __host__ __device__ size_t weights_at(const FfnFew &f) {
        return logits_at(f) + (size_t)f.rows * f.route.experts * sizeof(float);
    }
    static __host__ __device__ size_t indices_at(const FfnFew &f) {
        return weights_at(f) + (size_t)f.rows * f.route.top_k * sizeof(float);
    }
    static __host__ __device__ size_t end(const FfnFew &f) {
        return indices_at(f) + (size_t)f.rows * f.route.top_k * sizeof(int32_t);
    }
};

/* The block's choice of experts for all rows, into shared memory; block 0 tells the next kernel.
 * `sum` has begun with the first 16 experts. */
template <typename T, int NT, typename Sum>
static __device__ __forceinline__ void route(const FfnFew &f, unsigned char *memory, Sum &sum,
                                             const SkinnyRows<T> &x) {
    typedef UpShared<T, NT> Shared;
    auto &parts = ((Shared *)memory)->parts[0];
    float *logits = (float *)(memory + Shared::logits_at(f));
    float *weights = (float *)(memory + Shared::weights_at(f));
    int32_t *indices = (int32_t *)(memory + Shared::indices_at(f));
    int warp = threadIdx.x / 32, E = f.route.experts, K = f.route.top_k;
    for (int first = 0; first < E; first += SKINNY_TILE) {
        if (first)
            sum.begin((const T *)f.router + (int64_t)first * f.hidden, f.hidden, E - first, warp,
                      UP_WARPS);
        sum.run(x);
        parts.put(sum.sum);
        __syncthreads();
        for (int i = threadIdx.x; i < SKINNY_TILE * f.rows; i += 32 * UP_WARPS) {
            int j = i % SKINNY_TILE, n = i / SKINNY_TILE;
            if (first + j < E) logits[n * E + first + j] = parts.total(j, n);
        }
        __syncthreads();
    }
    for (int n = warp; n < f.rows; n += UP_WARPS) {
        bool bad = route_token<MOST / 32>(NULL, indices + n * K, weights + n * K, logits + n * E,
                                          f.bias, f.route);
        if (bad && blockIdx.x == 0) report_bad(f.status, n);
    }
    __syncthreads();
    for (int i = threadIdx.x; blockIdx.x == 0 && i < f.rows * K; i += 32 * UP_WARPS)
        f.indices[i] = indices[i], f.weights[i] = weights[i];
}

/* Which row of h gets expert `expert`'s result for row n: -1 if n did not choose it. */
static __device__ __forceinline__ int slot_of(const int32_t *indices, int n, int expert, int K) {
    for (int k = 0; k < K; k++)
        if (indices[n * K + k] == expert) return n * K + k;
    return -1;
}

/* h = silu(gate) * up, for the rows that want it; slot(n) is the row of h or -1. */
template <typename T, int NT, typename Slot>
static __device__ __forceinline__ void write_h(const FfnFew &f, const UpShared<T, NT> &shared, T *h,
                                               int width, int first, const Slot &slot) {
    for (int i = threadIdx.x; i < SKINNY_TILE * f.rows; i += 32 * UP_WARPS) {
        int j = i % SKINNY_TILE, n = i / SKINNY_TILE, row = slot(n);
        if (row < 0) continue;
        float gate = shared.parts[0].total(j, n), up = shared.parts[1].total(j, n);
        h[(int64_t)row * width + first + j] = from_float<T>(gate / (1.0f + __expf(-gate)) * up);
    }
}

/* Blocks: 16 columns of each job's expert; behind them 16 columns each of the shared one. */
template <typename T, int NT>
__global__ void __launch_bounds__(32 * UP_WARPS) up_kernel(const __grid_constant__ FfnFew f) {
    extern __shared__ __align__(16) unsigned char memory[];
    typedef UpShared<T, NT> Shared;
    static_assert(sizeof(Shared) % 16 == 0, "the rows begin behind it");
    Shared &shared = *(Shared *)memory;
    T *rows = (T *)(memory + Shared::rows_at());
    const int32_t *indices = (const int32_t *)(memory + Shared::indices_at(f));
    int warp = threadIdx.x / 32, tiles = f.inner / SKINNY_TILE, K = f.route.top_k;
    int routed = jobs(f) * tiles;
    bool is_shared = (int)blockIdx.x >= routed;
    int job = is_shared ? 0 : blockIdx.x / tiles;
    int first = (is_shared ? blockIdx.x - routed : blockIdx.x % tiles) * SKINNY_TILE;

    SkinnySum<T, NT, UP_AHEAD> gate, up, logits;
    auto begin = [&](const void *gate_w, const void *up_w, int64_t row) {
        gate.begin((const T *)gate_w + row * f.hidden, f.hidden, SKINNY_TILE, warp, UP_WARPS);
        up.begin((const T *)up_w + row * f.hidden, f.hidden, SKINNY_TILE, warp, UP_WARPS);
    };
    if (is_shared)
        begin(f.shared_gate, f.shared_up, first);
    else
        logits.begin((const T *)f.router, f.hidden, f.route.experts, warp, UP_WARPS);
    if (!is_shared && !by_choice(f)) begin(f.gate_proj, f.up_proj, (int64_t)job * f.inner + first);
    early_go();
    early_wait();
    skinny_rmsnorm(rows, (const T *)f.x, f.hidden, f.rows, (const T *)f.norm, f.hidden, f.eps);
    __syncthreads();
    SkinnyRows<T> x = {rows, skinny_stride<T>(f.hidden), f.rows};
    int expert = job;
    if (!is_shared) {
        route<T, NT>(f, memory, logits, x);
        bool wanted = by_choice(f);
        if (wanted) {
            expert = indices[job];
            begin(f.gate_proj, f.up_proj, (int64_t)expert * f.inner + first);
        } else {
            wanted = (int)threadIdx.x < f.rows && slot_of(indices, threadIdx.x, expert, K) >= 0;
        }
        if (!__syncthreads_or(wanted)) return;
    }
    gate.run(x);
    up.run(x);
    shared.parts[0].put(gate.sum);
    shared.parts[1].put(up.sum);
    __syncthreads();
    if (is_shared)
        write_h(f, shared, (T *)f.h_shared, f.shared_inner, first, [](int n) { return n; });
    else if (by_choice(f))
        write_h(f, shared, (T *)f.h, f.inner, first,
                [&](int n) { return n == job / K ? job : -1; });
    else
        write_h(f, shared, (T *)f.h, f.inner, first,
                [&](int n) { return slot_of(indices, n, expert, K); });
}

/* ---- down ---- */

/* The experts that some row wants, in a list, and for each what every row makes of it. */
template <int NT> struct DownShared {
    SkinnyParts<NT, DOWN_WARPS> parts;
    float weight[MOST][8 * NT];
    short slot[MOST][8 * NT]; /* row of h, or -1 */
    short expert[MOST], list[MOST];
    bool wanted[MOST];
    int count;
};

template <int NT>
static __device__ __forceinline__ void list_experts(DownShared<NT> &shared, const FfnFew &f) {
    int n = threadIdx.x % 32, warp = threadIdx.x / 32, K = f.route.top_k, all = jobs(f);
    for (int a = warp; a < all; a += DOWN_WARPS) {
        int slot = -1;
        if (n < f.rows) slot = !by_choice(f) ? slot_of(f.indices, n, a, K) : n == a / K ? a : -1;
        if (n < 8 * NT) {
            shared.slot[a][n] = (short)slot;
            shared.weight[a][n] = slot < 0 ? 0 : f.weights[slot];
        }
        bool wanted = __any_sync(~0u, slot >= 0);
        if (n == 0) {
            shared.wanted[a] = wanted;
            shared.expert[a] = (short)(by_choice(f) ? f.indices[a] : a);
        }
    }
    __syncthreads();
    if (warp) return;
    int count = 0;
    for (int a = n; a < (all + 31) / 32 * 32; a += 32) {
        bool mine = a < all && shared.wanted[a];
        unsigned lanes = __ballot_sync(~0u, mine);
        if (mine) shared.list[count + __popc(lanes & ((1u << n) - 1))] = (short)a;
        count += __popc(lanes);
    }
    if (n == 0) shared.count = count;
}

/* grid: 16 columns of y each. The sum over all experts is one long sum, whose chunks are dealt out
 * to the warps, the shared expert's first. */
template <typename T, int NT>
__global__ void __launch_bounds__(32 * DOWN_WARPS) down_kernel(const __grid_constant__ FfnFew f) {
    extern __shared__ __align__(16) unsigned char memory[];
    DownShared<NT> &shared = *(DownShared<NT> *)memory;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * SKINNY_TILE;
    int own = f.shared_inner / SKINNY_CHUNK, each = f.inner / SKINNY_CHUNK, end = own;
    SkinnyChunk<T> ahead[DOWN_AHEAD];
    auto fetch = [&](int i, int u) {
        bool is_shared = u < own;
        int width = is_shared ? f.shared_inner : f.inner;
        int64_t matrix = is_shared ? 0 : shared.expert[shared.list[(u - own) / each]];
        const T *low = (const T *)(is_shared ? f.shared_down : f.down_proj) +
                       (matrix * f.hidden + first + lane / 4) * width;
        ahead[i].load(low, low + 8 * (int64_t)width,
                      (is_shared ? u : (u - own) % each) * SKINNY_CHUNK);
    };
#pragma unroll
    for (int i = 0; i < DOWN_AHEAD; i++)
        if (warp + i * DOWN_WARPS < own) fetch(i, warp + i * DOWN_WARPS);
    early_go();
    early_wait();
    if (f.route.experts) {
        list_experts(shared, f);
        __syncthreads();
        end += shared.count * each;
    }
#pragma unroll
    for (int i = 0; i < DOWN_AHEAD; i++) {
        int u = warp + i * DOWN_WARPS;
        if (u >= own && u < end) fetch(i, u);
    }
    float total[NT][4] = {};
    for (int from = warp; from < end; from += DOWN_AHEAD * DOWN_WARPS)
#pragma unroll
        for (int i = 0; i < DOWN_AHEAD; i++) {
            int u = from + i * DOWN_WARPS;
            if (u >= end) break;
            if (u < own) {
                SkinnyRows<T> x = {(const T *)f.h_shared, f.shared_inner, f.rows};
                ahead[i].multiply(total, x, u * SKINNY_CHUNK);
            } else {
                int a = shared.list[(u - own) / each];
                float part[NT][4] = {};
                auto x = [&](int n) {
                    int slot = shared.slot[a][n];
                    return slot < 0 ? nullptr : (const T *)f.h + (int64_t)slot * f.inner;
                };
                ahead[i].multiply(part, x, (u - own) % each * SKINNY_CHUNK);
#pragma unroll
                for (int t = 0; t < NT; t++)
#pragma unroll
                    for (int k = 0; k < 4; k++)
                        total[t][k] += shared.weight[a][8 * t + lane % 4 * 2 + k % 2] * part[t][k];
            }
            if (u + DOWN_AHEAD * DOWN_WARPS < end) fetch(i, u + DOWN_AHEAD * DOWN_WARPS);
        }
    shared.parts.put(total);
    __syncthreads();
    for (int i = threadIdx.x; i < SKINNY_TILE * f.rows; i += 32 * DOWN_WARPS) {
        int j = i % SKINNY_TILE, n = i / SKINNY_TILE;
        int64_t at = (int64_t)n * f.hidden + first + j;
        ((T *)f.y)[at] = from_float<T>(to_float(((const T *)f.x)[at]) + shared.parts.total(j, n));
    }
}

/* ---- launches ---- */

static size_t up_shared(DType dtype, const FfnFew *f) {
    size_t bytes;
    SKINNY_SWITCH(f->rows, NT,
                  bytes =
                      dtype == BF16 ? UpShared<bf16, NT>::end(*f) : UpShared<float, NT>::end(*f));
    return bytes;
}

extern "C" int ffn_few_kernels_support(const Gpu *gpu, DType dtype, const FfnFew *f) {
    uintptr_t all = (uintptr_t)f->x | (uintptr_t)f->norm | (uintptr_t)f->router |
                    (uintptr_t)f->gate_proj | (uintptr_t)f->up_proj | (uintptr_t)f->down_proj |
                    (uintptr_t)f->shared_gate | (uintptr_t)f->shared_up | (uintptr_t)f->shared_down;
    return (dtype == F32 || (dtype == BF16 && gpu->compute_capability >= 80)) && f->rows > 0 &&
           f->rows <= FEW_ROWS && f->route.experts <= FFN_FEW_EXPERTS &&
           (f->hidden | f->inner | f->shared_inner) % SKINNY_CHUNK == 0 && all % 16 == 0 &&
           up_shared(dtype, f) <= (size_t)gpu->shared_memory_max;
}

extern "C" void ffn_few_up_cuda(Gpu *gpu, DType dtype, const FfnFew *f) {
    unsigned blocks =
        (unsigned)(jobs(*f) * (f->inner / SKINNY_TILE) + f->shared_inner / SKINNY_TILE);
    DTYPE_SWITCH(dtype, T,
                 SKINNY_SWITCH(f->rows, NT,
                               early_launch(gpu, up_kernel<T, NT>, dim3(blocks), 32 * UP_WARPS,
                                            up_shared(dtype, f), *f)));
}

extern "C" void ffn_few_down_cuda(Gpu *gpu, DType dtype, const FfnFew *f) {
    unsigned blocks = (unsigned)(f->hidden / SKINNY_TILE);
    DTYPE_SWITCH(dtype, T,
                 SKINNY_SWITCH(f->rows, NT,
                               early_launch(gpu, down_kernel<T, NT>, dim3(blocks), 32 * DOWN_WARPS,
                                            sizeof(DownShared<NT>), *f)));
}
