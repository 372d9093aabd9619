/*
 * Dispatch on the GPU: planning, and moving rows by the plan.
 *
 * The plan is the CPU's counting sort, in three kernels: count every piece, add up over the pieces,
 * place. No block waits for another: a slot's row is a sum of counts, in whatever order they came.
 *
 * The rest moves bytes, 16 at a time, and does next to nothing with them. For N tokens of d
 * numbers:
 *
 *     permute            reads N d, writes N K d         a token is read once and written K times
 *     combine            reads N K d, writes N d         K rows are on their way at once, then
 *                                                        added in order
 *     their backwards    the same the other way round; combine's reads and writes N K d
 *
 * What limits: the memory's bandwidth, of which they reach 81 to 95 % (H200, 8192 tokens, K = 8,
 * d = 2048 and 7168).
 */
#include "05_moe/cuda/prefix.cuh"
#include "05_moe/dispatch.h"

enum { THREADS = 256 };

/* ---- the plan ---- */

/* How often piece blockIdx.x of the slots chose each expert. Integers: any order will do. */
__global__ void count_kernel(int32_t *piece_counts, const int32_t *indices, int64_t slots,
                             int experts) {
    extern __shared__ int counts[];
    for (int e = threadIdx.x; e < experts; e += DISPATCH_PIECE) counts[e] = 0;
    __syncthreads();
    int64_t slot = blockIdx.x * (int64_t)DISPATCH_PIECE + threadIdx.x;
    int e = slot < slots ? indices[slot] : -1;
    if (e >= 0 && e < experts) atomicAdd(&counts[e], 1);
    __syncthreads();
    for (int i = threadIdx.x; i < experts; i += DISPATCH_PIECE)
        piece_counts[blockIdx.x * (int64_t)experts + i] = counts[i];
}

/* Counts of pieces to counts of all pieces before. A block has 32 experts; its 32 warps share the
 * pieces, first adding up theirs, then, when all sums are known, writing. */
__global__ void pieces_kernel(int32_t *piece_counts, int32_t *counts, int pieces, int experts) {
    __shared__ int sum_of[32][33];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, e = blockIdx.x * 32 + lane;
    int each = (pieces + 31) / 32, begin = min(warp * each, pieces),
        end = min(begin + each, pieces);
    int sum = 0;
    if (e < experts)
        for (int p = begin; p < end; p++) sum += piece_counts[(int64_t)p * experts + e];
    sum_of[warp][lane] = sum;
    __syncthreads();
    int before = 0;
    for (int w = 0; w < warp; w++) before += sum_of[w][lane];
    if (e >= experts) return;
    for (int p = begin; p < end; p++) {
        int32_t *at = piece_counts + (int64_t)p * experts + e, here = *at;
        *at = before;
        before += here;
    }
    if (warp == 31) counts[e] = before;
}

/*
 * Rows of the slots of piece blockIdx.x, one thread each:
 *
 *     row = the expert's first row + its slots in earlier pieces + in earlier warps
 *           + in lower lanes
 */
__global__ void __launch_bounds__(DISPATCH_PIECE)
    place_kernel(int32_t *offsets, int32_t *row_of_slot, int32_t *slot_of_row,
                 const int32_t *piece_counts, const int32_t *counts, const int32_t *indices,
                 int64_t slots, int experts, int64_t capacity) {
    extern __shared__ int first[];
    uint16_t *warp_counts = (uint16_t *)(first + experts + 1); /* [32][experts] */
    int t = threadIdx.x, lane = t % 32, warp = t / 32;
    for (int i = t; i < 32 * experts; i += DISPATCH_PIECE) warp_counts[i] = 0;
    prefix_table(first, experts, [&](int e) {
        return capacity > 0 && counts[e] > capacity ? (int)capacity : counts[e];
    });
    if (blockIdx.x == 0)
        for (int e = t; e <= experts; e += DISPATCH_PIECE) offsets[e] = first[e];

    int64_t slot = blockIdx.x * (int64_t)DISPATCH_PIECE + t;
    int e = slot < slots ? indices[slot] : -1;
    bool valid = e >= 0 && e < experts;
    unsigned same = __match_any_sync(~0u, e);
    int rank = __popc(same & ((1u << lane) - 1));
    if (valid && rank == 0) warp_counts[warp * experts + e] = (uint16_t)__popc(same);
    __syncthreads();
    for (int i = t; i < experts; i += DISPATCH_PIECE)
        for (int w = 0, before = 0; w < 32; w++) {
            int here = warp_counts[w * experts + i];
            warp_counts[w * experts + i] = (uint16_t)before;
            before += here;
        }
    __syncthreads();
    if (slot >= slots) return;
    int row = -1;
    if (valid) {
        row = first[e] + piece_counts[blockIdx.x * (int64_t)experts + e] +
              warp_counts[warp * experts + e] + rank;
        if (row >= first[e + 1]) row = -1; /* past the capacity */
    }
    row_of_slot[slot] = row;
    if (row >= 0) slot_of_row[row] = (int32_t)slot;
}

