/*
 * Solution 07.8: one cosine and one sine a pair, and from place to place a multiplication of
 * complex numbers. Each rounds a little, and 2^-53 times some thousand places is far from ten
 * digits. (Tempting: cos(2a) = 2 cos(a)^2 - 1 and its like, which double an error at every step.)
 * The program does not do so: its table is made once, and exactness is worth more than
 * milliseconds.
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
