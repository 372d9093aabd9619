/*
 * The online softmax of one query, in plain loops: what the lesson derives and what a decoding step
 * runs.
 *
 *     m = max s_k,   l = sum exp(s_k - m),   o = sum exp(s_k - m) v_k     over the keys seen so far
 *
 * When a tile brings a larger maximum m', everything summed so far was measured against the wrong
 * one. It is too large by the same factor exp(m' - m) everywhere, so one multiplication by exp(m -
 * m') mends it. (Milakov & Gimelshein 2018, alg. 3; with an output beside the sum: Rabe & Staats
 * 2021, Dao et al. 2022.)
 */
#include "02_causal/causal.h"

#include "common/core/fastmath.h"

/* [online_softmax] */
void online_softmax(OnlineSoftmax *state, float *restrict o, float *restrict s, int keys,
                    const float *v, int64_t v_token, int v_dim) {
    float m = state->m; /* the new maximum */
    for (int j = 0; j < keys; j++) m = s[j] > m ? s[j] : m;

    float rescale = fast_exp(state->m - m); /* 0 for the first tile: exp(-inf) */
    for (int j = 0; j < keys; j++) s[j] = fast_exp(s[j] - m);

    float l = state->l * rescale;
    for (int j = 0; j < keys; j++) l += s[j];

    for (int c = 0; c < v_dim; c++) o[c] *= rescale;
    for (int j = 0; j < keys; j++)
        for (int c = 0; c < v_dim; c++) o[c] += s[j] * v[j * v_token + c];

    *state = (OnlineSoftmax){m, l};
}
/* [/online_softmax] */
