/* Against counting all ways to draw, and where it must be certain. */
#include <criterion/criterion.h>
#include <math.h>

double pass_at_k(int n, int c, int k);

/* Of all subsets of k of n answers, the first c of which are right: the share with one of these. */
static double counted(int n, int c, int k) {
    int all = 0, good = 0;
    for (unsigned set = 0; set < 1u << n; set++) {
        if (__builtin_popcount(set) != k) continue;
        all++, good += (set & ((1u << c) - 1)) != 0;
    }
    return (double)good / all;
}

Test(pass_at_k, is_what_counting_says) {
    for (int n = 1; n <= 9; n++)
        for (int c = 0; c <= n; c++)
            for (int k = 1; k <= n; k++)
                cr_assert(fabs(pass_at_k(n, c, k) - counted(n, c, k)) < 1e-12,
                          "n %d, c %d, k %d: %g, counted %g", n, c, k, pass_at_k(n, c, k),
                          counted(n, c, k));
}

Test(pass_at_k, large) {
    cr_assert(fabs(pass_at_k(1000, 500, 1) - 0.5) < 1e-12);
    cr_assert(pass_at_k(1000, 1, 1000) == 1 && pass_at_k(1000, 0, 1000) == 0);
    cr_assert(fabs(pass_at_k(1000, 1, 10) - 0.01) < 1e-12);
}
