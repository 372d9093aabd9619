/*
 * Solution 08.8: d(s round(w / s)) / ds = round(v) + s * 1 * (-w / s^2) = round(v) - v. Outside y
 * is s Q or -s Q. So a weight that is cut off pulls s up with all its Q, one inside with half a
 * step at most. (Tempting: q alone, without - v: then s would always shrink where dy is positive,
 * however well it fits.)
 */
#include <math.h>

float lsq_start(const float *w, int n, float largest);
void lsq_forward(float *y, const float *w, float s, int n, float largest);
/* Returns ds. */
float lsq_backward(float *dw, const float *dy, const float *w, float s, int n, float largest);

float lsq_start(const float *w, int n, float largest) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += fabs((double)w[i]);
    return (float)(2 * sum / n / sqrt((double)largest));
}

static float q_of(float v, float largest) { return fminf(fmaxf(rintf(v), -largest), largest); }

void lsq_forward(float *y, const float *w, float s, int n, float largest) {
    for (int i = 0; i < n; i++) y[i] = s * q_of(w[i] / s, largest);
}

float lsq_backward(float *dw, const float *dy, const float *w, float s, int n, float largest) {
    double ds = 0;
    for (int i = 0; i < n; i++) {
        float v = w[i] / s;
        int inside = fabsf(v) <= largest;
        dw[i] = inside ? dy[i] : 0;
        ds += (double)dy[i] * (double)(q_of(v, largest) - (inside ? v : 0));
    }
    return (float)(ds / sqrt((double)n * (double)largest));
}
