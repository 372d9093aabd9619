/*
 * Solution 09.8: the same sums over a list of places, which is either the row's or all of them.
 * With m the maximum, log sum exp z = m + log sum exp(z - m), and the entropy is log s minus the
 * mean of z - m. Without the support a token that was drawn from three would be said to be as
 * likely as among all, so the ratio of the first update would not be 1. (Tempting: to add p log p
 * for p = 0, which is 0 times infinity: NaN.)
 */
#include "09_grpo/loss/token_logprobs.h"

#include <math.h>

void token_logprobs_forward_cpu(float *logp, float *entropy, float *lse, const float *logits,
                                const int32_t *targets, const int32_t *starts, const int32_t *ids,
                                int64_t rows, int64_t vocab, float temperature) {
    for (int64_t i = 0; i < rows; i++) {
        const float *z = logits + i * vocab;
        int64_t some = starts ? starts[i + 1] - starts[i] : 0, count = some ? some : vocab;
        double largest = -INFINITY, sum = 0, weighted = 0;
        logp[i] = entropy[i] = lse[i] = 0;
        if (targets[i] == IGNORE_TARGET) continue;
        for (int64_t k = 0; k < count; k++)
            largest = fmax(largest, (double)z[some ? ids[starts[i] + k] : k] / (double)temperature);
        for (int64_t k = 0; k < count; k++) {
            double below = (double)z[some ? ids[starts[i] + k] : k] / (double)temperature - largest;
            sum += exp(below);
            weighted += exp(below) > 0 ? exp(below) * below : 0;
        }
        lse[i] = (float)(largest + log(sum));
        logp[i] = (float)((double)z[targets[i]] / (double)temperature - largest - log(sum));
        entropy[i] = (float)(log(sum) - weighted / sum);
    }
}
