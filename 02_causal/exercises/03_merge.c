/*
 * Exercise 02.3: merge two halves.
 *
 * A long cache is read by two workers: one saw the first half of the keys, the other the second.
 * Each has a state (m, l) and an unnormalised output o. Write merge(): afterwards a and o_a are
 * what one worker would have who saw all keys. This is how GPUs decode from long caches ("flash
 * decoding", Dao et al. 2023), and how attention is spread over machines ("ring attention", Liu et
 * al. 2023).
 *
 * A worker may have seen no key at all: then its m is -infinity, its l and o are 0. Two such
 * workers must not make a NaN.
 *
 * POINTS: 2
 */
#include "02_causal/causal.h"

#include <math.h>

void merge(OnlineSoftmax *a, float *o_a, const OnlineSoftmax *b, const float *o_b, int v_dim);

void merge(OnlineSoftmax *a, float *o_a, const OnlineSoftmax *b, const float *o_b, int v_dim) {
    /* Your code here. */
}
