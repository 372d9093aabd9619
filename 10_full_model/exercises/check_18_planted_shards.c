/* Exercise 10.18's check: one rank that has everything. */
#include "10_full_model/exercises/18_planted_shards.h"

#include <criterion/criterion.h>
#include <math.h>

enum { N = 23, RANKS = 5 };

static void plain_step(float *weights, const float *grads, int n, int ranks, float rate,
                       float clip) {
    double squares = 0, mean[N];
    for (int i = 0; i < n; i++) {
        mean[i] = 0;
        for (int r = 0; r < ranks; r++) mean[i] += (double)grads[r * n + i] / ranks;
        squares += mean[i] * mean[i];
    }
    double scale = sqrt(squares) > clip ? clip / sqrt(squares) : 1;
    for (int i = 0; i < n; i++) weights[i] -= (float)(rate * scale * mean[i]);
}

Test(shards, planted) {
    for (int ranks = 1; ranks <= RANKS; ranks++)
        for (int n = 1; n <= N; n += 2)
            for (int c = 0; c < 2; c++) {
                float a[N], b[N], grads[RANKS * N], clip = c ? 0.5f : 1000;
                for (int i = 0; i < n; i++) a[i] = b[i] = (float)i;
                for (int i = 0; i < ranks * n; i++) grads[i] = (float)((i * 7 + 3) % 11 - 4);
                zero_step(a, grads, n, ranks, 0.1f, clip);
                plain_step(b, grads, n, ranks, 0.1f, clip);
                for (int i = 0; i < n; i++)
                    cr_assert(fabsf(a[i] - b[i]) <= 1e-5f * (1 + fabsf(b[i])),
                              "%d ranks, %d weights, clip %g: weight %d is %g, not %g", ranks, n,
                              clip, i, a[i], b[i]);
            }
}
