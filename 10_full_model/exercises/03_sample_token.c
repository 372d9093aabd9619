/*
 * Exercise 10.3: write the sampler
 *
 * From logits [vocab] and a uniform number in [0, 1), choose a token:
 *   - temperature 0: the largest logit, the smaller id if there are two;
 *   - otherwise p_i is proportional to exp(logit_i / temperature). Put the tokens in order of p,
 *     largest first (equal ones: smaller id first). Keep the first top_k (0: all); of these the
 *     shortest beginning that has at least top_p of their probability; of these the ones that are
 *     at least min_p times as likely as the first. At least one token stays. Draw from what is
 *     kept; its logprob is the log of its share of the kept probability (temperature 0: 0).
 *
 * POINTS: 4
 * REPLACES: sample_token in common/text/sampler.c
 * TESTS: test_sampler:sampling
 */
#include "common/text/sampler.h"

SampledToken sample_token(const float *logits, int vocab, const Sampling *sampling, float random) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return (SampledToken){best, 0}; /* greedy: right for temperature 0 only */
}
