/*
 * Solution 10.6. The question to ask of each item: is it written before it is read?
 *
 * Gradients are (params_zero_grad marks them as stale), and the load is zero between steps, since
 * decoder_rebalance has just used it up. The best loss decides which model is kept as the best, and
 * so must be saved, but no step reads it. All else is read first. Without the second moments, say,
 * the next step is two to three times too large: v begins at 0 again, and its correction, which
 * counts all steps, no longer makes up for that.
 *
 * Tempting: the random stream does not matter, since windows are a function of the seed and the
 * step. They are; dropout's masks are not. And the biases: no gradient, but a router chooses by
 * them.
 */
#include "10_full_model/exercises/06_what_a_state_is.h"

const bool matters[ITEMS] = {
    [WEIGHTS] = true,     [FIRST_MOMENTS] = true, [SECOND_MOMENTS] = true, [GRADIENTS] = false,
    [ROUTER_BIAS] = true, [ROUTER_LOAD] = false,  [RANDOM_STREAM] = true,  [BEST_LOSS] = false,
};
