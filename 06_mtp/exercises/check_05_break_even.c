/* The predictions against the chapter's own formula. */
#include "06_mtp/speculate/verify.h"

#include <criterion/criterion.h>

extern const double even_full, even_small, perfect_full, two_small, third;

Test(predict, break_even) {
    const double a[] = {0.9, 0.8, 0.5}, all[] = {1};
    cr_assert_float_eq(speculate_speedup(&even_full, 1, 1.1, 0.4), 1, 0.005, "even_full");
    cr_assert_float_eq(speculate_speedup(&even_small, 1, 1.1, 0.1), 1, 0.006, "even_small");
    cr_assert_float_eq(perfect_full, speculate_speedup(all, 1, 1.1, 0.4), 0.005, "perfect_full");
    cr_assert_float_eq(two_small, speculate_speedup(a, 2, 1.25, 0.1), 0.006, "two_small");
    cr_assert_float_eq(third, speculate_tokens(a, 3) - speculate_tokens(a, 2), 0.006, "third");
}
