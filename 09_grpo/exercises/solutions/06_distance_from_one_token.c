/*
 * Solution 09.6: let x = ref / pi = e^d with d = logp_ref - logp. The mean of x f under pi is that
 * of f under ref, so x log x = d e^d has the right mean, and x - 1, whose mean is 0, may be taken
 * off: x log x - x + 1 lies above its tangent and is never below 0. Its derivative with respect to
 * logp is -d e^d. (Tempting: k3 with pi and ref changed over, e^-d + d - 1. It is never negative
 * either, but its mean under *pi* is another number. And log x alone, whose mean under pi is
 * -KL(pi | ref).) Its weakness: where ref holds a token much likelier than pi does, x is large, and
 * such tokens are rarely drawn. The other direction has no such factor, which is why it is in use.
 */
#include <math.h>

double distance(double logp, double logp_ref);
double slope(double logp, double logp_ref);

double distance(double logp, double logp_ref) {
    double d = logp_ref - logp, x = exp(d);
    return x * d - x + 1;
}

double slope(double logp, double logp_ref) {
    double d = logp_ref - logp;
    return -d * exp(d);
}
