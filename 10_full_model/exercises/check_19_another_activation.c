/*
 * Exercise 10.19's check: the operation alone, twice the same tensor, and a model trained with it
 * and with silu. swiglu() stands here in the place of the real one, and calls either.
 */
#include "10_full_model/exercises/see_the_loss.h"
#include "common/core/ops.h"

Tensor *squared_relu(Context *ctx, Tensor *gate, Tensor *up);
Tensor *swiglu_original(Context *ctx, Tensor *gate, Tensor *up);
extern const int verdict;

static bool changed;

Tensor *swiglu(Context *ctx, Tensor *gate, Tensor *up) {
    return changed ? squared_relu(ctx, gate, up) : swiglu_original(ctx, gate, up);
}

enum { ROWS = 5, WIDTH = 7 };

CPU_TEST(another_activation, values) {
    static const float gate[] = {-2, 0, 3, 0.5f}, up[] = {5, 5, 2, -4}, want[] = {0, 0, 18, -1};
    Tensor *h = squared_relu(&ctx, tensor_copy_in(&ctx, "gate", F32, gate, SHAPE(4)),
                             tensor_copy_in(&ctx, "up", F32, up, SHAPE(4)));
    check_close("h", h->data, want, 4, 1e-7);
}

/* gate is read once more beside the operation, so its gradient is a sum of two. */
static Tensor *weighed(Context *ctx, void *user) {
    Tensor **in = user;
    Tensor *h = squared_relu(ctx, in[0], in[1]);
    return weighted_sum(ctx, add(ctx, h, in[0]), in[2]);
}

CPU_TEST(another_activation, gradient) {
    Tensor *in[3] = {test_normal(&ctx, "gate", 1, SHAPE(ROWS, WIDTH)),
                     test_normal(&ctx, "up", 2, SHAPE(ROWS, WIDTH)),
                     test_normal(&ctx, "weights", 3, SHAPE(ROWS, WIDTH))};
    in[0]->requires_grad = in[1]->requires_grad = true;
    check_gradients(&ctx, "squared_relu", weighed, in, in, 2, ROWS * WIDTH, 1e-2, 2e-2);
}

Test(another_activation, the_loss) {
    ModelConfig cfg = loss_config();
    cfg.first_k_dense_replace = cfg.num_hidden_layers; /* experts have kernels of their own */
    double before = loss_after(cfg, NULL);
    changed = true;
    check_verdict(verdict, before, loss_after(cfg, NULL));
}
