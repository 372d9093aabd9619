/*
 * The likeliest token, chosen where the logits are: each part of a row by a block of its own, for
 * one block would take microseconds, most of them arithmetic.
 */
#include "05_moe/decoder/decode_graph.h"
#include "common/cuda/few_rows_launch.cuh"

#include <cfloat>

enum { THREADS = 256, AT_ONCE = 4 }; /* loads of a thread that are under way together */

/* The larger value; of equal ones the smaller index. */
static __device__ void keep_larger(float &most, int &best, float other, int its) {
    if (other > most || (other == most && its < best)) most = other, best = its;
}

/* The largest of some logits, and where it is. */
struct Most {
    float most;
    int best;
};

/* What a warp has found together. */
static __device__ void warp_largest(float &most, int &best) {
    for (int offset = 16; offset; offset /= 2)
        keep_larger(most, best, __shfl_xor_sync(~0u, most, offset),
                    __shfl_xor_sync(~0u, best, offset));
}

/*
 * Blocks (sequence, part): a part of a row each, whose threads, then warps, agree on its largest
 * logit. A thread has a few loads of 16 bytes, all under way together; a row of an odd vocabulary
 * begins somewhere, so what is in front of the first whole 16 bytes, and behind the last, comes
 * alone.
 */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    part_kernel(Most *found, const T *logits, int64_t vocab) {
    const int W = Pack<T>::SIZE;
    __shared__ Most of_warp[THREADS / 32];
    few_rows_wait();
    few_rows_go();
    const T *row = logits + blockIdx.x * vocab;
    float most = -INFINITY, bad = 0; /* bad: 0, or NaN once a number was not finite */
    int best = 0, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    auto look = [&](T logit, int j) {
        float x = to_float(logit);
        bad = fmaf(x, 0.0f, bad);
        if (x > most) most = x, best = j;
    };
    int head = min((int)(-(uintptr_t)row % 16 / sizeof(T)), (int)vocab);
    int packs = ((int)vocab - head) / W, tail = head + packs * W;
    int thread = blockIdx.y * THREADS + threadIdx.x, threads = gridDim.y * THREADS;
    if (thread < head) look(row[thread], thread);
#pragma unroll 1
    for (int from = thread; from < packs; from += AT_ONCE * threads) {
        Pack<T> p[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) /* past the end the last pack comes again */
            p[u] = *(const Pack<T> *)(row + head + min(from + u * threads, packs - 1) * W);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
#pragma unroll
            for (int k = 0; k < W; k++)
                look(p[u].v[k], head + min(from + u * threads, packs - 1) * W + k);
    }
    if (tail + thread < vocab) look(row[tail + thread], tail + thread);
    /* No number is larger than this one, and no index smaller: it wins in every comparison. */
    if (bad != 0) most = INFINITY, best = -1;
    warp_largest(most, best);
    if (lane == 0) of_warp[warp] = {most, best};
    __syncthreads();
    if (warp) return;
    most = of_warp[lane % (THREADS / 32)].most, best = of_warp[lane % (THREADS / 32)].best;
    warp_largest(most, best);
    if (lane == 0) found[blockIdx.x * gridDim.y + blockIdx.y] = {most, best};
}

/* One block: a warp's lanes have the parts of a sequence. The counter moves when all have read
 * it. */
static __global__ void __launch_bounds__(1024)
    choose_kernel(int32_t *ids, int32_t *tokens, int32_t *step, const Most *found, int batch) {
    few_rows_wait();
    few_rows_go();
    int lane = threadIdx.x % 32, at = step ? *step : 0;
    for (int b = threadIdx.x / 32; b < batch; b += blockDim.x / 32) {
        const Most m = found[b * DECODE_PARTS + lane % DECODE_PARTS];
        float most = m.most;
        int best = m.best;
        warp_largest(most, best);
        if (lane) continue;
        ids[b] = max(best, 0);
        if (tokens) tokens[(int64_t)at * batch + b] = best;
    }
    __syncthreads();
    if (step && threadIdx.x == 0) *step = at + 1;
}

