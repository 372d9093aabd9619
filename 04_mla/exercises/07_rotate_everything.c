/*
 * Exercise 04.7: break absorption on purpose.
 *
 * Somebody finds [nope | rope] untidy and rotates whole keys and queries by their positions, as
 * Llama does. Naive attention is happy with it. For absorbed attention they wrote turned_query()
 * below: W_uk^T q, as ever. It does not give naive attention's scores. Make it do so (turn.h says
 * what is wanted), and then count what it costs:
 *
 *   queries_needed    how many different absorbed queries one head needs for one new token with
 *                     4096 tokens in the cache, itself among them
 *   key_numbers       how many numbers of keys would have to be kept of a token in a layer instead,
 *                     so that nothing is absorbed or made again: 128 heads of 128
 *   rope_numbers      what MLA keeps of them, in V3: its part for positions alone
 *
 * POINTS: 3
 */
#include "04_mla/exercises/turn.h"

extern const int queries_needed, key_numbers, rope_numbers;

const int queries_needed = 1;
const int key_numbers = 0;
const int rope_numbers = 0;

void turned_query(float *out, const float *w_uk, const float *q, int D, int rank, int p, int s) {
    for (int c = 0; c < rank; c++) {
        out[c] = 0;
        for (int d = 0; d < D; d++) out[c] += w_uk[d * rank + c] * q[d];
    }
}
