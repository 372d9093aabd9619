/*
 * The feed-forward half of a block for a few tokens. See ffn_few_rows.h; the products:
 * common/cuda/few_rows.cuh.
 *
 * Bytes: the weights of the experts that are chosen, once. What limits with one token: the chain
 * norm, router, choice, weights of the chosen, each of which waits for the one before. The shared
 * experts' weights, and with many tokens those of all experts, need not wait for the choice, nor
 * for the kernel in front (common/cuda/few_rows_launch.cuh).
 */
#include "05_moe/cuda/router.cuh"
#include "05_moe/decoder/ffn_few_rows.h"
#include "common/cuda/few_rows_codes.cuh"

enum { NORM_WARPS = 8, UP_CHAINS = 8, UP_AHEAD = 2, DOWN_WARPS = 16, DOWN_AHEAD = 3 };
enum { MOST = FFN_FEW_ROWS_EXPERTS };

/* Few tokens: blocks for the chosen experts of each; else for all experts. */
static __host__ __device__ __forceinline__ bool by_choice(const FfnFewRows &f) {
    return f.rows * f.route.top_k < f.route.experts;
}
static __host__ __device__ __forceinline__ int jobs(const FfnFewRows &f) {
    return by_choice(f) ? f.rows * f.route.top_k : f.route.experts;
}

/* ---- norm and choice ---- */

/* A lane's part of an expert's row of the router: two packs, which may come early, and the rest. */
template <typename T> struct RouterRow {
    typedef FewRowsPack<T> Pack;
    static const int STEP = 32 * Pack::SIZE;
    Pack a, b;
    __device__ __forceinline__ void load(const T *w, int d) {
        int k = threadIdx.x % 32 * Pack::SIZE;
        if (k < d) a = *(const Pack *)(w + k);
        if (k + STEP < d) b = *(const Pack *)(w + k + STEP);
    }
    __device__ __forceinline__ float dot(const T *row, const T *w, int d) const {
        int k = threadIdx.x % 32 * Pack::SIZE;
        float sum = 0;
        if (k < d) sum += a.dot(*(const Pack *)(row + k));
        if (k + STEP < d) sum += b.dot(*(const Pack *)(row + k + STEP));
#pragma unroll 1
        for (k += 2 * STEP; k < d; k += STEP)
            sum += ((const Pack *)(w + k))->dot(*(const Pack *)(row + k));
        return warp_sum(sum);
    }
};

/* A block a token: its norm, a warp for each expert's logit, and one that chooses. */
template <typename T, int V>
__global__ void __launch_bounds__(32 * NORM_WARPS)
    choose_kernel(const __grid_constant__ FfnFewRows f) {
    extern __shared__ __align__(16) unsigned char memory[];
    __shared__ float logits[MOST];
    T *row = (T *)memory;
    int n = blockIdx.x, warp = threadIdx.x / 32, d = f.hidden;
    int E = f.route.experts, K = f.route.top_k;
    const T *w = (const T *)f.router + (int64_t)warp * d;
    RouterRow<T> weights;
    if (warp < E) weights.load(w, d);
    few_rows_prefetch((const T *)f.norm, d);
    few_rows_wait();
    few_rows_go();
    const T *x = (const T *)f.x + (int64_t)n * d;
    if (warp < 2) /* for this kernel, and for the next */
        few_rows_norm_row(warp ? (T *)f.normed + (int64_t)n * d : row, x, (const T *)f.norm, d,
                          f.eps);
    __syncthreads();
#pragma unroll 1
    for (int e = warp; e < E; e += NORM_WARPS) {
        float sum = weights.dot(row, w, d);
        if (threadIdx.x % 32 == 0) logits[e] = sum;
        w += (int64_t)NORM_WARPS * d;
        if (e + NORM_WARPS < E) weights.load(w, d);
    }
    __syncthreads();
    if (warp || !E) return;
    bool bad = route_token<V>(NULL, f.indices + n * K, f.weights + n * K, logits, f.bias, f.route);
    if (bad) report_bad(f.status, n);
}

/* ---- up ---- */

