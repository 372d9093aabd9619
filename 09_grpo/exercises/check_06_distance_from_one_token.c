/* Means over whole distributions, signs, and differences. */
#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

double distance(double logp, double logp_ref);
double slope(double logp, double logp_ref);

enum { TOKENS = 20 };

static void draw_policy(double *logp, uint64_t stream) {
    double sum = 0;
    for (int i = 0; i < TOKENS; i++)
        sum += exp(logp[i] = (double)rng_normal(1, stream, (uint64_t)i));
    for (int i = 0; i < TOKENS; i++) logp[i] -= log(sum);
}

Test(distance, mean_is_kl) {
    for (uint64_t stream = 0; stream < 20; stream += 2) {
        double pi[TOKENS], ref[TOKENS], kl = 0, mean = 0;
        draw_policy(pi, stream), draw_policy(ref, stream + 1);
        for (int i = 0; i < TOKENS; i++) {
            kl += exp(ref[i]) * (ref[i] - pi[i]);
            mean += exp(pi[i]) * distance(pi[i], ref[i]);
        }
        cr_assert(fabs(mean - kl) < 1e-12 * (1 + kl), "the mean is %g, KL is %g", mean, kl);
    }
}

Test(distance, never_below_zero) {
    for (double d = -3; d <= 3; d += 0.25) {
        double x = distance(-4, -4 + d), h = 1e-6;
        cr_assert(d == 0 ? fabs(x) < 1e-12 : x > 0, "logp %g, reference %g: %g", -4.0, -4 + d, x);
        double want = (distance(-4 + h, -4 + d) - distance(-4 - h, -4 + d)) / (2 * h);
        cr_assert(fabs(slope(-4, -4 + d) - want) < 1e-6 * (1 + fabs(want)), "slope: not %g",
                  slope(-4, -4 + d));
    }
}
