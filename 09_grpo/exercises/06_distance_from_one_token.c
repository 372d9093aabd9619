/*
 * Exercise 09.6: the other distance, from one token.
 *
 * The lesson's leash is KL(pi | ref) = sum over tokens of pi log(pi / ref). It asks that pi put
 * nothing where ref has nothing. The other direction,
 *
 *     KL(ref | pi) = sum over tokens of ref log(ref / pi),
 *
 * asks that pi forget nothing that ref says. But tokens are drawn from pi, not from ref, and of a
 * drawn token only two numbers are at hand, logp = log pi(token) and logp_ref = log ref(token).
 * distance() shall estimate KL(ref | pi) from them so that
 *
 *   - its mean over tokens drawn from pi is KL(ref | pi), and
 *   - it is never below 0, and 0 where the two are equal.
 *
 * slope() is the derivative of distance() with respect to logp, the token held fixed.
 *
 * What stands here belongs to the lesson's direction, and is often negative.
 *
 * POINTS: 3
 */
#include <math.h>

double distance(double logp, double logp_ref);
double slope(double logp, double logp_ref);

double distance(double logp, double logp_ref) { return logp - logp_ref; }

double slope(double logp, double logp_ref) { return 1; }
