/*
 * Solution 02.2. The order matters: the new maximum, then the correction of what is there, then the
 * new terms.
 */
#include "02_causal/causal.h"

#include <math.h>

void online_softmax(OnlineSoftmax *state, float *restrict o, float *restrict s, int keys,
                    const float *v, int64_t v_token, int v_dim) {
    float m = state->m;
    for (int j = 0; j < keys; j++) m = s[j] > m ? s[j] : m;

    float rescale = expf(state->m - m);
    state->m = m;
    state->l *= rescale;
    for (int c = 0; c < v_dim; c++) o[c] *= rescale;

    for (int j = 0; j < keys; j++) {
        s[j] = expf(s[j] - m);
        state->l += s[j];
        for (int c = 0; c < v_dim; c++) o[c] += s[j] * v[j * v_token + c];
    }
}