/* Which row of h gets expert `expert`'s result for row n: -1 if n did not choose it. */
static __device__ __forceinline__ int slot_of(const int32_t *indices, int n, int expert, int K) {
    int slot = -1;
#pragma unroll 1
    for (int k = 0; k < K; k++)
        if (indices[n * K + k] == expert) slot = n * K + k;
    return slot;
}

/* One block's part of `up`: 16 columns of a SwiGLU. */
struct UpJob {
    bool shared;
    int job, first; /* job: of the routed ones; first column */
    __device__ UpJob(const FfnFewRows &f, int block) {
        int tiles = f.inner / FEW_ROWS_TILE, routed = jobs(f) * tiles;
        shared = block >= routed;
        job = shared ? 0 : block / tiles;
        first = (shared ? block - routed : block - job * tiles) * FEW_ROWS_TILE;
    }
};

/* Asks for the block's share of the expert's W_down, which the next kernel needs. */
template <typename W>
static __device__ __forceinline__ void prefetch_down(const FfnFewRows &f, int expert, int first) {
    /* of hidden * inner numbers, for 16 of inner columns; in bytes */
    int share = FewRowsBytes<W>::of(FEW_ROWS_TILE * f.hidden);
    const char *w = (const char *)f.down_proj.data +
                    ((int64_t)expert * (f.inner / FEW_ROWS_TILE) + first / FEW_ROWS_TILE) * share;
#pragma unroll 1
    for (int i = threadIdx.x * 128; i < share; i += blockDim.x * 128)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(w + i));
    if (!f.down_proj.scale) return;
    const int all = f.down_proj.scale_rows * f.down_proj.scales;
    const float *scale = f.down_proj.scale + (int64_t)expert * all;
    const int threads = f.inner / FEW_ROWS_TILE * blockDim.x; /* of the expert's blocks */
#pragma unroll 1
    for (int i = first / FEW_ROWS_TILE * blockDim.x + threadIdx.x; i * 32 < all; i += threads)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(scale + i * 32));
}

/* Blocks: 16 columns of each job's expert; behind them 16 columns each of the shared one. A sum is
 * UP_CHAINS partial ones however many warps there are: a row's bits do not depend on the others. */
template <typename W, int NT, int WARPS>
__global__ void __launch_bounds__(32 * WARPS) up_kernel(const __grid_constant__ FfnFewRows f) {
    typedef typename FewRowsChunk<W>::Number T;
    const int EACH = UP_CHAINS / WARPS;
    __shared__ FewRowsParts<NT, UP_CHAINS> parts[2]; /* gate and up */
    const UpJob at(f, blockIdx.x);
    const int warp = threadIdx.x / 32, K = f.route.top_k;
    const bool choice = !at.shared && by_choice(f);
    FewRowsSum<W, NT, UP_AHEAD, EACH> gate, up;
    const FewRowsWeight g = at.shared ? f.shared_gate : f.gate_proj;
    const FewRowsWeight u = at.shared ? f.shared_up : f.up_proj;
    auto begin = [&](int expert) {
        gate.begin(g, at.shared ? 0 : expert, at.first, warp, WARPS);
        up.begin(u, at.shared ? 0 : expert, at.first, warp, WARPS);
    };
    int expert = at.job;
    if (choice) { /* its weights must wait */
        few_rows_wait();
        expert = f.indices[at.job];
    }
    begin(expert);
    few_rows_wait();
    few_rows_go();
    if (!at.shared) {
        int n = threadIdx.x;
        bool wanted = choice || (n < f.rows && slot_of(f.indices, n, expert, K) >= 0);
        if (!__syncthreads_or(wanted)) return;
        prefetch_down<W>(f, expert, at.first);
    }
    FewRowsMatrix<T> x = {(const T *)f.normed, f.hidden, f.rows};
    gate.run(g, x);
    up.run(u, x);
#pragma unroll
    for (int c = 0; c < EACH; c++) {
        parts[0].put(gate.sum[c], warp + c * WARPS);
        parts[1].put(up.sum[c], warp + c * WARPS);
    }
    __syncthreads();
    int width = at.shared ? f.shared_inner : f.inner;
    T *h = (T *)(at.shared ? f.h_shared : f.h) + at.first;
#pragma unroll 1
    for (int i = threadIdx.x; i < FEW_ROWS_TILE * f.rows; i += 32 * WARPS) {
        int j = i % FEW_ROWS_TILE, n = i / FEW_ROWS_TILE, row;
        if (choice)
            row = n == at.job / K ? at.job : -1;
        else
            row = at.shared ? n : slot_of(f.indices, n, expert, K);
        if (row < 0) continue;
        float z = parts[0].total(j, n);
        h[(int64_t)row * width + j] = from_float<T>(z / (1.0f + __expf(-z)) * parts[1].total(j, n));
    }
}

