/*
 * The policy loss on the GPU: the CPU's two walks along a completion, with a block for each. These
 * are a few numbers a token, where the logits before them are a vocabulary of them, so plain loops
 * are enough; sums go through a block in a fixed order, and those of the completions are added one
 * after the other by a last block, so that a run repeats bit for bit.
 */
#include "09_grpo/loss/policy_rows.h"
#include "common/cuda/gpu.cuh"

static const int THREADS = 128, PARTS = 1 + POLICY_STATS; /* of a completion: loss and statistics */

__device__ static float block_sum(float x) {
    __shared__ float partial[THREADS / 32];
    x = warp_sum(x);
    __syncthreads(); /* a call before this one may still be reading */
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < THREADS / 32; i++) sum += partial[i];
    return sum;
}

__device__ static float block_max(float x) {
    __shared__ float partial[THREADS / 32];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float largest = partial[0];
    for (int i = 1; i < THREADS / 32; i++) largest = fmaxf(largest, partial[i]);
    return largest;
}

static __global__ void count_actions(float *actions, const int32_t *targets, int64_t n) {
    float counted = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) counted += targets[i] != IGNORE_TARGET;
    counted = block_sum(counted);
    if (threadIdx.x == 0) *actions = counted;
}

static __global__ void completions(float *parts, float *dlogp, const float *actions,
                                   const float *logp, const float *old, const float *reference,
                                   const float *sampler, const float *advantages,
                                   const int32_t *targets, PolicyShape s) {
    const PolicyLossConfig *c = &s.cfg;
    int64_t first = blockIdx.x * s.tokens, end = first + s.tokens;
    float a = advantages[blockIdx.x], length = 0, moved = 0, left_behind = 0;
    const float *drew = old ? old : logp, *drew_mask = sampler ? sampler : drew;
    for (int64_t i = first + threadIdx.x; i < end; i += THREADS) {
        if (targets[i] == IGNORE_TARGET) continue;
        length++, moved += logp[i] - drew[i], left_behind += drew_mask[i] - logp[i];
    }
    length = block_sum(length), moved = block_sum(moved), left_behind = block_sum(left_behind);
    bool dropped = length > 0 && policy_drops(c, a, left_behind, length);
    float weight = policy_weight(&s, length, *actions), unit = c->sequence_level ? 1 / length : 1;
    float sums[PARTS] = {0}, through = 0, largest = 0;
    for (int64_t i = first + threadIdx.x; i < end; i += THREADS) {
        dlogp[i] = 0;
        if (targets[i] == IGNORE_TARGET) continue;
        float r = policy_ratio(c->sequence_level ? moved / length : logp[i] - drew[i]);
        PolicyTerm term = policy_term(c, r, a, logp[i]);
        if (dropped) term.value = term.direct = term.through = 0;
        if (c->beta != 0) {
            PolicyTerm kl = policy_kl(reference[i] - logp[i], r, c->use_bias_correction_kl);
            term.value += c->beta * kl.value;
            term.direct += c->beta * kl.direct, term.through += c->beta * kl.through;
            sums[1 + POLICY_KL] += kl.value;
        }
        sums[0] += weight * term.value;
        through += weight * term.through;
        dlogp[i] = weight * (term.direct + (c->sequence_level ? 0 : term.through));

        int side = policy_side(c, r, a);
        sums[1 + POLICY_LOW] += side < 0 ? unit : 0, sums[1 + POLICY_HIGH] += side > 0 ? unit : 0;
        sums[1 + POLICY_RATIO] += r;
        float off = sampler ? fabsf(sampler[i] - drew[i]) : 0;
        sums[1 + POLICY_GAP] += off;
        largest = fmaxf(largest, off);
    }
    through = block_sum(through), largest = block_max(largest);
    for (int i = 0; i < PARTS; i++) sums[i] = block_sum(sums[i]);
    for (int64_t i = first + threadIdx.x; c->sequence_level && i < end; i += THREADS)
        if (targets[i] != IGNORE_TARGET) dlogp[i] += through / length;
    if (threadIdx.x) return;
    sums[1 + POLICY_ACTIONS] = length;
    sums[1 + POLICY_CLIP_UNITS] = length > 0 ? unit * length : 0;
    sums[1 + POLICY_DROPPED] = dropped;
    sums[1 + POLICY_GAP_LARGEST] = largest;
    for (int i = 0; i < PARTS; i++) parts[blockIdx.x * PARTS + i] = sums[i];
}

/* Thread i adds part i of all completions. */
static __global__ void add_completions(float *loss, float *stats, const float *parts,
                                       int64_t batch) {
    int i = threadIdx.x;
    double sum = 0;
    for (int64_t b = 0; b < batch; b++) {
        float part = parts[b * PARTS + i];
        sum = i == 1 + POLICY_GAP_LARGEST ? fmax(sum, (double)part) : sum + part;
    }
    *(i ? stats + i - 1 : loss) = (float)sum;
}

extern "C" void policy_loss_cuda(Gpu *gpu, DType dtype, float *loss, float *stats, float *dlogp,
                                 float *scratch, const float *logp, const float *old,
                                 const float *reference, const float *sampler,
                                 const float *advantages, const int32_t *targets,
                                 PolicyShape shape) {
    (void)dtype; /* log-probabilities are F32 whatever the activations are */
    float *actions = scratch, *parts = scratch + 1;
    gpu_launch(gpu, count_actions, 1, THREADS, 0, actions, targets, shape.batch * shape.tokens);
    gpu_launch(gpu, completions, (unsigned)shape.batch, THREADS, 0, parts, dlogp, actions, logp,
               old, reference, sampler, advantages, targets, shape);
    gpu_launch(gpu, add_completions, 1, PARTS, 0, loss, stats, parts, shape.batch);
}
