/* What one might save of a training run. */
#ifndef WHAT_A_STATE_IS_H
#define WHAT_A_STATE_IS_H

#include <stdbool.h>

typedef enum Item {
    WEIGHTS,
    FIRST_MOMENTS,  /* AdamW's m */
    SECOND_MOMENTS, /* AdamW's v */
    GRADIENTS,      /* as the last step left them */
    ROUTER_BIAS,
    ROUTER_LOAD,   /* what the routers have counted: looked at between two steps */
    RANDOM_STREAM, /* how many streams of random numbers have been used up; this run has dropout */
    BEST_LOSS,     /* the lowest validation loss so far */
    ITEMS
} Item;

/* Does the last step's model depend on it? */
extern const bool matters[ITEMS];

#endif
