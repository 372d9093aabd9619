/*
 * Solution 10.5. Two mistakes, and neither stops the loss from falling.
 */
#include "common/core/optimizer.h"

#include <math.h>

/*
 * 1. The decay went into the gradient. There AdamW divides it by sqrt(v): weights with large
 *    gradients hardly decay at all. Loshchilov and Hutter decouple it: it shrinks the weight
 *    itself.
 * 2. Only the first `decayed` weights, the matrices, decay. A norm's weight should be near 1, not
 *    near 0.
 */
void adamw_cpu(void *values, float *master, float *m, float *v, const float *grads,
               const float *norm, int64_t n, int64_t decayed, AdamWStep s) {
    if (!isfinite(*norm)) return;
    float scale = s.grad_scale * (s.clip > 0 && *norm > s.clip ? s.clip / *norm : 1.0f);
    for (int64_t i = 0; i < n; i++) {
        float g = scale * grads[i];
        m[i] = s.beta1 * m[i] + (1 - s.beta1) * g;
        v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g;
        float mean = m[i] / s.correction1, square = v[i] / s.correction2;
        float decay = i < decayed ? s.weight_decay * master[i] : 0.0f;
        master[i] -= s.lr * (mean / (sqrtf(square) + s.eps) + decay);
    }
}
