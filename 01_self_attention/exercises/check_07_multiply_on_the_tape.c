/* Checks exercise 01.7 against the product rule and by finite differences. */
#include "common/program/testing.h"

Tensor *mul(Context *ctx, Tensor *a, Tensor *b);

enum { N = 12 };

CPU_TEST(mul, forward) {
    Tensor *a = test_normal(&ctx, "a", 1, SHAPE(3, 4)), *b = test_normal(&ctx, "b", 2, SHAPE(3, 4));
    float want[N];
    for (int i = 0; i < N; i++) want[i] = ((float *)a->data)[i] * ((float *)b->data)[i];
    check_tensor(&ctx, "a b", mul(&ctx, a, b), want, 0);
}

CPU_TEST(mul, each_input_gets_the_other) {
    Tensor *a = test_normal(&ctx, "a", 1, SHAPE(3, 4)), *b = test_normal(&ctx, "b", 2, SHAPE(3, 4));
    ctx.recording = true;
    tape_backward(&ctx, sum(&ctx, mul(&ctx, a, b)));
    cr_assert(a->has_grad && b->has_grad, "no gradient reached the inputs: what is on the tape?");
    check_tensor(&ctx, "da", a->grad, b->data, 0);
    check_tensor(&ctx, "db", b->grad, a->data, 0);
}

CPU_TEST(mul, a_square) {
    Tensor *a = test_normal(&ctx, "a", 1, SHAPE(3, 4));
    float want[N];
    for (int i = 0; i < N; i++) want[i] = 2 * ((float *)a->data)[i];
    ctx.recording = true;
    tape_backward(&ctx, sum(&ctx, mul(&ctx, a, a)));
    cr_assert(a->has_grad, "no gradient reached the input");
    check_tensor(&ctx, "d(a a)", a->grad, want, 1e-6);
}

CPU_TEST(mul, an_input_that_needs_no_gradient) {
    Tensor *a = test_normal(&ctx, "a", 1, SHAPE(3, 4)), *b = test_normal(&ctx, "b", 2, SHAPE(3, 4));
    b->requires_grad = false;
    ctx.recording = true;
    tape_backward(&ctx, sum(&ctx, mul(&ctx, a, b)));
    check_all(a->has_grad, !b->has_grad);
}

static Tensor *two_readers(Context *ctx, void *user) {
    Tensor **x = user, *y = mul(ctx, x[0], x[1]);
    return sum(ctx, mul(ctx, add(ctx, y, x[0]), mul(ctx, y, x[1])));
}

CPU_TEST(mul, inputs_with_other_readers) {
    Tensor *x[2] = {test_normal(&ctx, "a", 1, SHAPE(3, 4)), test_normal(&ctx, "b", 2, SHAPE(3, 4))};
    check_gradients(&ctx, "((a b + a) a b b)", two_readers, x, x, 2, 12, 1e-2, 1e-2);
}
