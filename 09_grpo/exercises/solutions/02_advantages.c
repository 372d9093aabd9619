/*
 * Solution 09.2: the same three loops, once for all rewards and once for each group, that skip NaN
 * and count what they did not skip. (Tempting: the deviation over n;
 * PyTorch's std has n - 1 beneath. And to ask a deviation of exactly 0 whether a
 * group is flat: three times 0.1 has a mean that is not 0.1, a deviation of 10^-9, and so
 * advantages.)
 */
#include "09_grpo/advantage.h"

#include <math.h>

static int count_mean_std(const float *x, int n, double *mean, double *std) {
    int count = 0;
    double squares = 0;
    *mean = *std = 0;
    for (int i = 0; i < n; i++)
        if (!isnan(x[i])) *mean += x[i], count++;
    if (count) *mean /= count;
    for (int i = 0; i < n; i++)
        if (!isnan(x[i])) squares += (x[i] - *mean) * (x[i] - *mean);
    if (count > 1) *std = sqrt(squares / (count - 1));
    return count;
}

int advantages_of(float *advantages, const float *rewards, int groups, int group,
                  ScaleRewards scale, AdvantageReport *report, Error *err) {
    double all_mean, all_std;
    int flat = 0;
    if (groups < 1 || group < 1) return error_set(err, "there must be one at least");
    if (group == 1 && scale != SCALE_NONE)
        return error_set(err, "num_generations is 1: nothing to compare with");
    for (int i = 0; i < groups * group; i++)
        if (isinf(rewards[i]))
            return error_set(err, "the reward of answer %d to question %d is %g", i % group,
                             i / group, rewards[i]);
    int there = count_mean_std(rewards, groups * group, &all_mean, &all_std);
    for (int g = 0; g < groups; g++) {
        const float *r = rewards + g * group;
        double mean, std;
        count_mean_std(r, group, &mean, &std);
        double by = scale == SCALE_NONE    ? 1
                    : scale == SCALE_BATCH ? all_std + ADVANTAGE_EPS
                                           : std + ADVANTAGE_EPS;
        bool alike = advantage_group_is_flat(r, group);
        flat += alike;
        for (int i = 0; i < group; i++)
            advantages[g * group + i] = alike || isnan(r[i]) ? 0 : (float)((r[i] - mean) / by);
    }
    if (report) *report = (AdvantageReport){all_mean, all_std, flat, groups * group - there};
    return 0;
}
