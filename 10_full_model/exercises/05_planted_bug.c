/*
 * Exercise 10.5: find the planted bug
 *
 * This AdamW trains: the loss falls, nothing crashes. But a model trained with it ends worse, its
 * weights are too small after the first steps, and one odd batch still throws it far. Two mistakes
 * were planted. Compare with the formulas in common/core/optimizer.h, and mend the function.
 *
 * POINTS: 3
 * REPLACES: adamw_cpu in common/core/optimizer_cpu.c
 * TESTS: check_05_planted_bug
 */
#include "common/core/optimizer.h"

#include <math.h>

void adamw_cpu(void *values, float *master, float *m, float *v, const float *grads,
               const float *norm, int64_t n, int64_t decayed, AdamWStep s) {
    if (!isfinite(*norm)) return;
    float scale = s.grad_scale * (s.clip > 0 && *norm > s.clip ? s.clip / *norm : 1.0f);
    for (int64_t i = 0; i < n; i++) {
        float g = grads[i];
        m[i] = s.beta1 * m[i] + (1 - s.beta1) * scale * g;
        v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g;
        float rate = s.lr / s.correction1, root = sqrtf(v[i] / s.correction2);
        float decay = i < decayed ? s.weight_decay * master[i] : 0.0f;
        master[i] -= rate * (m[i] / (root + s.eps) + decay);
    }
}
