/*
 * Exercise 02.8: derive what a gradient of lse adds.
 *
 * When a long text is spread over machines, each has a part of the keys, and the parts are merged
 * by their lse = log sum_k exp(s_k). So lse is an output like o, and the loss has a gradient with
 * respect to it, dlse. For one query, with scores s_j, values v_j and incoming gradients d_o and
 * dlse, write the gradients ds of the scores. The lesson derives them for dlse = 0, which is what
 * stands below.
 *
 * o = sum_j p_j v_j, p_j = exp(s_j - lse); v is [keys, v_dim].
 *
 * POINTS: 2
 */
#include <math.h>

void score_gradients(float *ds, const float *s, const float *v, const float *o, float lse,
                     const float *d_o, float dlse, int keys, int v_dim);

void score_gradients(float *ds, const float *s, const float *v, const float *o, float lse,
                     const float *d_o, float dlse, int keys, int v_dim) {
    float delta = 0;
    for (int c = 0; c < v_dim; c++) delta += d_o[c] * o[c];
    for (int j = 0; j < keys; j++) {
        float dp = 0;
        for (int c = 0; c < v_dim; c++) dp += d_o[c] * v[j * v_dim + c];
        ds[j] = expf(s[j] - lse) * (dp - delta);
    }
}
