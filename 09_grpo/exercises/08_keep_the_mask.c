/*
 * Exercise 09.8: keep the sampling mask.
 *
 * Row i of logits [rows, vocab] was divided by the temperature and a token was drawn: of all of
 * them, or, with top-k or top-p, of those that were left, ids[starts[i]] .. ids[starts[i + 1] - 1]
 * (starts NULL, or an empty list: all). Say how likely the target was *as it was drawn*:
 *
 *     logp[i]    = log softmax(logits / temperature)[target], the softmax over what was left
 *     entropy[i] = -sum p log p over the same
 *     lse[i]     = log sum exp(logits / temperature) over the same, for backward
 *
 * and 0, 0, 0 where the target is IGNORE_TARGET. A logit may be -infinity: that token has p = 0 and
 * no part in the entropy. Logits may be large: take the maximum off first.
 *
 * Whoever wrote this knew of no support, and had no large logits.
 *
 * POINTS: 3
 *
 * REPLACES: token_logprobs_forward_cpu in 09_grpo/loss/token_logprobs_cpu.c
 *
 * TESTS: test_token_logprobs:token_logprobs
 */
#include "09_grpo/loss/token_logprobs.h"

#include <math.h>

void token_logprobs_forward_cpu(float *logp, float *entropy, float *lse, const float *logits,
                                const int32_t *targets, const int32_t *starts, const int32_t *ids,
                                int64_t rows, int64_t vocab, float temperature) {
    for (int64_t i = 0; i < rows; i++) {
        const float *z = logits + i * vocab;
        float sum = 0, weighted = 0;
        logp[i] = entropy[i] = lse[i] = 0;
        if (targets[i] == IGNORE_TARGET) continue;
        for (int64_t j = 0; j < vocab; j++) {
            sum += expf(z[j] / temperature);
            weighted += expf(z[j] / temperature) * z[j] / temperature;
        }
        lse[i] = logf(sum);
        logp[i] = z[targets[i]] / temperature - lse[i];
        entropy[i] = lse[i] - weighted / sum;
    }
}
