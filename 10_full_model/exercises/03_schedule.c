/*
 * Exercise 10.3: write the learning rate's schedule
 *
 * Over the first `warmup` steps (they count from 0) the rate rises linearly, so that step warmup - 1 has the peak. Then it follows half a cosine
 * from the peak (at step warmup) down to the floor (at step total), and stays there.
 *
 * POINTS: 2
 * REPLACES: lr_warmup_cosine in common/params.c
 * TESTS: check_03_schedule
 * HINT: with progress going from 0 to 1 between warmup and total, (1 + cos(pi progress)) / 2 goes from 1 to 0.
 */
#include "../common/params.h"

float lr_warmup_cosine(int64_t step, int64_t warmup, int64_t total, float peak, float floor) {
    return peak;
}
