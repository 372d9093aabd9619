/*
 * Fake quantisation, block by block. The rounding is that of formats.h, so a trained model that is
 * quantised computes what it was trained with.
 */
#include "08_quant/qat.h"

#include <float.h>
#include <math.h>

void fake_quantise_forward_cpu(float *y, float *scales, const float *w, int64_t blocks,
                               int64_t block, float largest, float clip_at) {
#pragma omp parallel for schedule(static)
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
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < blocks; n++)
        for (int64_t j = n * block; j < (n + 1) * block; j++) {
            float gradient = fabsf(rintf(w[j] / scales[n])) <= largest ? dy[j] : 0;
            dw[j] = add ? dw[j] + gradient : gradient;
        }
}
