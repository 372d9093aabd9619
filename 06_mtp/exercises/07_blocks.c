/*
 * Exercise 06.7: judge the whole block.
 *
 * Draft by draft, a first draft that is refused takes the second with it, however likely the model
 * holds both together. Sun et al. (2024, "Block verification accelerates speculative decoding",
 * algorithm 2) judge them jointly, and keep at least as many on average:
 *
 *     r_0 = 1,   r_i = min(1, r_{i-1} p_i(d_i) / q_i(d_i))
 *     left_i  =  sum over x of max(r_i p_{i+1}(x) - q_{i+1}(x), 0)
 *     h_i = left_i / (left_i + 1 - r_i)   for i < k;      h_k = r_k
 *
 * All k are looked at: the LAST i with u_i < h_i says how many drafts stay (none: 0). Behind i < k
 * of them comes a token drawn from max(r_i p_{i+1} - q_{i+1}, 0); behind k of them, from p_{k+1}.
 *
 * p [k + 1, vocab] and q [k, vocab] are rows for the places of the drafts, row 0 for d_1. Return
 * how many stay, and fill rest [vocab] with what is drawn from next (any sum). A quotient 0 / 0 of
 * h is 1. What is here judges draft by draft: right, but no better than it was.
 *
 * POINTS: 4
 */
#include <stdint.h>

int block_accepts(float *rest, const float *p, const float *q, const int32_t *drafts, int k,
                  int vocab, const float *u);

int block_accepts(float *rest, const float *p, const float *q, const int32_t *drafts, int k,
                  int vocab, const float *u) {
    int i = 0;
    while (i < k && u[i] * q[i * vocab + drafts[i]] < p[i * vocab + drafts[i]]) i++;
    for (int x = 0; x < vocab; x++) {
        float more = p[i * vocab + x] - (i < k ? q[i * vocab + x] : 0);
        rest[x] = more > 0 ? more : 0;
    }
    return i;
}
