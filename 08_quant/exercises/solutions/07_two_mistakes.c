/*
 * Solution 08.7: e is the error divided by u_ii: row i of u says how much the others move when
 * column i moves by u_ii. With inputs that do not depend on each other nothing is carried, so it
 * did not show. And the second group's scale must be made of its weights as they are by then, which
 * have taken over what the first group lost: made of the original ones, it cuts off what has grown.
 * (Tempting: to suspect `row[i] = q` behind the loop. It may stand before or behind.)
 */
#include "08_quant/formats.h"

#include <math.h>

/* w [out, in] becomes what it is worth; scales [out, in / group] */
void plain_gptq(float *w, float *scales, const float *u, int out, int in, int group);

void plain_gptq(float *w, float *scales, const float *u, int out, int in, int group) {
    const QuantFormat int4 = {I4, 1, group, false};
    for (int r = 0; r < out; r++) {
        float *row = w + r * in;
        for (int i = 0; i < in; i++) {
            float *scale = &scales[(r * in + i) / group];
            if (i % group == 0) {
                float amax = 0;
                for (int j = i; j < i + group; j++) amax = fmaxf(amax, fabsf(row[j]));
                *scale = quant_scale(amax, &int4);
            }
            float q = *scale * quant_round(row[i] / *scale, I4);
            float e = (row[i] - q) / u[i * in + i];
            for (int j = i + 1; j < in; j++) row[j] -= e * u[i * in + j];
            row[i] = q;
        }
    }
}
