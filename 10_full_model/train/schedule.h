/*
 * The learning rate over a training run: up, level, down.
 *
 *     peak         __________
 *                 /          \
 *                /            `.
 *     floor     /               `-___
 *              warmup constant  a cosine, to the last step
 *
 * Up, because AdamW's second moments are guesses at first; level, because there is much to learn;
 * down, because small steps find the bottom of the valley that large ones have found (DeepSeek-V3,
 * 4.2, has all three; GPT-2 and Llama have no level part: constant 0).
 */
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include <stdint.h>

typedef struct Schedule {
    int64_t steps;            /* of the whole run */
    int64_t warmup, constant; /* steps; what they leave is the cosine's */
    float peak, floor;
} Schedule;

/* Of the step that follows `step` finished ones; step 0's is peak / warmup. */
float schedule_rate(const Schedule *schedule, int64_t step);

#endif
