/*
 * Exercise 08.7: find the two mistakes.
 *
 * plain_gptq() is GPTQ in plain loops, column after column, with INT4 groups whose scales are made
 * when their first column's turn comes. u is the upper triangle with H^-1 = u^T u. On one group it
 * was tried with weights whose inputs do not depend on each other, and agreed with gptq(). With two
 * groups and true inputs it does not. Two lines are wrong. Mend both.
 *
 * POINTS: 3
 */
#include "08_quant/formats.h"

#include <math.h>
#include <string.h>

/* w [out, in] becomes what it is worth; scales [out, in / group] */
void plain_gptq(float *w, float *scales, const float *u, int out, int in, int group);

void plain_gptq(float *w, float *scales, const float *u, int out, int in, int group) {
    const QuantFormat int4 = {I4, 1, group, false};
    for (int r = 0; r < out; r++) {
        float *row = w + r * in, original[in];
        memcpy(original, row, sizeof original);
        for (int i = 0; i < in; i++) {
            float *scale = &scales[(r * in + i) / group];
            if (i % group == 0) {
                float amax = 0;
                for (int j = i; j < i + group; j++) amax = fmaxf(amax, fabsf(original[j]));
                *scale = quant_scale(amax, &int4);
            }
            float q = *scale * quant_round(row[i] / *scale, I4);
            float e = row[i] - q;
            for (int j = i + 1; j < in; j++) row[j] -= e * u[i * in + j];
            row[i] = q;
        }
    }
}