void dispatch_plan_cuda(Gpu *gpu, DType dtype, int32_t *counts, int32_t *offsets,
                        int32_t *row_of_slot, int32_t *slot_of_row, int32_t *scratch,
                        const int32_t *indices, int64_t slots, int experts, int64_t capacity) {
    (void)dtype;
    int pieces = (int)ceil_div(slots, DISPATCH_PIECE), counting = experts * (int)sizeof(int);
    int placing = (experts + 1) * (int)sizeof(int) + 32 * experts * (int)sizeof(uint16_t);
    CHECK(placing <= gpu->shared_memory_max, "dispatch_plan: %d experts are too many for this GPU",
          experts);
    CUDA_CHECK(
        cudaFuncSetAttribute(place_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, placing));
    gpu_launch(gpu, count_kernel, pieces, DISPATCH_PIECE, counting, scratch, indices, slots,
               experts);
    gpu_launch(gpu, pieces_kernel, ceil_div(experts, 32), 1024, 0, scratch, counts, pieces,
               experts);
    gpu_launch(gpu, place_kernel, pieces, DISPATCH_PIECE, placing, offsets, row_of_slot,
               slot_of_row, scratch, counts, indices, slots, experts, capacity);
}

/* ---- rows, W numbers at a time ---- */

/* Rows of 16 bytes that begin at multiples of 16 move as such, all others number by number. */
static bool wide(DType dtype, int64_t d, const void *a, const void *b, const void *c) {
    uintptr_t all = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c;
    return d * (int64_t)dtype_size(dtype) % 16 == 0 && all % 16 == 0;
}

/* One block for each token: enough threads for a row, whole warps. */
static unsigned threads_for(int64_t pieces) {
    return (unsigned)(pieces >= THREADS ? THREADS : ceil_div(pieces, 32) * 32);
}

/* Shared memory for the numbers of a token's choices, in whole 16 bytes: the compiler reads several
 * at once, and may read beyond the last. */
static unsigned shared_for(int64_t numbers) { return (unsigned)(ceil_div(numbers, 4) * 16); }

/* The rows of the block's token, and their weights, to shared memory; row -1 weighs nothing. */
static __device__ __forceinline__ void load_choices(int *rows, float *weights,
                                                    const int32_t *row_of_slot, const float *w,
                                                    int top_k) {
    int64_t slot = blockIdx.x * (int64_t)top_k;
    for (int j = threadIdx.x; j < top_k; j += blockDim.x) {
        rows[j] = row_of_slot[slot + j];
        if (weights) weights[j] = w && rows[j] >= 0 ? w[slot + j] : rows[j] >= 0;
    }
    __syncthreads();
}

template <typename T, int W>
__global__ void permute_kernel(T *xp, const T *x, const int32_t *row_of_slot, int top_k,
                               int pieces) {
    extern __shared__ int rows[];
    load_choices(rows, NULL, row_of_slot, NULL, top_k);
    const Pack<T, W> *from = (const Pack<T, W> *)x + blockIdx.x * (int64_t)pieces;
    for (int i = threadIdx.x; i < pieces; i += blockDim.x) {
        Pack<T, W> piece = from[i];
#pragma unroll 4
        for (int j = 0; j < top_k; j++)
            if (rows[j] >= 0) ((Pack<T, W> *)xp)[rows[j] * (int64_t)pieces + i] = piece;
    }
}

/* to = base + the sum over j, in order, of weights[j] from[rows[j]]: combine, and permute's
 * backward with weights of 1. base may be NULL, or `to` itself. */
template <typename T, int W>
__global__ void gather_kernel(T *to, const T *base, const T *from, const float *weights,
                              const int32_t *row_of_slot, int top_k, int pieces) {
    extern __shared__ int rows[];
    float *w = (float *)(rows + top_k);
    load_choices(rows, w, row_of_slot, weights, top_k);
    Pack<T, W> *mine = (Pack<T, W> *)to + blockIdx.x * (int64_t)pieces;
    for (int i = threadIdx.x; i < pieces; i += blockDim.x) {
        float sum[W] = {};
        if (base) {
            Pack<T, W> old = ((const Pack<T, W> *)base)[blockIdx.x * (int64_t)pieces + i];
            for (int c = 0; c < W; c++) sum[c] = to_float(old.v[c]);
        }
#pragma unroll 8
        for (int j = 0; j < top_k; j++) {
            Pack<T, W> piece = {};
            if (rows[j] >= 0) piece = ((const Pack<T, W> *)from)[rows[j] * (int64_t)pieces + i];
            for (int c = 0; c < W; c++) sum[c] += w[j] * to_float(piece.v[c]);
        }
        Pack<T, W> result;
        for (int c = 0; c < W; c++) result.v[c] = from_float<T>(sum[c]);
        mine[i] = result;
    }
}

