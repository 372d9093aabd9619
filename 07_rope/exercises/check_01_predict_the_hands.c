/* The predictions against the project's own frequencies, and against turning real pairs. */
#include "07_rope/rope.h"

#include <criterion/criterion.h>
#include <math.h>

extern const int slowest_round, come_round, alias_of_one, alias_of_two;

Test(predict, hands) {
    RopeConfig v3 = rope_config(64, 4096);
    double f[32];
    int round = 0;
    rope_frequencies(&v3, f);
    for (int i = 0; i < 32; i++) round += 4096 * f[i] >= 2 * M_PI;
    cr_assert(slowest_round == lround(2 * M_PI / f[31]), "slowest_round is not %d", slowest_round);
    cr_assert(come_round == round, "come_round is not %d", come_round);
}

/* The smallest distance at which every hand points where it pointed at 0. */
static int alias(const double *turns, int hands) {
    for (int distance = 1;; distance++) {
        int same = 1;
        for (int i = 0; i < hands; i++) same &= cos(2 * M_PI * turns[i] * distance) > 1 - 1e-9;
        if (same) return distance;
    }
}

Test(predict, aliases) {
    const double turns[] = {1.0 / 4, 1.0 / 10};
    cr_assert(alias_of_one == alias(turns, 1), "alias_of_one is not %d", alias_of_one);
    cr_assert(alias_of_two == alias(turns, 2), "alias_of_two is not %d", alias_of_two);
}
