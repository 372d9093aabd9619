/*
 * Solution 07.5: the share of f / factor is (i - low) / (high - low), held between 0 and 1. A
 * mixture of frequencies, not of wavelengths: that would be another curve. (Tempting: a ramp
 * between the pairs' turns, as the paper's text reads; the released code, and the weights, have it
 * over the pair's number.) With low == high the ramp is a step, and 0 / 0 must not come of it.
 */
#include "07_rope/rope.h"

#include <math.h>

void rope_frequencies(const RopeConfig *cfg, double *f) {
    double theta = cfg->rope_theta, low = 0, high = 0;
    int dim = cfg->dim;
    if (cfg->rope_type == ROPE_NTK) theta *= pow(cfg->factor, dim / (dim - 2.0));
    if (cfg->rope_type == ROPE_YARN) rope_yarn_range(cfg, &low, &high);
    if (low == high) high += 0.001;
    for (int i = 0; i < dim / 2; i++) {
        f[i] = pow(theta, -2.0 * i / dim);
        if (cfg->rope_type == ROPE_LINEAR) f[i] /= cfg->factor;
        if (cfg->rope_type == ROPE_YARN) {
            double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
            f[i] = f[i] / cfg->factor * ramp + f[i] * (1 - ramp);
        }
    }
}
