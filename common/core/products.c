/*
 * linear() by a Context's own products, on the tape.
 */
#include "common/core/products.h"

#include <string.h>

typedef struct ProductSaved {
    Tensor *y, *x, *weight, *base;
} ProductSaved;

static ProductRows rows_of(const Tensor *x) {
    return (ProductRows){.x = x->data, .rows = tensor_rows(x)};
}

/* dx = dy W,  dW = dy^T x,  dbase = dy, whose memory it takes over once both have read it */
static void products_linear_backward(Context *ctx, void *saved) {
    ProductSaved *s = saved;
    int add_x;
    void *dx = grad_slot(ctx, s->x, &add_x);
    ProductTerm term = {.w = s->weight, .dy = s->y->grad->data};
    term.dw = grad_slot(ctx, s->weight, &term.add);
    ctx->products->backward(ctx, dx, add_x, &term, 1, rows_of(s->x));
    if (s->base) grad_pass(ctx, s->y, s->base);
}

Tensor *products_linear(Context *ctx, Tensor *x, Tensor *weight, Tensor *base) {
    int64_t shape[MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = tensor_dim(weight, 0);
    Tensor *y = tensor_new(ctx, "linear", x->dtype, shape, x->ndim);
    if (base) check_shape("linear_residual", base, y->dtype, y->shape, y->ndim);
    ProductTerm term = {.w = weight, .y = y->data, .base = base ? base->data : NULL};
    ctx->products->forward(ctx, &term, 1, rows_of(x));
    RECORD(ctx, y, products_linear_backward, ProductSaved, .y = y, .x = x, .weight = weight,
           .base = base);
    return y;
}
