/*
 * Solution 08.6: the scale is taken as a constant, although it is made of the largest weight.
 * (Tempting: fabsf(w) <= largest * scale as the condition: a weight that is a hair above the last
 * step still rounds to it, and would lose its gradient.)
 */
#include "08_quant/qat.h"

#include <float.h>
#include <math.h>

void fake_quantise_forward_cpu(float *y, float *scales, const float *w, int64_t blocks,
                               int64_t block, float largest, float clip_at) {
    for (int64_t n = 0; n < blocks; n++) {
        float amax = 0;
        for (int64_t j = n * block; j < (n + 1) * block; j++) amax = fmaxf(amax, fabsf(w[j]));
        float scale = amax == 0 ? 1 : fmaxf(clip_at * amax / largest, FLT_MIN);
        for (int64_t j = n * block; j < (n + 1) * block; j++)
            y[j] = scale * fminf(fmaxf(rintf(w[j] / scale), -largest), largest);
        scales[n] = scale;
    }
}

void fake_quantise_backward_cpu(float *dw, int add, const float *dy, const float *w,
                                const float *scales, int64_t blocks, int64_t block, float largest) {
    for (int64_t j = 0; j < blocks * block; j++) {
        float gradient = fabsf(rintf(w[j] / scales[j / block])) <= largest ? dy[j] : 0;
        dw[j] = add ? dw[j] + gradient : gradient;
    }
}
