/* The predictions against the project's own frequencies, and against turning real pairs. */
#include "07_rope/rope.h"

#include <criterion/criterion.h>
#include <math.h>

extern const double slowest_round;
extern const int come_round, alias_of_one, alias_of_two;

Test(predict, hands) {
    RopeConfig cfg = rope_config(128, 16384);
    double f[64];
    int round = 0;
    cfg.rope_theta = 500000;
    rope_frequencies(&cfg, f);
    for (int i = 0; i < 64; i++) round += 16384 * f[i] >= 2 * M_PI;
    cr_assert(fabs(slowest_round * f[63] / (2 * M_PI) - 1) <= 0.01, "slowest_round is not %g",
              slowest_round);
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
    const double turns[] = {2.0 / 5, 1.0 / 6};
    cr_assert(alias_of_one == alias(turns, 1), "alias_of_one is not %d", alias_of_one);
    cr_assert(alias_of_two == alias(turns, 2), "alias_of_two is not %d", alias_of_two);
}
