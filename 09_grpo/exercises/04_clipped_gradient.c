/*
 * Exercise 09.4: derive the gradient of an objective that is clipped on both sides.
 *
 * For A < 0 nothing bounds PPO's objective when r is large: a bad token that has become ten times
 * likelier counts ten times. INTELLECT-2 bounds r in the first product, too:
 *
 *     L(logp) = -min(min(r, delta) A, clip(r, 1 - low, 1 + high) A),     r = exp(logp - old)
 *
 * with delta > 1 + high. clipped_gradient() returns dL / dlogp. There are eight cases: A above or
 * below 0, and r below the clip, inside, above it, and above delta. In how many of them is the
 * gradient 0? (On an edge either side is right.)
 *
 * This one has forgotten both bounds.
 *
 * POINTS: 3
 */
#include <math.h>

double clipped_gradient(double logp, double old, double a, double low, double high, double delta);

double clipped_gradient(double logp, double old, double a, double low, double high, double delta) {
    return -a * exp(logp - old);
}
