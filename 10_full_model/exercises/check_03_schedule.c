#include "../common/params.h"

#include <criterion/criterion.h>
#include <math.h>

static void at(int64_t step, int64_t warmup, int64_t total, double want) {
    float got = lr_warmup_cosine(step, warmup, total, 2, 0.5f);
    /* A handful of F32 roundings of numbers up to 2. */
    cr_assert(fabs(got - want) < 1e-6, "step %lld of %lld, warm-up %lld: %g, not %g",
              (long long)step, (long long)total, (long long)warmup, got, want);
}

Test(schedule, warm_up) {
    at(0, 4, 20, 0.5);
    at(1, 4, 20, 1.0);
    at(3, 4, 20, 2.0);
}

Test(schedule, cosine) {
    at(4, 4, 20, 2.0);
    at(8, 4, 20, 0.5 + 1.5 * (1 + sqrt(0.5)) / 2);
    at(12, 4, 20, 1.25);
    at(20, 4, 20, 0.5);
    at(1000, 4, 20, 0.5);
}

Test(schedule, no_warm_up) {
    at(0, 0, 10, 2.0);
    at(5, 0, 10, 1.25);
}
