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
    for (int p = 0; p < places; p++)
        for (int i = 0; i < pairs; i++) {
            c[p * pairs + i] = counted_cos(p * f[i]);
            s[p * pairs + i] = counted_sin(p * f[i]);
        }
}
