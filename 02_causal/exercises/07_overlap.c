/*
 * Exercise 02.7: put the calls in order, graded by a clock that counts.
 *
 * attention_tiles() walks over ten tiles of keys. It is right, and takes 80 units of time: 2 for
 * the scores, 4 for the softmax and 2 for P V, one after the other, ten times. The tensor cores
 * idle during each softmax, and the warpgroup during each product. Order the calls anew (overlap.h
 * says what needs what) so that it takes no more than 62.
 *
 * POINTS: 3
 */
#include "02_causal/exercises/overlap.h"

void attention_tiles(int tiles);

void attention_tiles(int tiles) {
    for (int i = 0; i < tiles; i++) {
        start_scores(i);
        wait_for_scores(i);
        softmax(i);
        rescale(i);
        start_values(i);
        wait_for_values(i);
    }
}
