/*
 * Solution 10.17. Rank r's sum of losses is targets[r] loss_r, and the mean over all is the sum of
 * these over the number of all targets: so 1/ranks * weight = targets[r] / all. Tempting, and
 * wrong: weight 1, the mean of means, in which a target of the rank with 100 counts nine times as
 * much as one of the rank with 900. And a batch without any target must not divide by 0.
 */
#include "10_full_model/exercises/17_unequal_parts.h"

double weight_of(int rank, const int64_t *targets, int ranks) {
    int64_t all = 0;
    for (int r = 0; r < ranks; r++) all += targets[r];
    return all ? (double)targets[rank] * ranks / (double)all : 1;
}
