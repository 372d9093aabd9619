/*
 * Means and deviations in two passes, in double precision: rewards are often all 0 or 1, and a
 * group without a difference must come out as exactly that.
 */
#include "09_grpo/advantage.h"

#include <math.h>
#include <stddef.h>

const char *const scale_rewards_names[] = {"group", "batch", "none", NULL};

typedef struct Moments {
    int count; /* of numbers that are there */
    double mean, std;
} Moments;

static Moments moments_of(const float *x, int n) {
    Moments m = {0};
    double squares = 0;
    for (int i = 0; i < n; i++)
        if (!isnan(x[i])) m.count++, m.mean += x[i];
    if (m.count) m.mean /= m.count;
    for (int i = 0; i < n; i++)
        if (!isnan(x[i])) squares += (x[i] - m.mean) * (x[i] - m.mean);
    if (m.count > 1) m.std = sqrt(squares / (m.count - 1));
    return m;
}

bool advantage_group_is_flat(const float *rewards, int group) {
    float first = NAN;
    for (int i = 0; i < group; i++) {
        if (isnan(rewards[i])) continue;
        if (isnan(first)) first = rewards[i];
        if (rewards[i] != first) return false;
    }
    return true;
}

int advantages_of(float *advantages, const float *rewards, int groups, int group,
                  ScaleRewards scale, AdvantageReport *report, Error *err) {
    if (groups < 1 || group < 1)
        return error_set(err, "advantages of %d groups of %d: there must be one at least", groups,
                         group);
    if (group == 1 && scale != SCALE_NONE)
        return error_set(err,
                         "num_generations is 1: an answer without siblings has no baseline and no "
                         "deviation; take at least 2 (or scale_rewards none)");
    for (int i = 0; i < groups * group; i++)
        if (isinf(rewards[i]))
            return error_set(err,
                             "the reward of answer %d to question %d is %g: a mean with it says "
                             "nothing; NaN is for what cannot be judged",
                             i % group, i / group, rewards[i]);
    Moments all = moments_of(rewards, groups * group);
    AdvantageReport r = {all.mean, all.std, 0, groups * group - all.count};
    for (int g = 0; g < groups; g++) {
        const float *x = rewards + g * group;
        Moments own = moments_of(x, group);
        double divisor = scale == SCALE_NONE    ? 1
                         : scale == SCALE_GROUP ? own.std + ADVANTAGE_EPS
                                                : all.std + ADVANTAGE_EPS;
        bool flat = advantage_group_is_flat(x, group); /* rounding of the mean is no difference */
        r.without_difference += flat;
        for (int i = 0; i < group; i++)
            advantages[g * group + i] =
                flat || isnan(x[i]) ? 0 : (float)((x[i] - own.mean) / divisor);
    }
    if (report) *report = r;
    return 0;
}
