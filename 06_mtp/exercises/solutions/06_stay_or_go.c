/*
 * Solution 06.6. Accept with min(1, p / q), without a division that could be by zero; and what q
 * has taken already must not be given again. The tempting answer draws the replacement from p:
 * tokens that are guessed often then come too often.
 */
#include "06_mtp/speculate/verify.h"

#include "common/text/sampler.h"

static float q_of(const float *q, int32_t draft, int i) { return q ? q[i] : (float)(i == draft); }

bool verify_accepts(const float *p, const float *q, int32_t draft, float u) {
    return (double)u * q_of(q, draft, draft) < p[draft];
}

int32_t verify_replace(float *rest, const float *p, const float *q, int32_t draft, int vocab,
                       float random) {
    float sum = 0;
    for (int i = 0; i < vocab; i++) {
        rest[i] = p[i] > q_of(q, draft, i) ? p[i] - q_of(q, draft, i) : 0;
        sum += rest[i];
    }
    return sample_weights(sum > 0 ? rest : p, vocab, random);
}
