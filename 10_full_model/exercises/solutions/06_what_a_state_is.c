/*
 * Solution 10.6. The question to ask of each item: is it written before it is read?
 */
#include "10_full_model/exercises/06_what_a_state_is.h"

/*
 * Gradients are written before they are read (params_zero_grad marks them as stale), and the load
 * is zero between steps, since model_rebalance has just used it up. The best loss decides which
 * model is kept as the best, and so must be saved, but no step reads it.
 */
const bool matters[ITEMS] = {
    [WEIGHTS] = true,     [FIRST_MOMENTS] = true, [SECOND_MOMENTS] = true, [GRADIENTS] = false,
    [ROUTER_BIAS] = true, [ROUTER_LOAD] = false,  [RANDOM_STREAM] = true,  [BEST_LOSS] = false,
};
