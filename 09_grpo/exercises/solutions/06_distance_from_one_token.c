/*
 * Solution 09.6: with d = logp_ref - logp, e^d - 1 - d (Schulman's k3): e^d lies above its tangent
 * at 0, which is 1 + d. Its derivative with respect to logp is 1 - e^d. The mean of *that* under pi
 * is not the gradient of KL, for the distribution that tokens are drawn from moves, too;
 * multiplying by r = pi / pi_old, through which the derivative then also runs, mends it
 * (DeepSeek-V3.2, 3.1).
 */
#include <math.h>

double distance(double logp, double logp_ref);
double slope(double logp, double logp_ref);

double distance(double logp, double logp_ref) {
    double d = logp_ref - logp;
    return exp(d) - 1 - d;
}

double slope(double logp, double logp_ref) { return 1 - exp(logp_ref - logp); }
