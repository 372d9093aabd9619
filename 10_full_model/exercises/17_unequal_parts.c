/*
 * Exercise 10.17: parts that are not equal
 *
 * Prompts and answers are padded, and the padding is no target; so a rank's part of a batch may
 * have 900 targets and another's 100. Derive the weight that 17_unequal_parts.h asks for.
 *
 * POINTS: 2
 * TESTS: check_17_unequal_parts
 */
#include "10_full_model/exercises/17_unequal_parts.h"

double weight_of(int rank, const int64_t *targets, int ranks) {
    (void)rank, (void)targets, (void)ranks;
    return 1;
}