void decode_likeliest_cuda(Gpu *gpu, DType dtype, int32_t *ids, int32_t *tokens, int32_t *step,
                           void *scratch, const void *logits, int64_t batch, int64_t vocab) {
    Most *found = (Most *)scratch;
    static_assert(sizeof(Most) == DECODE_LIKELIEST_SCRATCH / DECODE_PARTS, "see decode_graph.h");
    DTYPE_SWITCH(dtype, T,
                 few_rows_launch(gpu, part_kernel<T>, dim3((unsigned)batch, DECODE_PARTS), THREADS,
                                 0, found, (const T *)logits, vocab));
    int warps = batch < 32 ? (int)batch : 32;
    few_rows_launch(gpu, choose_kernel, dim3(1), 32 * warps, 0, ids, tokens, step,
                    (const Most *)found, (int)batch);
}

/* ---- drawing ---- */

/* Warp w has a segment of the row, its lanes take turns. First the row's maximum, then the sum of
 * each segment, then the one segment in which the random number falls, 32 tokens at a time. */
template <typename T>
__global__ void __launch_bounds__(1024)
    draw_kernel(int32_t *tokens, float *logprobs, const float *randoms, const T *logits, int vocab,
                float scale) {
    const int WARPS = 32;
    __shared__ float most_of[WARPS], sum_of[WARPS], bad_of[WARPS];
    const T *row = logits + blockIdx.x * (int64_t)vocab;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int segment = (vocab + 32 * WARPS - 1) / (32 * WARPS) * 32;
    int first = min(warp * segment, vocab), end = min(first + segment, vocab);
    float most = -INFINITY, bad = 0, sum = 0, total = 0, before = 0;
    for (int j = first + lane; j < end; j += 32) {
        float x = to_float(row[j]);
        most = fmaxf(most, x), bad = fmaf(x, 0.0f, bad);
    }
    for (int offset = 16; offset; offset /= 2)
        most = fmaxf(most, __shfl_xor_sync(~0u, most, offset));
    bad = warp_sum(bad);
    if (lane == 0) most_of[warp] = most, bad_of[warp] = bad;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) most = fmaxf(most, most_of[w]), total += bad_of[w];
    if (total != 0) { /* NaN: a logit is not finite */
        if (threadIdx.x == 0) tokens[blockIdx.x] = -1, logprobs[blockIdx.x] = 0;
        return;
    }
    for (int j = first + lane; j < end; j += 32) sum += expf((to_float(row[j]) - most) * scale);
    sum = warp_sum(sum);
    if (lane == 0) sum_of[warp] = sum;
    __syncthreads();
    if (warp) return;
    for (int w = 0; w < WARPS; w++) total += sum_of[w];
    float target = randoms[blockIdx.x] * total;
    int w = 0, last = 0; /* rounding: the last segment that has anything is the last resort */
    for (int i = 0; i < WARPS; i++) last = sum_of[i] > 0 ? i : last;
    while (w < last && before + sum_of[w] <= target) before += sum_of[w++];
    first = w * segment, end = min(first + segment, vocab);
    int id = first;
    for (int at = first; at < end; at += 32) {
        float e = at + lane < end ? expf((to_float(row[at + lane]) - most) * scale) : 0, scan = e;
        for (int offset = 1; offset < 32; offset *= 2) {
            float left = __shfl_up_sync(~0u, scan, offset);
            scan += lane >= offset ? left : 0;
        }
        unsigned some = __ballot_sync(~0u, e > 0);
        unsigned past = __ballot_sync(~0u, e > 0 && before + scan > target);
        if (past) {
            id = at + __ffs(past) - 1;
            break;
        }
        if (some) id = at + 31 - __clz(some);
        before += __shfl_sync(~0u, scan, 31);
    }
    if (lane == 0) {
        tokens[blockIdx.x] = id;
        logprobs[blockIdx.x] = (to_float(row[id]) - most) * scale - logf(total);
    }
}

void decode_draw_cuda(Gpu *gpu, DType dtype, int32_t *tokens, float *logprobs, const float *randoms,
                      const void *logits, int64_t batch, int64_t vocab, float temperature) {
    DTYPE_SWITCH(dtype, T,
                 gpu_launch(gpu, draw_kernel<T>, (unsigned)batch, 1024, 0, tokens, logprobs,
                            randoms, (const T *)logits, (int)vocab, 1 / temperature));
}