/* ---- down ---- */

/* The experts that some row wants, in a list, and for each what every row makes of it. Entry MOST
 * is the shared expert, which every row wants. */
template <int NT> struct DownShared {
    FewRowsParts<NT, DOWN_WARPS> parts;
    float weight[MOST + 1][8 * NT];
    short slot[MOST + 1][8 * NT]; /* row of h, or -1 */
    short expert[MOST], list[MOST];
    bool wanted[MOST];
    int count;
};

/* With a block of experts for each choice the list is that of the choices, a row's in the order of
 * their experts: in that of list_experts, so that a row's bits do not depend on how many there
 * are. */
template <int NT>
static __device__ __forceinline__ void list_choices(DownShared<NT> &shared, const FfnFewRows &f,
                                                    int first) {
    int all = jobs(f), K = f.route.top_k;
#pragma unroll 1
    for (int a = threadIdx.x / 8; a < all; a += 4 * DOWN_WARPS) {
        const int lane = threadIdx.x % 8, row = a / K;
        int expert = f.indices[a], before = 0; /* before: the row's experts with lower numbers */
        float weight = f.weights[a];
#pragma unroll 1
        for (int k = lane; k < K; k += 8) before += f.indices[row * K + k] < expert;
        const unsigned together = 0xffu << (threadIdx.x & 24);
#pragma unroll
        for (int i = 4; i; i /= 2) before += __shfl_xor_sync(together, before, i);
#pragma unroll
        for (int n = lane; n < 8 * NT; n += 8) {
            bool mine = first + n == row;
            shared.slot[a][n] = mine ? (short)a : (short)-1;
            shared.weight[a][n] = mine ? weight : 0;
        }
        if (lane == 0) shared.expert[a] = (short)expert, shared.list[row * K + before] = (short)a;
    }
    if (threadIdx.x == 0) shared.count = all;
}

/* Otherwise all experts are looked at, and those that no row wants are left out. For the rows
 * first .. first + 8 NT - 1. */
template <int NT>
static __device__ __forceinline__ void list_experts(DownShared<NT> &shared, const FfnFewRows &f,
                                                    int first) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, K = f.route.top_k, E = f.route.experts;
    int n = first + lane;
#pragma unroll 1
    for (int e = warp; e < E; e += DOWN_WARPS) {
        int slot = lane < 8 * NT && n < f.rows ? slot_of(f.indices, n, e, K) : -1;
        if (lane < 8 * NT) {
            shared.slot[e][lane] = (short)slot;
            shared.weight[e][lane] = slot < 0 ? 0 : f.weights[slot];
        }
        bool wanted = __any_sync(~0u, slot >= 0);
        if (lane == 0) shared.wanted[e] = wanted, shared.expert[e] = (short)e;
    }
    __syncthreads();
    if (warp) return;
    int count = 0;
#pragma unroll 1
    for (int first_of_32 = 0; first_of_32 < E; first_of_32 += 32) {
        int e = first_of_32 + lane;
        bool wanted = e < E && shared.wanted[e];
        unsigned lanes = __ballot_sync(~0u, wanted);
        if (wanted) shared.list[count + __popc(lanes & ((1u << lane) - 1))] = (short)e;
        count += __popc(lanes);
    }
    if (lane == 0) shared.count = count;
}

/* A warp's way through the long sum: every DOWN_WARPS-th chunk of the shared expert, then of the
 * first in the list, ... */
