/*
 * Advantages: how much better than its siblings an answer was.
 *
 * G answers to one question are a group. Its mean reward is the baseline, so no second network has
 * to guess it (GRPO, Shao et al. 2024, 4.1):
 *
 *     A_i = (R_i - mean of the group) / (std + 1e-4)
 *
 * std, with n - 1 beneath as in PyTorch, is the group's, or the whole batch's, or left out: divided
 * by the group's, a question that all but one of the answers got right pulls nearly as hard as one
 * that half of them did: of 8 answers with 2/3 of its sum of |A|, not 44 % (Liu et al. 2025, "Dr.
 * GRPO", leave it out; DeepSeek-V3.2 does, too).
 *
 * A reward of NaN means that nobody could judge the answer: it leaves mean and std, and A is 0.
 * Invariant: the advantages of a group sum to 0.
 */
#ifndef ADVANTAGE_H
#define ADVANTAGE_H

#include "common/core/error.h"

#include <stdbool.h>

typedef enum ScaleRewards { SCALE_GROUP, SCALE_BATCH, SCALE_NONE } ScaleRewards;

/* TRL's names, in the order of the enum, ended by NULL. */
extern const char *const scale_rewards_names[];

#define ADVANTAGE_EPS 1e-4

typedef struct AdvantageReport {
    double mean, std;       /* of all rewards that are there; std over the batch, as TRL logs it */
    int without_difference; /* groups in which all rewards are alike: they teach nothing */
    int abstained;          /* rewards that are NaN */
} AdvantageReport;

/* Has every answer of this group the same reward (or none)? */
bool advantage_group_is_flat(const float *rewards, int group);

/*
 * rewards, advantages [groups, group], the answers to one question side by side. -1 and a message
 * when there is no group, or none with a difference to be scaled by (group 1, unless SCALE_NONE:
 * then all A are 0), or a reward is infinite. report may be NULL.
 */
int advantages_of(float *advantages, const float *rewards, int groups, int group,
                  ScaleRewards scale, AdvantageReport *report, Error *err);

#endif
