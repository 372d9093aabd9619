/*
 * Softmax as an operation on the tape. The arithmetic is in softmax_cpu.c and softmax_cuda.cu.
 */
#include "01_self_attention/softmax.h"

/* [softmax] */
typedef struct SoftmaxSaved {
    Tensor *y, *x;
} SoftmaxSaved;

/* dx = y (dy - sum(dy y)): x itself is not needed any more, only where its gradient goes. */
static void softmax_backward(Context *ctx, void *saved) {
    SoftmaxSaved *s = saved;
    int add;
    void *dx = grad_slot(ctx, s->x, &add);
    if (!dx) return;
    ON(ctx, softmax_backward, dx, add, s->y->grad->data, s->y->data, tensor_rows(s->x),
       tensor_dim(s->x, -1));
}

Tensor *softmax(Context *ctx, Tensor *x) {
    CHECK(x->dtype == ctx->dtype && x->device == ctx->device && tensor_dim(x, -1) > 0,
          "softmax: %s is %s %s on %s, but should be %s on %s, with at least one column", x->name,
          dtype_name(x->dtype), shape_text(x).text, device_name(x->device), dtype_name(ctx->dtype),
          device_name(ctx->device));
    Tensor *y = tensor_new(ctx, "softmax", x->dtype, x->shape, x->ndim); /* [..., D] */
    ON(ctx, softmax_forward, y->data, x->data, tensor_rows(x), tensor_dim(x, -1));
    RECORD(ctx, y, softmax_backward, SoftmaxSaved, .y = y, .x = x);
    return y;
}
/* [/softmax] */