struct DownUnit {
    int at, chunk; /* at: in the list, -1: the shared expert */
    __device__ __forceinline__ void settle(int own, int each) {
        int warp = threadIdx.x / 32;
        if (chunk < (at < 0 ? own : each)) return;
        at = warp < each ? at + 1 : 1 << 30; /* no expert has a chunk for this warp: the end */
        chunk = warp;
    }
    __device__ __forceinline__ void next(int own, int each) {
        chunk += DOWN_WARPS;
        settle(own, each);
    }
};

/* y = x + the warps' sums, in 16 columns. */
template <typename T, int NT>
static __device__ __forceinline__ void write_y(const FfnFewRows &f, const DownShared<NT> &shared,
                                               int first, int first_row, int rows) {
#pragma unroll 1
    for (int i = threadIdx.x; i < FEW_ROWS_TILE * rows; i += 32 * DOWN_WARPS) {
        int j = i % FEW_ROWS_TILE, n = i / FEW_ROWS_TILE;
        int64_t at = (int64_t)(first_row + n) * f.hidden + first + j;
        ((T *)f.y)[at] = from_float<T>(to_float(((const T *)f.x)[at]) + shared.parts.total(j, n));
    }
}

/* grid (hidden / 16, groups): 16 columns of y, for 8 NT rows. The sum over all experts is one long
 * sum of units, a chunk of an expert each. Those of the shared expert need not wait for the
 * list. */
template <typename W, int NT>
__global__ void __launch_bounds__(32 * DOWN_WARPS)
    down_kernel(const __grid_constant__ FfnFewRows f) {
    typedef typename FewRowsChunk<W>::Number T;
    extern __shared__ __align__(16) unsigned char memory[];
    DownShared<NT> &shared = *(DownShared<NT> *)memory;
    const int lane = threadIdx.x % 32, first = blockIdx.x * FEW_ROWS_TILE;
    const int first_row = 8 * NT * blockIdx.y, rows = min(f.rows - first_row, 8 * NT);
    const int own = f.shared_inner / FEW_ROWS_CHUNK, each = f.inner / FEW_ROWS_CHUNK;
    FewRowsChunk<W> ahead[DOWN_AHEAD];
    DownUnit unit[DOWN_AHEAD] = {}, later = {-1, (int)threadIdx.x / 32};
    auto fetch = [&](int i) {
        bool routed = unit[i].at >= 0;
        const FewRowsWeight w = routed ? f.down_proj : f.shared_down;
        FewRowsTile<W> tile;
        tile.begin(w, routed ? shared.expert[shared.list[unit[i].at]] : 0, first);
        ahead[i].load(tile, w, unit[i].chunk);
    };
    later.settle(own, each);
#pragma unroll
    for (int i = 0; i < DOWN_AHEAD; i++) {
        unit[i] = later;
        if (later.at < 0) fetch(i);
        later.next(own, each);
    }
    if (threadIdx.x < 8 * NT) {
        shared.slot[MOST][threadIdx.x] =
            (int)threadIdx.x < rows ? (short)(first_row + threadIdx.x) : (short)-1;
        shared.weight[MOST][threadIdx.x] = 1;
    }
    few_rows_wait();
    few_rows_go();
    if (by_choice(f))
        list_choices(shared, f, first_row);
    else
        list_experts(shared, f, first_row);
    __syncthreads();
    const int count = shared.count;
#pragma unroll
    for (int i = 0; i < DOWN_AHEAD; i++)
        if (unit[i].at >= 0 && unit[i].at < count) fetch(i);
    float total[NT][4] = {};
#pragma unroll 1
    while (unit[0].at < count) {
        FewRowsInput<W, NT> input[DOWN_AHEAD];
        const float *weight[DOWN_AHEAD];
#pragma unroll
        for (int i = 0; i < DOWN_AHEAD; i++) {
            if (unit[i].at >= count) continue;
            bool routed = unit[i].at >= 0;
            int a = routed ? shared.list[unit[i].at] : (int)MOST;
            int width = routed ? f.inner : f.shared_inner;
            const T *h = (const T *)(routed ? f.h : f.h_shared);
            weight[i] = shared.weight[a];
            auto x = [&](int n) {
                int slot = shared.slot[a][n];
                return slot < 0 ? nullptr : h + (int64_t)slot * width;
            };
            input[i].load(x, routed ? f.down_proj : f.shared_down, unit[i].chunk);
        }
#pragma unroll
        for (int i = 0; i < DOWN_AHEAD; i++) {
            if (unit[i].at >= count) continue;
            float part[NT][4] = {};
            ahead[i].multiply(part, input[i], unit[i].at >= 0 ? f.down_proj : f.shared_down);
#pragma unroll
            for (int t = 0; t < NT; t++)
#pragma unroll
                for (int k = 0; k < 4; k++)
                    total[t][k] += weight[i][8 * t + lane % 4 * 2 + k % 2] * part[t][k];
            unit[i] = later;
            if (later.at < count) fetch(i);
            later.next(own, each);
        }
    }
    shared.parts.put(total, threadIdx.x / 32);
    __syncthreads();
    write_y<T>(f, shared, first, first_row, rows);
}

