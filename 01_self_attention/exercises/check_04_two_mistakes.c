/* Checks exercise 01.4 against the reference of the chapter. */
#include "01_self_attention/attention.h"
#include "common/program/testing.h"

#include <math.h>

void attention_head(float *o, const float *q, const float *k, const float *v, int t, int s, int d);

enum { MOST = 100, D = 8 };

static void compare(int t, int s, float shift) {
    float q[MOST * D], k[MOST * D], v[MOST * D], o[MOST * D], want[MOST * D], weights[MOST * MOST];
    for (int i = 0; i < MOST * D; i++) {
        q[i] = rng_normal(1, 1, (uint64_t)i);
        k[i] = rng_normal(1, 2, (uint64_t)i);
        v[i] = rng_normal(1, 3, (uint64_t)i);
        o[i] = NAN;
    }
    for (int i = 0; i < MOST;
         i++) { /* the last column adds shift * shift to every score, or takes it away */
        q[i * D + D - 1] = fabsf(shift);
        k[i * D + D - 1] = shift;
    }
    attention_head(o, q, k, v, t, s, D);
    attention_reference_forward_cpu(want, weights, q, k, v, 1, t, s, D, D);
    /* Scores of up to 1800 are rounded at 2^-14 in F32, which is the relative error of a weight. */
    check_close("attention_head", o, want, (int64_t)t * D, shift ? 2e-3 : 1e-5);
}

Test(two_mistakes, four_friendly_tokens) { compare(4, 4, 0); }
Test(two_mistakes, more_keys_than_queries) { compare(3, 100, 0); }
Test(two_mistakes, more_queries_than_keys) { compare(40, 7, 0); }
Test(two_mistakes, scores_far_above_zero) { compare(5, 5, 40); }
Test(two_mistakes, scores_far_below_zero) { compare(5, 5, -40); }
