/* Checks exercise 02.9: the numbers by counting, the sentences by trying them. */
#include "02_causal/causal.h"

#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

extern const long bytes_asked, matrix_bytes;
extern const int intensity, smallest_m, twice_d, with_dropout, any_order;

enum { T = 16384, BALANCE = 200 };

static long bytes_of(long m, long d) {
    long bytes = 0;
    for (long first = 0; first < T; first += m) bytes += 2L * T * d + 2L * T * d; /* K and V */
    return bytes;
}

static double intensity_of(long m, long d) {
    double operations = 2.0 * T * T * 2 * (double)d; /* S, and P V */
    return operations / (double)bytes_of(m, d);
}

Test(bytes_and_tiles, numbers) {
    cr_assert(bytes_asked == bytes_of(64, 128), "bytes_asked is not %ld", bytes_asked);
    cr_assert(matrix_bytes == 2 * 2L * T * T, "matrix_bytes is not %ld", matrix_bytes);
    cr_assert(intensity == (int)intensity_of(64, 128), "intensity is not %d", intensity);
    int m = 64;
    while (intensity_of(m, 128) < BALANCE) m += 64;
    cr_assert(smallest_m == m, "smallest_m is not %d", smallest_m);
}

Test(bytes_and_tiles, twice_d) {
    int truth = intensity_of(64, 256) > 1.5 * intensity_of(64, 128);
    cr_assert(twice_d == truth, "think about twice_d again: what grows with D?");
}

Test(bytes_and_tiles, dropout) {
    double p[4] = {0.1, 0.2, 0.3, 0.4}, mask[4] = {2, 0, 2, 0}, dp[4], o = 0, delta = 0;
    for (int j = 0; j < 4; j++) { /* values of one number, 1 + j, and do = 3 */
        o += mask[j] * p[j] * (1 + j);
        dp[j] = mask[j] * 3 * (1 + j); /* with respect to p, before the mask */
        delta += p[j] * dp[j];
    }
    cr_assert(with_dropout == (fabs(delta - 3 * o) < 1e-12),
              "think about with_dropout again: write delta as a sum over p_j dp_j");
}

Test(bytes_and_tiles, order) {
    int same = 1;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        float l[2];
        for (int backward = 0; backward < 2; backward++) {
            OnlineSoftmax state = {-INFINITY, 0};
            float o = 0;
            for (int t = 0; t < 8; t++) {
                float s[4], v[4] = {1, 2, 3, 4};
                for (int j = 0; j < 4; j++)
                    s[j] = 3 * rng_normal(seed, 0, (uint64_t)(4 * (backward ? 7 - t : t) + j));
                online_softmax(&state, &o, s, 4, v, 1, 1);
            }
            l[backward] = o / state.l;
        }
        same &= l[0] == l[1];
    }
    cr_assert(any_order == same, "think about any_order again: which sums are rounded, and when?");
}
