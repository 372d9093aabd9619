/*
 * Exercise 09.4: derive the gradient of the clipped objective.
 *
 *     L(logp) = -min(r A, clip(r, 1 - low, 1 + high) A),     r = exp(logp - old)
 *
 * clipped_gradient() returns dL / dlogp. There are six cases: A above or below 0, and r below the
 * clip, inside, or above it. In two of the six the gradient is 0, and those are not the two that
 * come to mind first: ask which of the two products is the smaller. (On an edge either is right.)
 *
 * This one has forgotten the clip.
 *
 * POINTS: 3
 */
#include <math.h>

double clipped_gradient(double logp, double old, double a, double low, double high);

double clipped_gradient(double logp, double old, double a, double low, double high) {
    return -a * exp(logp - old);
}
