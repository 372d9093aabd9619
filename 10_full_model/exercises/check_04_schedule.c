/*
 * Exercise 10.4's check: the rate at chosen steps, worked out by hand, with and without a warm-up
 * and a level part.
 */
#include "common/core/optimizer.h"

#include <criterion/criterion.h>
#include <math.h>

static void at(int64_t step, int64_t warmup, int64_t constant, int64_t steps, double want) {
    Schedule schedule = {steps, warmup, constant, 2, 0.5f};
    float got = schedule_rate(&schedule, step);
    /* A handful of F32 roundings of numbers up to 2. */
    cr_assert(fabs(got - want) < 1e-6, "step %lld of %lld, warm-up %lld, constant %lld: %g, not %g",
              (long long)step, (long long)steps, (long long)warmup, (long long)constant, got, want);
}

Test(schedule, warm_up) {
    at(0, 4, 0, 20, 0.5);
    at(1, 4, 0, 20, 1.0);
    at(3, 4, 0, 20, 2.0);
    at(3, 4, 7, 20, 2.0);
}

Test(schedule, constant) {
    for (int step = 4; step <= 14; step++) at(step, 4, 10, 30, 2.0);
    at(22, 4, 10, 30, 1.25);
    at(30, 4, 10, 30, 0.5);
}

Test(schedule, cosine) {
    at(4, 4, 0, 20, 2.0);
    at(8, 4, 0, 20, 0.5 + 1.5 * (1 + sqrt(0.5)) / 2);
    at(12, 4, 0, 20, 1.25);
    at(20, 4, 0, 20, 0.5);
    at(1000, 4, 0, 20, 0.5);
}

Test(schedule, no_warm_up) {
    at(0, 0, 0, 10, 2.0);
    at(5, 0, 0, 10, 1.25);
    at(5, 0, 5, 10, 2.0);
}
