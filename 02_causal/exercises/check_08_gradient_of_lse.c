/* Checks exercise 02.8 by finite differences in double. */
#include "common/program/testing.h"

#include <math.h>

void score_gradients(float *ds, const float *s, const float *v, const float *o, float lse,
                     const float *d_o, float dlse, int keys, int v_dim);

enum { KEYS = 9, DIM = 4 };

static double lse_of(const double *s) {
    double sum = 0;
    for (int j = 0; j < KEYS; j++) sum += exp(s[j]);
    return log(sum);
}

/* d_o . o + dlse lse: its derivative with respect to s is what we ask for. */
static double loss(const double *s, const float *v, const float *d_o, double dlse) {
    double lse = lse_of(s), sum = dlse * lse;
    for (int j = 0; j < KEYS; j++)
        for (int c = 0; c < DIM; c++) sum += d_o[c] * exp(s[j] - lse) * v[j * DIM + c];
    return sum;
}

static void compare(float dlse) {
    float s[KEYS], v[KEYS * DIM], o[DIM], d_o[DIM], ds[KEYS], want[KEYS];
    double x[KEYS];
    for (int j = 0; j < KEYS; j++) x[j] = s[j] = rng_normal(5, 0, (uint64_t)j);
    for (int i = 0; i < KEYS * DIM; i++) v[i] = rng_normal(5, 1, (uint64_t)i);
    for (int c = 0; c < DIM; c++) {
        double sum = 0;
        d_o[c] = rng_normal(5, 2, (uint64_t)c);
        for (int j = 0; j < KEYS; j++) sum += exp(x[j] - lse_of(x)) * v[j * DIM + c];
        o[c] = (float)sum;
    }
    for (int j = 0; j < KEYS; j++) {
        double h = 1e-4, old = x[j], side[2];
        for (int i = 0; i < 2; i++) {
            x[j] = i ? old + h : old - h;
            side[i] = loss(x, v, d_o, dlse);
        }
        x[j] = old;
        want[j] = (float)((side[1] - side[0]) / (2 * h));
        ds[j] = NAN;
    }
    score_gradients(ds, s, v, o, (float)lse_of(x), d_o, dlse, KEYS, DIM);
    check_close("ds", ds, want, KEYS, 1e-5); /* h^2 and the roundings of F32 */
}

Test(gradient_of_lse, without_one) { compare(0); }
Test(gradient_of_lse, with_one) { compare(1.5f); }
Test(gradient_of_lse, of_either_sign) { compare(-0.7f); }
