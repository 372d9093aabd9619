/*
 * Exercise 10.5's check: AdamW in double precision, written out for two weights, beside the
 * function.
 */
#include "common/core/optimizer.h"

#include <criterion/criterion.h>
#include <math.h>

/* One weight that decays and one that does not, with gradients of very different size, over three
 * steps; those of the second are clipped to a half, and all are means over two micro-batches. */
Test(adamw, three_steps) {
    float w[2] = {1, 1}, m[2] = {0}, v[2] = {0}, grads[2] = {100, 0.01f};
    double want[2] = {1, 1}, wm[2] = {0}, wv[2] = {0};
    for (int t = 1; t <= 3; t++) {
        AdamWStep s = {.lr = 0.1f,
                       .beta1 = 0.9f,
                       .beta2 = 0.95f,
                       .eps = 1e-8f,
                       .weight_decay = 0.5f,
                       .grad_scale = 0.5f,
                       .clip = 50,
                       .correction1 = (float)(1 - pow(0.9, t)),
                       .correction2 = (float)(1 - pow(0.95, t))};
        float norm = t == 2 ? 100 : 50;
        adamw_cpu(w, w, m, v, grads, &norm, 2, 1, s);
        for (int i = 0; i < 2; i++) {
            double g = (t == 2 ? 0.25 : 0.5) * grads[i];
            wm[i] = 0.9 * wm[i] + 0.1 * g;
            wv[i] = 0.95 * wv[i] + 0.05 * g * g;
            double update = wm[i] / (1 - pow(0.9, t)) / (sqrt(wv[i] / (1 - pow(0.95, t))) + 1e-8);
            want[i] -= 0.1 * (update + (i == 0 ? 0.5 * want[i] : 0));
        }
    }
    cr_assert(fabs(w[0] - want[0]) < 1e-5, "the matrix weight is %g, not %g", w[0], want[0]);
    cr_assert(fabs(w[1] - want[1]) < 1e-5, "the vector weight is %g, not %g", w[1], want[1]);
}
