/* By hand, and what it is for: a scale that is learned beats that of the largest weight. */
#include "08_quant/formats.h"

#include "common/program/testing.h"

#include <math.h>

float lsq_start(const float *w, int n, float largest);
void lsq_forward(float *y, const float *w, float s, int n, float largest);
float lsq_backward(float *dw, const float *dy, const float *w, float s, int n, float largest);

Test(learn_the_step, by_hand) {
    const float w[4] = {0.6f, -1.7f, 5, -9}, dy[4] = {1, 10, 100, 1000};
    const float y_want[4] = {0.5f, -1.5f, 3.5f, -3.5f}, dw_want[4] = {1, 10, 0, 0};
    float y[4], dw[4];
    cr_assert(fabsf(lsq_start(w, 4, 7) - 2 * (16.3f / 4) / sqrtf(7)) < 1e-5f);
    lsq_forward(y, w, 0.5f, 4, 7);
    check_close("y", y, y_want, 4, 1e-6);
    float ds = lsq_backward(dw, dy, w, 0.5f, 4, 7);
    check_close("dw", dw, dw_want, 4, 0);
    /* q - v: 1 - 1.2, -3 + 3.4, and the two that are cut off */
    double want = (1 * -0.2 + 10 * 0.4 + 100 * 7 - 1000 * 7) / sqrt(4 * 7);
    cr_assert(fabs((double)ds / want - 1) < 1e-5, "ds is not %g", (double)ds);
}

/* The least ||y - w||^2 by steps against the gradient of s, with one weight of 12. */
Test(learn_the_step, an_outlier_does_not_set_all_steps) {
    enum { N = 512 };
    static float w[N], y[N], dy[N], dw[N], back[N];
    for (int i = 0; i < N; i++) w[i] = i ? rng_normal(1, 1, (uint64_t)i) : 12;
    float s = lsq_start(w, N, 7);
    for (int step = 0; step < 400; step++) {
        lsq_forward(y, w, s, N, 7);
        for (int i = 0; i < N; i++) dy[i] = 2 * (y[i] - w[i]);
        s -= 0.003f * lsq_backward(dw, dy, w, s, N, 7);
        cr_assert(s > 0.01f && s < 10, "s became %g", (double)s);
    }
    lsq_forward(y, w, s, N, 7);
    quant_round_trip(back, NULL, w, 1, N, &(QuantFormat){I4, 1, 0, false}, NULL);
    double learned = quant_error(y, w, N), absmax = quant_error(back, w, N);
    cr_assert(learned < 0.8 * absmax, "%g with s = %g; by the largest weight %g", learned,
              (double)s, absmax);
}
