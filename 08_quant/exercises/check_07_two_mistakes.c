/* Against the chapter's gptq(). */
#include "08_quant/methods/gptq.h"

#include "common/program/testing.h"

#include <math.h>

void plain_gptq(float *w, float *scales, const float *u, int out, int in, int group);

enum { OUT = 6, IN = 64, TOKENS = 200 };

/* u of gram with a damping of 0.01: H^-1 by Gauss, then u row by row. */
static void upper_factor(float *u, const float *gram) {
    static double h[IN][2 * IN];
    double mean = 0;
    for (int i = 0; i < IN; i++) mean += (double)gram[i * IN + i] / IN;
    for (int i = 0; i < IN; i++)
        for (int j = 0; j < IN; j++) {
            h[i][j] = (double)gram[i * IN + j] + (i == j ? 0.01 * mean : 0);
            h[i][IN + j] = i == j;
        }
    for (int i = 0; i < IN; i++) {
        double pivot = h[i][i];
        for (int j = 0; j < 2 * IN; j++) h[i][j] /= pivot;
        for (int r = 0; r < IN; r++) {
            double times = r == i ? 0 : h[r][i];
            for (int j = 0; j < 2 * IN && times != 0; j++) h[r][j] -= times * h[i][j];
        }
    }
    for (int i = 0; i < IN; i++) { /* H^-1 = u^T u */
        double root = sqrt(h[i][IN + i]);
        for (int j = 0; j < IN; j++) u[i * IN + j] = j < i ? 0 : (float)(h[i][IN + j] / root);
        for (int r = i + 1; r < IN; r++)
            for (int j = r; j < IN; j++)
                h[r][IN + j] -= (double)u[i * IN + r] * (double)u[i * IN + j];
    }
}

Test(two_mistakes, as_the_chapter_has_it) {
    static float gram[IN * IN], u[IN * IN], w[OUT * IN], want[OUT * IN], x[TOKENS * IN];
    float scales[OUT * 2], want_scales[OUT * 2];
    for (int i = 0; i < TOKENS * IN; i++) /* neighbours are alike */
        x[i] = rng_normal(1, 1, (uint64_t)i) + (i % IN ? 0.8f * x[i - 1] : 0);
    for (int i = 0; i < IN * IN; i++)
        for (int t = 0; t < TOKENS; t++) gram[i] += x[t * IN + i / IN] * x[t * IN + i % IN];
    for (int i = 0; i < OUT * IN; i++) want[i] = w[i] = rng_normal(1, 2, (uint64_t)i);
    QuantFormat f = {I4, 1, IN / 2, false};
    check_ok(gptq(want, want_scales, gram, OUT, IN, &f, (GptqSettings){0.01f, false}, &err), &err);
    upper_factor(u, gram);
    plain_gptq(w, scales, u, OUT, IN, IN / 2);
    /* F32 on both sides, in another order. */
    check_close("scales", scales, want_scales, OUT * 2, 1e-4);
    check_close("weights", w, want, OUT * IN, 1e-4);
}