/* combine's backward, a warp for each slot: dyp[row] = (or +=) w dy[n] and
 * dw = (or +=) dy[n] . yp[row]. The warps of a token stand side by side and find its dy in the
 * cache. */
template <typename T, int W>
__global__ void combine_backward_kernel(T *dyp, int add_yp, float *dweights, int add_w, const T *dy,
                                        const T *yp, const float *weights,
                                        const int32_t *row_of_slot, int64_t slots, int top_k,
                                        int pieces) {
    int64_t slot = blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32;
    if (slot >= slots) return;
    int lane = threadIdx.x % 32, row = row_of_slot[slot];
    float w = weights[slot], dot = 0;
    const Pack<T, W> *token = (const Pack<T, W> *)dy + slot / top_k * pieces;
    const Pack<T, W> *from = (const Pack<T, W> *)yp + row * (int64_t)pieces;
    Pack<T, W> *to = (Pack<T, W> *)dyp + row * (int64_t)pieces;
#pragma unroll 4
    for (int i = lane; i < (row < 0 ? 0 : pieces); i += 32) {
        Pack<T, W> d = token[i], y = {}, old = {}, result;
        if (dweights) y = from[i];
        if (dyp && add_yp) old = to[i];
        for (int c = 0; c < W; c++) {
            dot += to_float(d.v[c]) * to_float(y.v[c]);
            result.v[c] = from_float<T>(to_float(old.v[c]) + w * to_float(d.v[c]));
        }
        if (dyp) to[i] = result;
    }
    dot = warp_sum(dot);
    if (dweights && lane == 0) dweights[slot] = add_w ? dweights[slot] + dot : dot;
}

/* Runs the statement with W = 16 bytes' worth of T, or 1, and `pieces` of them in a row of d. */
#define WIDTH_SWITCH(is_wide, T, d, ...)           \
    do {                                           \
        if (is_wide) {                             \
            constexpr int W = 16 / (int)sizeof(T); \
            int pieces = (int)((d) / W);           \
            __VA_ARGS__;                           \
        } else {                                   \
            constexpr int W = 1;                   \
            int pieces = (int)(d);                 \
            __VA_ARGS__;                           \
        }                                          \
    } while (0)

void dispatch_permute_cuda(Gpu *gpu, DType dtype, void *xp, const void *x,
                           const int32_t *row_of_slot, int64_t tokens, int top_k, int64_t d) {
    if (!tokens || !d) return;
    DTYPE_SWITCH(dtype, T,
                 WIDTH_SWITCH(wide(dtype, d, xp, x, NULL), T, d,
                              gpu_launch(gpu, permute_kernel<T, W>, tokens, threads_for(pieces),
                                         shared_for(top_k), xp, x, row_of_slot, top_k, pieces)));
}

static void gather(Gpu *gpu, DType dtype, void *to, const void *base, const void *from,
                   const float *weights, const int32_t *row_of_slot, int64_t tokens, int top_k,
                   int64_t d) {
    if (!tokens || !d) return;
    DTYPE_SWITCH(dtype, T,
                 WIDTH_SWITCH(wide(dtype, d, to, from, base), T, d,
                              gpu_launch(gpu, gather_kernel<T, W>, tokens, threads_for(pieces),
                                         shared_for(2 * top_k), to, base, from, weights,
                                         row_of_slot, top_k, pieces)));
}

void dispatch_permute_backward_cuda(Gpu *gpu, DType dtype, void *dx, int add, const void *dxp,
                                    const int32_t *row_of_slot, int64_t tokens, int top_k,
                                    int64_t d) {
    gather(gpu, dtype, dx, add ? dx : NULL, dxp, NULL, row_of_slot, tokens, top_k, d);
}

void dispatch_combine_cuda(Gpu *gpu, DType dtype, void *y, const void *base, const void *yp,
                           const float *weights, const int32_t *row_of_slot, int64_t tokens,
                           int top_k, int64_t d) {
    gather(gpu, dtype, y, base, yp, weights, row_of_slot, tokens, top_k, d);
}

void dispatch_combine_backward_cuda(Gpu *gpu, DType dtype, void *dyp, int add_yp, float *dweights,
                                    int add_w, const void *dy, const void *yp, const float *weights,
                                    const int32_t *row_of_slot, int64_t tokens, int top_k,
                                    int64_t d) {
    int64_t slots = tokens * top_k;
    if (!slots || (!dyp && !dweights)) return;
    DTYPE_SWITCH(
        dtype, T,
        WIDTH_SWITCH(wide(dtype, d, dyp, dy, yp), T, d,
                     gpu_launch(gpu, combine_backward_kernel<T, W>, ceil_div(slots, THREADS / 32),
                                THREADS, 0, dyp, add_yp, dweights, add_w, dy, yp, weights,
                                row_of_slot, slots, top_k, pieces)));
}
