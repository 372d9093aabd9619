/*
 * What the benchmarks route by: choices at random, as from a balanced router.
 */
#ifndef BENCH_CHOICES_H
#define BENCH_CHOICES_H

#include "common/core/context.h"
#include "common/core/rng.h"

#include <stdlib.h>

/* I32 [tokens, k], each token's experts all different. */
static inline Tensor *random_choices(Context *ctx, int tokens, int k, int experts) {
    int32_t *chosen = must_alloc((size_t)tokens * (size_t)k, sizeof *chosen);
    for (int n = 0; n < tokens; n++)
        for (int j = 0; j < k; j++) {
            int e = (int)(rng_uniform(5, (uint64_t)j, (uint64_t)n) * (float)experts);
            for (int i = 0; i < j; i++)
                if (chosen[n * k + i] == e) e = (e + 1) % experts, i = -1;
            chosen[n * k + j] = e;
        }
    Tensor *t = tensor_copy_in(ctx, "choices", I32, chosen, SHAPE(tokens, k));
    free(chosen);
    return t;
}

#endif
