/*
 * Exercise 01.7: a new operation on the tape.
 *
 * mul() multiplies two tensors of the same shape element by element. It computes the right numbers,
 * but leaves no note on the tape, so no gradient flows through it. Let it record, and write
 * mul_backward(). Either input may be the same tensor as the other, and may have other readers. The
 * context is one of the CPU, in F32.
 *
 * softmax.c shows how an operation records; common/core/tape.h has the contract of grad_slot().
 *
 * POINTS: 3
 */
#include "common/core/context.h"

Tensor *mul(Context *ctx, Tensor *a, Tensor *b);

Tensor *mul(Context *ctx, Tensor *a, Tensor *b) {
    check_shape("mul: b", b, ctx->dtype, a->shape, a->ndim);
    Tensor *y = tensor_new(ctx, "mul", a->dtype, a->shape, a->ndim);
    const float *p = a->data, *q = b->data;
    float *to = y->data;
    for (int64_t i = 0; i < tensor_count(y); i++) to[i] = p[i] * q[i];
    return y;
}
