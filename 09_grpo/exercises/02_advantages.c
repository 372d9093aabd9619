/*
 * Exercise 09.2: advantages.
 *
 * rewards [groups, group]: `group` answers to one question stand side by side. For each,
 *
 *     A = (R - mean of its group) / (std + 1e-4)
 *
 * where std, with n - 1 beneath, is the group's (SCALE_GROUP), or that of all rewards
 * (SCALE_BATCH), or the division is left out (SCALE_NONE). NaN: nobody could judge the answer; it
 * is in no mean and no std, and its A is 0. A group in which all are alike has A = 0 exactly,
 * whatever rounding makes of its mean (advantage_group_is_flat). report, if it is there: mean and
 * std of all rewards, how many groups are flat, how many rewards are NaN.
 *
 * Messages: no group, or none in it ("there must be one at least"); a group of one, unless
 * SCALE_NONE ("num_generations is 1"); and a reward that is infinite ("answer 1 to question 0 is
 * -inf").
 *
 * What stands here is right for one group that nobody abstains from, nearly.
 *
 * POINTS: 3
 *
 * REPLACES: advantages_of in 09_grpo/advantage.c
 *
 * TESTS: test_advantage:advantage
 */
#include "09_grpo/advantage.h"

#include <math.h>

int advantages_of(float *advantages, const float *rewards, int groups, int group,
                  ScaleRewards scale, AdvantageReport *report, Error *err) {
    int n = groups * group;
    double mean = 0, squares = 0;
    if (n < 1) return error_set(err, "there must be one at least");
    for (int i = 0; i < n; i++) mean += rewards[i] / n;
    for (int i = 0; i < n; i++) squares += (rewards[i] - mean) * (rewards[i] - mean);
    double std = sqrt(squares / n);
    for (int i = 0; i < n; i++)
        advantages[i] = (float)((rewards[i] - mean) / (scale == SCALE_NONE ? 1 : std));
    if (report) *report = (AdvantageReport){.mean = mean, .std = std};
    return 0;
}
