/*
 * Exercise 01.9: a ring that hangs.
 *
 * One producer loads the steps of several tiles into the stages of a ring, two consumers multiply
 * with them (ring.h): the skeleton of the Hopper kernel, with threads for warpgroups. It has been
 * tested with 8 steps for each tile, and worked. With 6 it hangs; and now and then a stage is
 * overwritten before both consumers have used it. Mend both mistakes.
 *
 * POINTS: 3
 */
#include "01_self_attention/exercises/ring.h"

void produce(int tiles, int steps);
void consume(int tiles, int steps);

void produce(int tiles, int steps) {
    for (int tile = 0; tile < tiles; tile++)
        for (int step = 0; step < steps; step++) {
            int stage = step % STAGES, round = step / STAGES;
            barrier_wait(empty[stage], (round + 1) % 2);
            load_stage(stage, tile, step);
            barrier_arrive(full[stage]);
        }
}

void consume(int tiles, int steps) {
    for (int tile = 0; tile < tiles; tile++)
        for (int step = 0; step < steps; step++) {
            int stage = step % STAGES, round = step / STAGES;
            barrier_wait(full[stage], round % 2);
            barrier_arrive(empty[stage]);
            multiply_stage(stage, tile, step);
        }
}
