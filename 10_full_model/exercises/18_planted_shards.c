/*
 * Exercise 10.18: find the planted bugs
 *
 * ZeRO-1 with plain gradient descent, all ranks played in one loop (18_planted_shards.h says what
 * it should do). With one rank it is right, and with two it seems to learn. Three mistakes were
 * planted. Mend the function.
 *
 * POINTS: 4
 * TESTS: check_18_planted_shards
 */
#include "10_full_model/exercises/18_planted_shards.h"

#include <math.h>
#include <stdlib.h>

void zero_step(float *weights, const float *grads, int n, int ranks, float rate, float clip) {
    int part = n / ranks;
    float *mine = calloc((size_t)n + 1, sizeof *mine);
    for (int r = 0; r < ranks; r++) {
        int first = r * part, end = first + part;
        double squares = 0;
        for (int i = first; i < end; i++) { /* reduce-scatter */
            for (int from = 0; from < ranks; from++) mine[i] += grads[from * n + i];
            squares += (double)mine[i] * mine[i];
        }
        float norm = (float)sqrt(squares), scale = norm > clip ? clip / norm : 1;
        for (int i = first; i < end; i++) weights[i] -= rate * scale * mine[i];
    }
    free(mine);
}
