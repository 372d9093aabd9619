/*
 * Exercise 06.6: may it stay?
 *
 * A draft was drawn from q; the model says p (both [vocab], sums of 1). q NULL: the draft was not
 * drawn, all of q is on it. Write the two functions that leave p as the distribution of what comes
 * out:
 *
 *     verify_accepts    does the draft stay? u is uniform in [0, 1), and can be 0
 *     verify_replace    what comes instead: fill `rest` with what is drawn from (any sum), and let
 *                       sample_weights(rest, vocab, random) pick. Rounding can leave nothing in
 *                       it; then draw from p
 *
 * POINTS: 2
 *
 * REPLACES: verify_accepts, verify_replace in 06_mtp/speculate/verify.c
 *
 * TESTS: test_speculate_drawn:verify
 */
#include "06_mtp/speculate/verify.h"

#include "common/text/sampler.h"

bool verify_accepts(const float *p, const float *q, int32_t draft, float u) { return u < p[draft]; }

int32_t verify_replace(float *rest, const float *p, const float *q, int32_t draft, int vocab,
                       float random) {
    return sample_weights(p, vocab, random);
}
