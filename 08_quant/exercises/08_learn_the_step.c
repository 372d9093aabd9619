/*
 * Exercise 08.8: learn the step.
 *
 * Quantisation-aware training makes the scale of the largest weight. LSQ (Esser et al. 2020) learns
 * it like a weight: one outlier need not set the steps of all others any more. With v = w / s,
 *
 *     y  = s q,  q = round(v) cut to -Q .. Q                     as before
 *     dw = dy inside (|v| <= Q), 0 outside                       as before (here: v, not round(v))
 *     dy/ds = q - v inside, -Q or Q outside                      (eq. 3)
 *
 * and the gradient of s, the sum over all n weights of dy times that, is divided by sqrt(n Q), so
 * that s learns no faster than the weights do (section 2.2). Training begins with
 * s = 2 mean |w| / sqrt(Q).
 *
 * Change the model: fill in the three functions. For eq. 3: where does it come from? Inside, y is
 * s round(w / s); differentiate as if round() had the derivative 1.
 *
 * POINTS: 3
 */
#include <math.h>

float lsq_start(const float *w, int n, float largest);
void lsq_forward(float *y, const float *w, float s, int n, float largest);
/* Returns ds. */
float lsq_backward(float *dw, const float *dy, const float *w, float s, int n, float largest);

float lsq_start(const float *w, int n, float largest) { return 1; }

void lsq_forward(float *y, const float *w, float s, int n, float largest) {
    for (int i = 0; i < n; i++) y[i] = w[i];
}

float lsq_backward(float *dw, const float *dy, const float *w, float s, int n, float largest) {
    for (int i = 0; i < n; i++) dw[i] = dy[i];
    return 0;
}
