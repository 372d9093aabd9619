/*
 * Log-probabilities on the CPU: a row at a time, over the whole vocabulary in vectors, or over a
 * list of ids. With z = logits / T, m their maximum and s = sum exp(z - m):
 *
 *     logp = z_target - m - log s,     H = log s - (sum exp(z - m) (z - m)) / s
 */
#include "09_grpo/loss/token_logprobs.h"

#include "common/core/fastmath.h"

#include <math.h>

enum { PARALLEL_MIN = 1 << 14 };

typedef struct RowSums {
    float largest, sum, weighted; /* of z: maximum, sum exp(z - m), sum exp(z - m) (z - m) */
} RowSums;

static RowSums sums_of_all(const float *z, int64_t vocab, float scale) {
    float largest = z[0], sum = 0, weighted = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < vocab; j++) largest = z[j] > largest ? z[j] : largest;
#pragma omp simd reduction(+ : sum, weighted)
    for (int64_t j = 0; j < vocab; j++) {
        float below = (z[j] - largest) * scale, e = fast_exp(below);
        sum += e;
        weighted += e > 0 ? e * below : e; /* no 0 times infinity; NaN stays */
    }
    return (RowSums){largest * scale, sum, weighted};
}

static RowSums sums_of_some(const float *z, const int32_t *ids, int32_t count, float scale) {
    RowSums r = {z[ids[0]], 0, 0};
    for (int32_t k = 0; k < count; k++) r.largest = z[ids[k]] > r.largest ? z[ids[k]] : r.largest;
    for (int32_t k = 0; k < count; k++) {
        float below = (z[ids[k]] - r.largest) * scale, e = fast_exp(below);
        r.sum += e;
        r.weighted += e > 0 ? e * below : e;
    }
    r.largest *= scale;
    return r;
}

void token_logprobs_forward_cpu(float *logp, float *entropy, float *lse, const float *logits,
                                const int32_t *targets, const int32_t *starts, const int32_t *ids,
                                int64_t rows, int64_t vocab, float temperature) {
    float scale = 1 / temperature;
#pragma omp parallel for if (rows * vocab > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        const float *z = logits + i * vocab;
        int32_t target = targets[i];
        logp[i] = entropy[i] = lse[i] = 0;
        if (target == IGNORE_TARGET) continue;
        CHECK(target >= 0 && target < vocab,
              "token_logprobs: target %d of row %lld is not in [0, %lld)", target, (long long)i,
              (long long)vocab);
        int32_t count = starts ? starts[i + 1] - starts[i] : 0;
        RowSums r =
            count ? sums_of_some(z, ids + starts[i], count, scale) : sums_of_all(z, vocab, scale);
        float log_sum = logf(r.sum);
        lse[i] = r.largest + log_sum;
        logp[i] = (z[target] * scale - r.largest) - log_sum;
        entropy[i] = log_sum - r.weighted / r.sum;
    }
}

void token_logprobs_backward_cpu(float *logits, const float *dlogp, const float *lse,
                                 const int32_t *targets, const int32_t *starts, const int32_t *ids,
                                 int64_t rows, int64_t vocab, float temperature) {
    float scale = 1 / temperature;
#pragma omp parallel for if (rows * vocab > PARALLEL_MIN)
    for (int64_t i = 0; i < rows; i++) {
        float *z = logits + i * vocab, g = dlogp[i] * scale;
        int32_t count = starts ? starts[i + 1] - starts[i] : 0;
        if (targets[i] == IGNORE_TARGET) {
            for (int64_t j = 0; j < vocab; j++) z[j] = 0;
        } else if (count == 0) {
            for (int64_t j = 0; j < vocab; j++) z[j] = -g * fast_exp(z[j] * scale - lse[i]);
            z[targets[i]] += g;
        } else {
            const int32_t *id = ids + starts[i], *end = ids + starts[i + 1];
            for (int64_t j = 0; j < vocab; j++) {
                bool kept = id < end && *id == j;
                z[j] = kept ? -g * fast_exp(z[j] * scale - lse[i]) : 0;
                id += kept;
            }
            z[targets[i]] += g;
        }
    }
}
