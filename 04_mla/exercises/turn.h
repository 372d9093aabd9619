/* What exercise 04.7 shares with its check. */
#ifndef TURN_H
#define TURN_H

#include <math.h>

/*
 * Turns x in place as a token at this position is turned: numbers 2i and 2i + 1 are a point in the
 * plane, turned by the angle position / 10^(4 * 2i / D). Turning by a, then by b, is turning by
 * a + b; turning by -a undoes turning by a. D is even. (Chapter 07 is about this.)
 */
static inline void turn(float *x, int D, int position) {
    for (int i = 0; i < D; i += 2) {
        double angle = position * pow(10000, -(double)i / D), c = cos(angle), s = sin(angle);
        float a = x[i], b = x[i + 1];
        x[i] = (float)(a * c - b * s);
        x[i + 1] = (float)(a * s + b * c);
    }
}

/*
 * out [rank]: the vector whose dot product with the latent c of the token at position s is the
 * score of a query q [D] at position p, when keys and queries are turned whole:
 *
 *     out . c  =  (R_p q) . (R_s W_uk c)            W_uk [D, rank]
 */
void turned_query(float *out, const float *w_uk, const float *q, int D, int rank, int p, int s);

#endif
