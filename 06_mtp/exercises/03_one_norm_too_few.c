/*
 * Exercise 06.3: one norm too few.
 *
 * A state should be handed to a module after the decoder's last norm, h = norm(x) with weights w.
 * For months a serving program handed x itself on, and nobody saw it: the module's own hnorm, with
 * weights v, makes numbers of a usual size of either. Drafts only were accepted less often.
 *
 * Derive how the two differ. With rms(x) = sqrt(mean(x^2)) and eps = 0,
 *
 *     hnorm(norm(x))_j  =  factor(x, w) * w_j * hnorm(x)_j
 *
 * Fill in factor(), for x and w of d numbers. Then: for which w is there no difference at all?
 * no_difference gets 1 for "all numbers of w are 1", 2 for "all are equal and not 0", 3 for "none".
 *
 * POINTS: 3
 */
#include <math.h>

extern const int no_difference;
float factor(const float *x, const float *w, int d);

const int no_difference = 0;

float factor(const float *x, const float *w, int d) { return 1; }
