/* Quarter turns by hand, then complex numbers, then what it is all for: only distances count. */
#include "common/core/rng.h"
#include "common/program/testing.h"

#include <complex.h>
#include <math.h>

void turn_pairs(float *x, const float *c, const float *s, int pairs);

enum { PAIRS = 7 };

Test(turn_pairs, a_quarter_turn) {
    float x[] = {1, 0, 3, 1, -2, 5}, c[] = {0, 0, 0}, s[] = {1, 1, 1};
    const float expected[] = {0, 1, -1, 3, -5, -2};
    turn_pairs(x, c, s, 3);
    check_close("pairs", x, expected, 6, 0);
}

static void turn_to(float *x, int position) {
    float c[PAIRS], s[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        double f = pow(10000, -2.0 * i / (2 * PAIRS));
        c[i] = (float)cos(position * f);
        s[i] = (float)sin(position * f);
    }
    turn_pairs(x, c, s, PAIRS);
}

Test(turn_pairs, as_complex_numbers) {
    float x[2 * PAIRS], expected[2 * PAIRS];
    for (int i = 0; i < 2 * PAIRS; i++) x[i] = rng_normal(1, 1, (uint64_t)i);
    for (int i = 0; i < PAIRS; i++) {
        double complex turn = cexp(I * 33 * pow(10000, -2.0 * i / (2 * PAIRS)));
        double complex y = (x[2 * i] + I * (double)x[2 * i + 1]) * turn;
        expected[2 * i] = (float)creal(y);
        expected[2 * i + 1] = (float)cimag(y);
    }
    turn_to(x, 33);
    check_close("pairs", x, expected, 2 * PAIRS, 1e-6); /* two products, cos and sin rounded */
}

Test(turn_pairs, only_the_distance_counts) {
    double product[2] = {0};
    for (int side = 0; side < 2; side++) {
        float q[2 * PAIRS], k[2 * PAIRS];
        for (int i = 0; i < 2 * PAIRS; i++) {
            q[i] = rng_normal(1, 2, (uint64_t)i);
            k[i] = rng_normal(1, 3, (uint64_t)i);
        }
        turn_to(q, side ? 105 : 12);
        turn_to(k, side ? 100 : 7);
        for (int i = 0; i < 2 * PAIRS; i++) product[side] += (double)q[i] * k[i];
        float untouched[2 * PAIRS];
        for (int i = 0; i < 2 * PAIRS; i++) untouched[i] = rng_normal(1, 2, (uint64_t)i);
        cr_assert(fabsf(q[0] - untouched[0]) > 1e-3f, "nothing was turned");
    }
    cr_assert(fabs(product[0] - product[1]) <= 1e-5, "q.k is %g at 12 and 7, %g at 105 and 100",
              product[0], product[1]);
}
