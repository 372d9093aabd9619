/* Checks exercise 03.8 against the optimizer itself. */
#include "common/core/optimizer.h"
#include "common/program/testing.h"

#include <math.h>

extern const double second, third, first_plain, second_plain;
extern const int outlier;

/* What adamw_step() takes off a weight in each step with rate 1. */
static void take_steps(const float *gradients, int count, double *moved) {
    Context ctx = test_context(CPU, F32);
    Params params;
    params_init(&params, &ctx);
    Tensor *w = params_new(&params, "", "w", SHAPE(1));
    test_params(&params, 1);
    AdamW adamw = adamw_defaults();
    adamw.beta2 = 0.999f;
    adamw.weight_decay = adamw.clip = 0;
    adamw.eps = 1e-20f;
    for (int i = 0; i < count; i++) {
        float before = test_weight(&params, w)[0];
        int add;
        *(float *)grad_slot(&ctx, w, &add) = gradients[i];
        adamw_step(&adamw, &params, 1, 1);
        moved[i] = before - test_weight(&params, w)[0];
    }
}

static void check(const char *name, double answer, double truth) {
    cr_assert(fabs(answer - truth) < 4e-3 * fabs(truth), "%s is not %g", name, answer);
}

Test(adam, steps) {
    double moved[3];
    take_steps((const float[]){3, 1, -2}, 3, moved);
    check("second", second, moved[1]);
    check("third", third, moved[2]);
}

Test(adam, without_correction) {
    double m = 0, v = 0, gradients[2] = {3, 1}, answers[2] = {first_plain, second_plain};
    for (int i = 0; i < 2; i++) {
        m = 0.9 * m + 0.1 * gradients[i];
        v = 0.999 * v + 0.001 * gradients[i] * gradients[i];
        check(i ? "second_plain" : "first_plain", answers[i], m / sqrt(v));
    }
}

Test(adam, outlier) {
    float gradients[101];
    double moved[101];
    for (int i = 0; i < 101; i++) gradients[i] = i == 50 ? 100 : 1;
    take_steps(gradients, 101, moved);
    double times = moved[100] / moved[49];
    int truth = times > 1.2 ? 'a' : times < 0.8 ? 'b' : 'c';
    cr_assert(outlier == truth, "the steps do not change as '%c' says", outlier);
}
