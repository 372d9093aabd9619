/*
 * Solution 09.4: dr / dlogp = r. Where the first product is the smaller, dL / dlogp = -r A; where
 * the clipped one is, it does not depend on logp. For A > 0 the clipped one is smaller only above 1
 * + high: the token has become likely enough. Below 1 - low it is larger, and r A counts: a good
 * token that has become less likely is pulled back, with a gradient. For A < 0 all is the other way
 * round.
 */
#include <math.h>

double clipped_gradient(double logp, double old, double a, double low, double high);

double clipped_gradient(double logp, double old, double a, double low, double high) {
    double r = exp(logp - old);
    if (a > 0 && r > 1 + high) return 0;
    if (a < 0 && r < 1 - low) return 0;
    return -a * r;
}
