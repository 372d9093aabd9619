/*
 * Solution 02.8. The derivative of log sum exp(s_k) with respect to s_j is exp(s_j) / sum exp(s_k)
 * = p_j. So
 *
 *     ds_j = p_j (dp_j - delta) + dlse p_j = p_j (dp_j - delta + dlse)
 *
 * and all that a kernel needs is delta - dlse in the place of delta. The tempting wrong answer adds
 * dlse outside of the bracket: a score that nobody heeds would then still get all of it.
 */
#include <math.h>

void score_gradients(float *ds, const float *s, const float *v, const float *o, float lse,
                     const float *d_o, float dlse, int keys, int v_dim);

void score_gradients(float *ds, const float *s, const float *v, const float *o, float lse,
                     const float *d_o, float dlse, int keys, int v_dim) {
    float delta = -dlse;
    for (int c = 0; c < v_dim; c++) delta += d_o[c] * o[c];
    for (int j = 0; j < keys; j++) {
        float dp = 0;
        for (int c = 0; c < v_dim; c++) dp += d_o[c] * v[j * v_dim + c];
        ds[j] = expf(s[j] - lse) * (dp - delta);
    }
}