/* ---- launches ---- */

/* All matrices are of one kind; this one is there. */
static const FewRowsWeight *any_weight(const FfnFewRows *f) {
    return f->down_proj.data ? &f->down_proj : &f->shared_down;
}

int ffn_few_rows_kernels_support(const Gpu *gpu, DType dtype, const FfnFewRows *f) {
    uintptr_t all = (uintptr_t)f->x | (uintptr_t)f->norm | (uintptr_t)f->router;
    const FewRowsWeight *const weights[] = {&f->gate_proj,   &f->up_proj,   &f->down_proj,
                                            &f->shared_gate, &f->shared_up, &f->shared_down};
    for (const FewRowsWeight *w : weights)
        if (!few_rows_weight_supports(w, dtype) || !few_rows_same_kind(w, any_weight(f))) return 0;
    return (dtype == F32 || (dtype == BF16 && gpu->compute_capability >= 80)) && f->rows > 0 &&
           f->rows <= FEW_ROWS && f->route.experts <= FFN_FEW_ROWS_EXPERTS &&
           (f->hidden | f->inner | f->shared_inner) % FEW_ROWS_CHUNK == 0 && all % 16 == 0 &&
           f->hidden * dtype_size(dtype) <= 48 << 10;
}

void ffn_few_rows_choose_cuda(Gpu *gpu, DType dtype, const FfnFewRows *f) {
    DTYPE_SWITCH(dtype, T, {
        auto kernel = f->route.experts <= 32 ? choose_kernel<T, 1> : choose_kernel<T, MOST / 32>;
        few_rows_launch(gpu, kernel, dim3((unsigned)f->rows), 32 * NORM_WARPS,
                        f->hidden * sizeof(T), *f);
    });
}

void ffn_few_rows_up_cuda(Gpu *gpu, DType dtype, const FfnFewRows *f) {
    unsigned blocks =
        (unsigned)(jobs(*f) * (f->inner / FEW_ROWS_TILE) + f->shared_inner / FEW_ROWS_TILE);
    FEW_ROWS_KIND(dtype, *any_weight(f), W, {
        if (f->rows <= 8) /* with more, so few warps that all blocks fit the GPU together */
            few_rows_launch(gpu, up_kernel<W, 1, 8>, dim3(blocks), 32 * 8, 0, *f);
        else
            few_rows_launch(gpu, up_kernel<W, 4, 4>, dim3(blocks), 32 * 4, 0, *f);
    });
}

void ffn_few_rows_down_cuda(Gpu *gpu, DType dtype, const FfnFewRows *f) {
    unsigned blocks = (unsigned)(f->hidden / FEW_ROWS_TILE);
    FEW_ROWS_KIND(dtype, *any_weight(f), W,
                  FEW_ROWS_SWITCH(f->rows, blocks, gpu, NT, groups,
                                  few_rows_launch(gpu, down_kernel<W, NT>, dim3(blocks, groups),
                                                  32 * DOWN_WARPS, sizeof(DownShared<NT>), *f)));
}
