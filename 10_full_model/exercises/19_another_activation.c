/*
 * Exercise 10.19: another activation
 *
 * Change the model: where a dense layer computes h = silu(gate) * up, let it compute
 *
 *     h = relu(gate)^2 * up          relu(x) = max(x, 0)
 *
 * as an operation on the tape: squared_relu() makes h and leaves a note, RECORD(ctx, h, function,
 * struct with what backward needs), and the function adds to the gradients of gate and up.
 * grad_slot(ctx, gate, &add) says where gate's goes: NULL if nobody wants it, and to be overwritten
 * if add is 0. The gradient of h stands in h->grad->data. On the CPU all are float.
 *
 * The check compares with finite differences. Then it trains a small dense model with silu and with
 * yours, and says both losses. Now fill in the verdict: with the change the loss is
 * 1 lower, 2 the same (to 0.02), 3 higher. Guess before you run it.
 *
 * POINTS: 3
 * REPLACES: swiglu in common/core/ops.c
 * TESTS: check_19_another_activation
 */
#include "common/core/context.h"
#include "common/core/tape.h"

Tensor *squared_relu(Context *ctx, Tensor *gate, Tensor *up);
extern const int verdict;

const int verdict = 0;

/* gate, up [..., n] -> h, of the same shape */
Tensor *squared_relu(Context *ctx, Tensor *gate, Tensor *up) {
    Tensor *h = tensor_new(ctx, "squared_relu", F32, gate->shape, gate->ndim);
    float *y = h->data, *u = up->data;
    for (int64_t i = 0; i < tensor_count(h); i++) y[i] = u[i];
    return h;
}
