/*
 * Log-probabilities of drawn tokens on the GPU: a block for each row, which is read once forward
 * and read and written once backward. All that is done with a logit is an exponential, so memory
 * is the limit: 2 bytes a logit forward, 4 backward in BF16.
 *
 * Forward every thread keeps a running maximum, the sum of exp(z - m) and that of exp(z - m) (z -
 * m), the entropy's; when the maximum grows by d, they become  s e^-d  and  (w - d s) e^-d.
 */
#include "09_grpo/loss/token_logprobs.h"
#include "common/cuda/gpu.cuh"

static const int THREADS = 256;

struct Running {
    float largest, sum, weighted;
};

/* Two parts of a row become one. */
__device__ static Running join(Running a, Running b) {
    float largest = fmaxf(a.largest, b.largest);
    if (a.sum == 0) return b; /* -infinity - -infinity would be NaN */
    if (b.sum == 0) return a;
    float da = largest - a.largest, db = largest - b.largest, ea = expf(-da), eb = expf(-db);
    return {largest, a.sum * ea + b.sum * eb,
            (a.weighted - (da > 0 ? da * a.sum : 0)) * ea +
                (b.weighted - (db > 0 ? db * b.sum : 0)) * eb};
}

/* Of the whole block, in thread 0; the order of the sums is fixed. */
__device__ static Running join_block(Running r) {
    __shared__ Running warps[THREADS / 32];
    for (int offset = 16; offset; offset /= 2) {
        Running other = {__shfl_xor_sync(~0u, r.largest, offset),
                         __shfl_xor_sync(~0u, r.sum, offset),
                         __shfl_xor_sync(~0u, r.weighted, offset)};
        r = threadIdx.x & offset ? join(other, r) : join(r, other);
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = r;
    __syncthreads();
    r = warps[0];
    for (int i = 1; i < THREADS / 32; i++) r = join(r, warps[i]);
    return r;
}

template <typename T>
static __global__ void logprobs_rows(float *logp, float *entropy, float *lse, const T *logits,
                                     const int32_t *targets, const int32_t *starts,
                                     const int32_t *ids, int64_t vocab, float scale) {
    int64_t row = blockIdx.x;
    const T *z = logits + row * vocab;
    int32_t target = targets[row], first = starts ? starts[row] : 0;
    int32_t some = starts ? starts[row + 1] - first : 0;
    if (target == IGNORE_TARGET) {
        if (threadIdx.x == 0) logp[row] = entropy[row] = lse[row] = 0;
        return;
    }
    Running r = {-INFINITY, 0, 0};
    int64_t count = some ? some : vocab;
    for (int64_t j = threadIdx.x; j < count; j += THREADS) {
        float v = to_float(z[some ? ids[first + j] : j]) * scale;
        if (v == -INFINITY) continue; /* what cannot be has no part in either sum */
        r = join(r, {v, 1, 0});
    }
    r = join_block(r);
    if (threadIdx.x) return;
    float log_sum = logf(r.sum);
    bool valid = target >= 0 && target < vocab;
    lse[row] = r.largest + log_sum;
    logp[row] = valid ? (to_float(z[target]) * scale - r.largest) - log_sum : NAN;
    entropy[row] = log_sum - r.weighted / r.sum;
}

extern "C" void token_logprobs_forward_cuda(Gpu *gpu, DType dtype, float *logp, float *entropy,
                                            float *lse, const void *logits, const int32_t *targets,
                                            const int32_t *starts, const int32_t *ids, int64_t rows,
                                            int64_t vocab, float temperature) {
    if (rows)
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, logprobs_rows<T>, (unsigned)rows, THREADS, 0, logp, entropy,
                                lse, logits, targets, starts, ids, vocab, 1 / temperature));
}

/* Is j among the ascending ids [count]? */
__device__ static bool among(const int32_t *ids, int32_t count, int32_t j) {
    int32_t low = 0;
    while (low < count) {
        int32_t middle = (low + count) / 2;
        if (ids[middle] < j)
            low = middle + 1;
        else if (ids[middle] > j)
            count = middle;
        else
            return true;
    }
    return false;
}

template <typename T>
static __global__ void gradient_rows(T *logits, const float *dlogp, const float *lse,
                                     const int32_t *targets, const int32_t *starts,
                                     const int32_t *ids, int64_t vocab, float scale) {
    int64_t row = blockIdx.x;
    T *z = logits + row * vocab;
    int32_t target = targets[row], first = starts ? starts[row] : 0;
    int32_t some = starts ? starts[row + 1] - first : 0;
    float g = dlogp[row] * scale, of_row = lse[row];
    for (int64_t j = threadIdx.x; j < vocab; j += THREADS) {
        float d = 0;
        if (target != IGNORE_TARGET && (!some || among(ids + first, some, (int32_t)j)))
            d = g * ((j == target ? 1.0f : 0.0f) - expf(to_float(z[j]) * scale - of_row));
        z[j] = from_float<T>(d);
    }
}

extern "C" void token_logprobs_backward_cuda(Gpu *gpu, DType dtype, void *logits,
                                             const float *dlogp, const float *lse,
                                             const int32_t *targets, const int32_t *starts,
                                             const int32_t *ids, int64_t rows, int64_t vocab,
                                             float temperature) {
    if (rows)
        DTYPE_SWITCH(dtype, T,
                     gpu_launch(gpu, gradient_rows<T>, (unsigned)rows, THREADS, 0, logits, dlogp,
                                lse, targets, starts, ids, vocab, 1 / temperature));
}
