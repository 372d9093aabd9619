/*
 * Exercise 09.6: a distance from one token.
 *
 * KL(pi | ref) = sum over tokens of pi log(pi / ref). Of a drawn token only two numbers are at
 * hand, logp = log pi(token) and logp_ref = log ref(token). distance() shall estimate KL from them
 * so that
 *
 *   - its mean over tokens drawn from pi is KL(pi | ref), and
 *   - it is never below 0, and 0 where the two are equal.
 *
 * The obvious estimate, logp - logp_ref, has the right mean and is often negative. Add something
 * to it whose mean under pi is 0: sum of pi (ref / pi - 1) is such a thing.
 *
 * slope() is the derivative of distance() with respect to logp, the token held fixed.
 *
 * POINTS: 3
 */
#include <math.h>

double distance(double logp, double logp_ref);
double slope(double logp, double logp_ref);

double distance(double logp, double logp_ref) { return logp - logp_ref; }

double slope(double logp, double logp_ref) { return 1; }
