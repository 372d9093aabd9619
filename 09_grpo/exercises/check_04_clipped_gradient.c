/* Against the difference of the objective, and against the chapter's term. */
#include "09_grpo/loss/policy_terms.h"

#include <criterion/criterion.h>
#include <math.h>

double clipped_gradient(double logp, double old, double a, double low, double high, double delta);

static double objective(double logp, double old, double a, double low, double high, double delta) {
    double r = exp(logp - old), clipped = fmin(fmax(r, 1 - low), 1 + high);
    return -fmin(fmin(r, delta) * a, clipped * a);
}

Test(clipped_gradient, is_the_difference) {
    const double low = 0.2, high = 0.28, delta = 1.9, old = -1.5, h = 1e-6;
    for (double a = -2; a <= 2; a += 0.5)
        for (double off = -0.8; off < 0.8; off += 0.09) {
            double logp = old + off;
            double more = objective(logp + h, old, a, low, high, delta);
            double want = (more - objective(logp - h, old, a, low, high, delta)) / (2 * h);
            double got = clipped_gradient(logp, old, a, low, high, delta);
            cr_assert(fabs(got - want) < 1e-5, "A = %g, r = %.3f: %g, but the difference is %g", a,
                      exp(off), got, want);
            PolicyTerm term =
                policy_clipped((float)exp(off), (float)a, (float)low, (float)high, (float)delta);
            cr_assert(fabs(got - (double)(term.direct + term.through)) < 1e-5);
        }
}
