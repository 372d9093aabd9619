/*
 * Solution 09.4: dr / dlogp = r, so where r itself is in the smaller product the gradient is -r A,
 * and where a bound is, 0. For A > 0 the smaller factor counts: above 1 + high that is the clip's
 * bound, delta or no delta. Two cases of 0. For A < 0 the larger factor counts: below 1 - low the
 * clip's bound, 1 - low. Above the clip it is r, until delta holds it. Two cases of 0 again, so
 * four of eight. (Tempting: 0 for A < 0 as soon as r is above 1 + high. There a bad token has
 * become likelier, and this is just where it must be pushed down. And to forget that delta plays
 * no part for A > 0.)
 */
#include <math.h>

double clipped_gradient(double logp, double old, double a, double low, double high, double delta);

double clipped_gradient(double logp, double old, double a, double low, double high, double delta) {
    double r = exp(logp - old);
    if (a > 0 && r > 1 + high) return 0;
    if (a < 0 && (r < 1 - low || r > delta)) return 0;
    return -a * r;
}
