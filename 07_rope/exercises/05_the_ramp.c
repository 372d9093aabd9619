/*
 * Exercise 07.5: the ramp.
 *
 * The frequencies of all four types. Default, linear and ntk are there. Write yarn:
 * rope_yarn_range() gives low and high, pairs as real numbers. Up to `low` a pair keeps its
 * frequency f, from `high` on it gets f / factor, and between them it is a mixture of the two whose
 * share of f / factor grows in a straight line.
 *
 * POINTS: 3
 * REPLACES: rope_frequencies in 07_rope/rope_scaling.c
 * TESTS: test_rope_scaling:yarn test_rope_scaling:scaling
 *   test_rope_scaling:goldens/frequencies_and_factors_of_transformers
 */
#include "07_rope/rope.h"

#include <math.h>

void rope_frequencies(const RopeConfig *cfg, double *f) {
    double theta = cfg->rope_theta, low = 0, high = 0;
    int dim = cfg->dim;
    if (cfg->rope_type == ROPE_NTK) theta *= pow(cfg->factor, dim / (dim - 2.0));
    if (cfg->rope_type == ROPE_YARN) rope_yarn_range(cfg, &low, &high);
    for (int i = 0; i < dim / 2; i++) {
        f[i] = pow(theta, -2.0 * i / dim);
        if (cfg->rope_type == ROPE_LINEAR) f[i] /= cfg->factor;
        if (cfg->rope_type == ROPE_YARN) f[i] /= cfg->factor; /* all of them? */
    }
}
