/* Ranks whose parts of a batch have different numbers of targets. */
#ifndef UNEQUAL_PARTS_H
#define UNEQUAL_PARTS_H

#include <stdint.h>

/*
 * Rank r's loss is the mean over its targets[r] targets, of which it may have none (its loss is
 * then 0). The gradients of weight * loss are averaged over the ranks. Which weight makes that the
 * gradient of the mean over all targets?
 */
double weight_of(int rank, const int64_t *targets, int ranks);

#endif
