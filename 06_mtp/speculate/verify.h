/*
 * Looking at a guess: may it stay, and what comes instead if not.
 *
 * A draft d was drawn from q, and the model says p, after temperature, top-k, top-p and penalties
 * (Leviathan et al. 2023; Chen et al. 2023):
 *
 *     d stays           if u q(d) < p(d)                 u uniform in [0, 1)
 *     else comes        one of max(p - q, 0) / sum of it
 *
 * The token that is left has distribution p, whatever q was: x comes as an accepted draft with
 * min(p(x), q(x)), and as a replacement with max(p(x) - q(x), 0); together that is p(x). A good q
 * only makes the first way frequent: sum_x min(p(x), q(x)) of all drafts stay.
 *
 * A draft that was not drawn, but is what the drafter holds most likely, has q = 1 on itself: it
 * stays with probability p(d), and else p without d is drawn from.
 *
 * The comparison is strict: u can be 0, and then u q <= p would let a token pass that has p = 0.
 */
#ifndef VERIFY_H
#define VERIFY_H

#include <stdbool.h>
#include <stdint.h>

/* p and q [vocab]; q NULL: all of it is on the draft. The product is exact in double precision. */
bool verify_accepts(const float *p, const float *q, int32_t draft, float u);

/* What comes instead of a refused draft, picked by `random` from `rest` [vocab], which becomes
 * max(p - q, 0). Where rounding leaves nothing of that (p and q are equal but for their last bits),
 * it is p. */
int32_t verify_replace(float *rest, const float *p, const float *q, int32_t draft, int vocab,
                       float random);

/* How likely a draft is to stay: sum of min(p, q). */
double verify_acceptance(const float *p, const float *q, int vocab);

/* ---- what it brings ---- */

/*
 * Tokens that a step makes on average when draft j is accepted with probability a[j - 1], once
 * those before it were: 1 + a_1 + a_1 a_2 + ... For one a it is (1 - a^{k+1}) / (1 - a).
 */
double speculate_tokens(const double *a, int drafts);

/* Plain steps are 1. A step with k drafts costs `verify` for the k + 1 rows and `draft` for each
 * draft. */
double speculate_speedup(const double *a, int drafts, double verify, double draft);

#endif
