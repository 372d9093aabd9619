/*
 * Exercise 07.8: a table with few cosines.
 *
 * fill_table() writes cos(p f[i]) and sin(p f[i]) for every place p and pair i. It calls
 * counted_cos() and counted_sin() once for each number: 2 x places x pairs calls. Make it
 * 2 x pairs calls in all, with the same numbers to ten digits. (cos() and sin() of math.h are not
 * allowed.)
 *
 * POINTS: 3
 */
#include "07_rope/exercises/few_turns.h"

void fill_table(double *c, double *s, const double *f, int pairs, int places) {
    for (int i = 0; i < pairs; i++) {
        double x = 1, y = 0, cosine = counted_cos(f[i]), sine = counted_sin(f[i]);
        for (int p = 0; p < places; p++) {
            c[p * pairs + i] = x;
            s[p * pairs + i] = y;
            double next = x * cosine - y * sine;
            y = x * sine + y * cosine;
            x = next;
        }
    }
}
