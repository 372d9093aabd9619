/*
 * Solution 10.5. Two mistakes, and neither stops the loss from falling.
 *
 * 1. v saw the gradient before it was scaled and clipped, m after it. The quotient of the two is
 *    what the weight moves by, so the scale no longer cancels. And an odd batch, which clipping has
 *    cut to a tenth for m, counts a hundred times as much as it should in v: for the next twenty
 *    steps the weights move too little.
 * 2. The decay was multiplied by lr / correction1. The correction belongs to m, which began at 0; a
 *    weight's decay needs none, and at the first step it was ten times too strong.
 *
 * Tempting: to suspect that the decay stands outside of the gradient. That is right, and the W of
 * AdamW: inside, it would be divided by sqrt(v), and weights with large gradients would hardly
 * decay (Loshchilov and Hutter). Or that vectors do not decay: a norm's weight should be near 1,
 * not near 0.
 */
#include "common/core/optimizer.h"

#include <math.h>

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
