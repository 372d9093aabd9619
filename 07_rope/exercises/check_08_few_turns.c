/* The table against math.h, and the number of calls. */
#include "07_rope/exercises/few_turns.h"

#include "07_rope/rope.h"

#include <criterion/criterion.h>
#include <math.h>

enum { PAIRS = 8, PLACES = 2000 };

static int calls;

double counted_cos(double angle) {
    calls++;
    return cos(angle);
}

double counted_sin(double angle) {
    calls++;
    return sin(angle);
}

Test(few_turns, same_table_few_calls) {
    static double c[PLACES * PAIRS], s[PLACES * PAIRS];
    RopeConfig cfg = rope_config(2 * PAIRS, PLACES);
    double f[PAIRS];
    rope_frequencies(&cfg, f);
    for (int i = 0; i < PLACES * PAIRS; i++) c[i] = s[i] = NAN;
    fill_table(c, s, f, PAIRS, PLACES);
    for (int p = 0; p < PLACES; p++)
        for (int i = 0; i < PAIRS; i++) /* 2000 products, each off by 2^-53: 2e-13 */
            cr_assert(fabs(c[p * PAIRS + i] - cos(p * f[i])) <= 1e-10 &&
                          fabs(s[p * PAIRS + i] - sin(p * f[i])) <= 1e-10,
                      "pair %d at place %d: (%g, %g), not (%g, %g)", i, p, c[p * PAIRS + i],
                      s[p * PAIRS + i], cos(p * f[i]), sin(p * f[i]));
    cr_assert(calls <= 2 * PAIRS, "%d calls; %d would do", calls, 2 * PAIRS);
}
