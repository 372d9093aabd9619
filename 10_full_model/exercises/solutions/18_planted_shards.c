/*
 * Solution 10.18. The parts must cover all weights: rounded up, with the last one cut. Gradients
 * are averaged, not added: with AdamW, which divides by their size, hardly anything would show it.
 * And what is clipped by is the norm of all of them; so all ranks must have their sum of squares
 * before any of them moves a weight. The tempting repair of the norm is to take the largest of the
 * ranks' norms: that clips too little.
 */
#include "10_full_model/exercises/18_planted_shards.h"

#include <math.h>
#include <stdlib.h>

void zero_step(float *weights, const float *grads, int n, int ranks, float rate, float clip) {
    int part = (n + ranks - 1) / ranks;
    float *mine = calloc((size_t)n + 1, sizeof *mine);
    double squares = 0;
    for (int r = 0; r < ranks; r++)
        for (int i = r * part; i < (r + 1) * part && i < n; i++) {
            for (int from = 0; from < ranks; from++) mine[i] += grads[from * n + i] / (float)ranks;
            squares += (double)mine[i] * mine[i]; /* each rank its own, then a sum over ranks */
        }
    float norm = (float)sqrt(squares), scale = norm > clip ? clip / norm : 1;
    for (int i = 0; i < n; i++) weights[i] -= rate * scale * mine[i];
    free(mine);
}
