/*
 * A list of notes, read backwards. tape.h has the contract, chapter 01's lesson the walk.
 */
#include "common/core/tape.h"

#include "common/core/context.h"
#include "common/core/ops_kernels.h"

#include <string.h>

void tape_push(Context *ctx, Tensor *output, BackwardFunction backward, const void *saved,
               size_t size) {
    if (!ctx->recording) return;
    size_t needed = (size_t)ctx->tape_length + 1;
    ctx->tape = grow(ctx->tape, &ctx->tape_capacity, needed, sizeof *ctx->tape);
    void *copy = arena_alloc(&ctx->host, size);
    memcpy(copy, saved, size);
    ctx->tape[ctx->tape_length++] = (TapeNode){output, backward, copy};
}

void *grad_slot(Context *ctx, Tensor *t, int *add) {
    *add = 0;
    if (!t || !t->requires_grad) return NULL;
    if (!t->grad) {
        t->grad = arena_alloc(&ctx->host, sizeof *t->grad);
        *t->grad = tensor_view(NULL, t->name, t->dtype, t->device, t->shape, t->ndim);
        t->grad->data = arena_alloc(&ctx->data, tensor_bytes(t));
    }
    *add = t->has_grad;
    t->has_grad = true;
    if (ctx->watch) ctx->watch->writes(ctx->watch->self, t, ctx->tape_node); /* several GPUs */
    return t->grad->data;
}

void grad_pass(Context *ctx, const Tensor *from, Tensor *to) {
    if (!to->requires_grad) return;
    if (!to->has_grad && !to->grad) {
        to->grad = arena_alloc(&ctx->host, sizeof *to->grad);
        *to->grad = tensor_view(from->grad->data, to->name, from->grad->dtype, ctx->device,
                                to->shape, to->ndim);
        to->has_grad = true;
        return;
    }
    CHECK(to->grad->dtype == from->grad->dtype, "%s: its gradient is %s, not %s", to->name,
          dtype_name(to->grad->dtype), dtype_name(from->grad->dtype));
    int add;
    void *sum = grad_slot(ctx, to, &add);
    ON_AS(ctx, to->grad->dtype, accumulate, sum, from->grad->data, tensor_count(to), add);
}

/* [tape_backward] */
void tape_backward(Context *ctx, Tensor *loss) {
    CHECK(tensor_count(loss) == 1, "the loss must be one number, but %s is %s", loss->name,
          shape_text(loss).text);
    CHECK(ctx->tape_length > 0, "nothing was recorded: set ctx->recording before the forward pass");
    int add;
    float one = 1.0f;
    grad_slot(ctx, loss, &add);
    tensor_upload(ctx, loss->grad, &one);

    ctx->recording = false; /* a derivative is not itself differentiated */
    for (int i = ctx->tape_length - 1; i >= 0; i--) {
        TapeNode *node = &ctx->tape[i];
        ctx->tape_node = i;
        if (node->output->has_grad) node->backward(ctx, node->saved);
        if (ctx->watch) ctx->watch->ran(ctx->watch->self, i);
    }
    ctx->tape_length = 0; /* the next forward pass begins a new one */
}
/* [/tape_backward] */
