/*
 * Exercise 10.6: what must a checkpoint hold?
 *
 * A run of 12 steps is stopped after 6. One thing of its state is lost (zeroed, or begun anew);
 * the run is resumed. Will the weights after step 12 be the same bits as without the accident?
 * Answer for each: true if they will differ. The check loses each of them in turn and really
 * trains.
 *
 * POINTS: 3
 * TESTS: check_06_what_a_state_is
 */
#include "10_full_model/exercises/06_what_a_state_is.h"

const bool matters[ITEMS] = {
    [WEIGHTS] = false,     [FIRST_MOMENTS] = false, [SECOND_MOMENTS] = false, [GRADIENTS] = false,
    [ROUTER_BIAS] = false, [ROUTER_LOAD] = false,   [RANDOM_STREAM] = false,  [BEST_LOSS] = false,
};
