/*
 * Advantages: numbers worked out by hand, and what holds for any.
 */
#include "09_grpo/advantage.h"

#include "common/program/testing.h"

#include <math.h>
#include <string.h>

static AdvantageReport report;

static void advantages(float *a, const float *rewards, int groups, int group, ScaleRewards scale) {
    check_ok(advantages_of(a, rewards, groups, group, scale, &report, &err), &err);
}

/* 1 0 0 0: mean 1/4, std with n - 1 = 3 beneath: sqrt((9/16 + 3/16) / 3) = 1/2. */
Test(advantage, by_hand) {
    const float rewards[8] = {1, 0, 0, 0, 2, 2, 0, 0};
    float a[8];
    advantages(a, rewards, 1, 4, SCALE_GROUP);
    check_close("group", a,
                (float[]){0.75f / 0.5001f, -0.25f / 0.5001f, -0.25f / 0.5001f, -0.25f / 0.5001f}, 4,
                1e-6);
    advantages(a, rewards, 2, 4, SCALE_NONE);
    check_close("none", a, (float[]){0.75f, -0.25f, -0.25f, -0.25f, 1, 1, -1, -1}, 8, 1e-6);
    /* all eight: mean 5/8, squares 9 - 25/8 = 47/8, over 7 */
    double std = sqrt(47.0 / 8 / 7);
    advantages(a, rewards, 2, 4, SCALE_BATCH);
    cr_assert_float_eq(a[0], 0.75 / (std + 1e-4), 1e-6);
    cr_assert_float_eq(a[7], -1 / (std + 1e-4), 1e-6); /* the mean is the group's all the same */
    cr_assert(fabs(report.mean - 0.625) < 1e-12 && fabs(report.std - std) < 1e-12);
}

Test(advantage, sums_to_zero) {
    enum { GROUPS = 5, G = 7 };
    float rewards[GROUPS * G], a[GROUPS * G];
    for (int i = 0; i < GROUPS * G; i++) rewards[i] = (float)(i * i % 11) + 0.25f * (float)(i % 3);
    rewards[9] = rewards[12] = NAN;
    for (ScaleRewards scale = SCALE_GROUP; scale <= SCALE_NONE; scale++) {
        advantages(a, rewards, GROUPS, G, scale);
        for (int g = 0; g < GROUPS; g++) {
            double sum = 0;
            for (int i = 0; i < G; i++) sum += a[g * G + i];
            cr_assert_float_eq(sum, 0, 1e-5, "scale %d, group %d: %g", scale, g, sum);
        }
        cr_assert(a[9] == 0 && a[12] == 0 && report.abstained == 2);
    }
}

/* A reward that abstains is as if its answer had not been asked. */
Test(advantage, abstaining) {
    float with[4], without[3];
    advantages(with, (float[]){1, NAN, 0, 3}, 1, 4, SCALE_GROUP);
    advantages(without, (float[]){1, 0, 3}, 1, 3, SCALE_GROUP);
    check_close("abstaining", (float[]){with[0], with[2], with[3]}, without, 3, 0);
    advantages(with, (float[]){NAN, NAN, NAN, 2}, 1, 4, SCALE_GROUP);
    cr_assert(report.without_difference == 1 && report.abstained == 3 && with[3] == 0);
}

/* Alike to the last bit: 0, not a rounding error over 1e-4. 0.1 + 0.1 + 0.1 is no 3 x 0.1. */
Test(advantage, no_difference) {
    float a[9];
    advantages(a, (float[]){0.1f, 0.1f, 0.1f, 1, 1, 1, 0, 1, 0}, 3, 3, SCALE_GROUP);
    for (int i = 0; i < 6; i++) cr_assert_eq(a[i], 0);
    cr_assert(a[7] > 1 && report.without_difference == 2);
}

Test(advantage, refusals) {
    float a[2];
    cr_assert_eq(advantages_of(a, (float[]){1, 0}, 2, 1, SCALE_GROUP, NULL, &err), -1);
    cr_assert(strstr(err.text, "num_generations is 1"), "%s", err.text);
    cr_assert_eq(advantages_of(a, (float[]){1, 0}, 2, 1, SCALE_BATCH, NULL, &err), -1);
    advantages(a, (float[]){1, 0}, 2, 1, SCALE_NONE);
    cr_assert(a[0] == 0 && a[1] == 0);
    cr_assert_eq(advantages_of(a, NULL, 0, 4, SCALE_NONE, NULL, &err), -1);
    cr_assert_eq(advantages_of(a, (float[]){1, -INFINITY}, 1, 2, SCALE_NONE, NULL, &err), -1);
    cr_assert(strstr(err.text, "answer 1 to question 0 is -inf"), "%s", err.text);
}
