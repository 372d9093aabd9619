/*
 * Solution 01.9. (1) Barriers do not know where a tile begins: their phases go on. So the rounds
 * must be counted over all tiles, not from 0 for each. With 8 steps and 4 stages a tile takes two
 * rounds, and starting anew happened to give the right parity. (2) "Empty" may only be said after
 * the stage has been used, for from then on the producer may write.
 *
 * The tempting wrong answer to (1) is to wait once more at the end of each tile until all stages
 * are empty and to go on from 0: with 6 steps two stages have had one round more than the others,
 * and no parity is right for all four.
 */
#include "01_self_attention/exercises/ring.h"

void produce(int tiles, int steps);
void consume(int tiles, int steps);

void produce(int tiles, int steps) {
    for (int count = 0; count < tiles * steps; count++) {
        int stage = count % STAGES, round = count / STAGES;
        barrier_wait(empty[stage], (round + 1) % 2);
        load_stage(stage, count / steps, count % steps);
        barrier_arrive(full[stage]);
    }
}

void consume(int tiles, int steps) {
    for (int count = 0; count < tiles * steps; count++) {
        int stage = count % STAGES, round = count / STAGES;
        barrier_wait(full[stage], round % 2);
        multiply_stage(stage, count / steps, count % steps);
        barrier_arrive(empty[stage]);
    }
}
