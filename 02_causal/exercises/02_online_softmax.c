/*
 * Exercise 02.2: write the online softmax.
 *
 * online_softmax() takes one tile of scores s and their values v, and brings the state up to date
 * (causal.h has the contract):
 *
 *     m = max s_k,   l = sum exp(s_k - m),   o = sum exp(s_k - m) v_k   over all keys so far
 *
 * Each s[j] is replaced by exp(s[j] - m). Value j begins at v + j * v_token and has v_dim numbers.
 * Before the first tile m is -infinity, and l and o are 0. Your function decodes in the real
 * kernel: make it right for any tile size.
 *
 * POINTS: 3
 * REPLACES: online_softmax in 02_causal/causal_online.c
 * TESTS: test_online test_causal_properties:causal_properties/cached_equals_uncached_cpu
 */
#include "02_causal/causal.h"

#include <math.h>

void online_softmax(OnlineSoftmax *state, float *restrict o, float *restrict s, int keys,
                    const float *v, int64_t v_token, int v_dim) {
    /* Your code here. */
}
