/* Both sides with the project's own norm. */
#include "common/core/ops.h"

#include "common/program/testing.h"

extern const int no_difference;
float factor(const float *x, const float *w, int d);

enum { D = 37 };

Test(one_norm_too_few, by_the_norm_itself) {
    Context ctx = test_context(CPU, F32);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, D)), *w = test_normal(&ctx, "w", 2, SHAPE(D));
    Tensor *v = test_normal(&ctx, "v", 3, SHAPE(D));
    float *after = test_values(&ctx, rmsnorm(&ctx, rmsnorm(&ctx, x, w, 1e-12f), v, 1e-12f));
    float *before = test_values(&ctx, rmsnorm(&ctx, x, v, 1e-12f));
    float f = factor(x->data, w->data, D);
    for (int j = 0; j < D; j++) before[j] *= f * ((float *)w->data)[j];
    check_close("factor * w * hnorm(x)", before, after, D, 1e-5);
}

Test(one_norm_too_few, when_nothing_differs) {
    Context ctx = test_context(CPU, F32);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, D)), *w = test_normal(&ctx, "w", 2, SHAPE(D));
    for (int j = 0; j < D; j++) ((float *)w->data)[j] = 3;
    float *after = test_values(&ctx, rmsnorm(&ctx, rmsnorm(&ctx, x, w, 1e-12f), w, 1e-12f));
    float *before = test_values(&ctx, rmsnorm(&ctx, x, w, 1e-12f));
    check_close("a weight of threes", before, after, D, 1e-5);
    cr_assert(no_difference == 2, "no_difference is not %d", no_difference);
}
