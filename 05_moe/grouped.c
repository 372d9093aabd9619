/*
 * The grouped product on the tape: shapes, and which kernels make which gradient.
 *
 * dx and dW are one kernel each, for all experts. SwiGLU's backward first makes dg and du of dh,
 * element by element; both ways back to x are then summed by one kernel.
 */
#include "05_moe/grouped.h"

#include "common/core/ops_kernels.h"
#include "common/core/products.h"
#include "common/core/quantised.h"

static void check_group(const char *where, Context *ctx, const Tensor *x, const Tensor *w,
                        const Tensor *offsets) {
    if (w->quantised) quantised_check(ctx, where, w);
    check_shape(where, x, ctx->dtype, SHAPE(-1, -1));
    check_shape(where, w, w->quantised ? w->dtype : ctx->dtype, SHAPE(-1, -1, x->shape[1]));
    check_shape(where, offsets, I32, SHAPE(w->shape[0] + 1));
}

static GroupedShape shape_of(const Tensor *x, const Tensor *w) {
    return (GroupedShape){
        .rows = x->shape[0], .in = w->shape[2], .out = w->shape[1], .experts = (int)w->shape[0]};
}

static ProductRows rows_of(const Tensor *x, const Tensor *offsets) {
    return (ProductRows){.x = x->data, .rows = x->shape[0], .offsets = offsets->data};
}

/* ---- y = x W^T ---- */

typedef struct GroupedLinearSaved {
    Tensor *y, *x, *w;
    const Tensor *offsets;
} GroupedLinearSaved;

/* dx = dy W,  dW_e = dy_e^T x_e */
static void grouped_linear_backward(Context *ctx, void *saved) {
    GroupedLinearSaved *s = saved;
    GroupedShape shape = shape_of(s->x, s->w);
    int add_x, add_w;
    void *dx = grad_slot(ctx, s->x, &add_x);
    float *dw = grad_slot(ctx, s->w, &add_w);
    const void *dy = s->y->grad->data;
    if (products_take(ctx, s->w, NULL)) {
        ProductTerm term = {.w = s->w, .dy = dy, .dw = dw, .add = add_w};
        ctx->products->backward(ctx, dx, add_x, &term, 1, rows_of(s->x, s->offsets));
        return;
    }
    if (dx) ON(ctx, grouped_backward_input, dx, add_x, dy, s->w->data, s->offsets->data, shape);
    if (dw) ON(ctx, grouped_backward_weight, dw, add_w, dy, s->x->data, s->offsets->data, shape);
}

Tensor *grouped_linear(Context *ctx, Tensor *x, Tensor *w, const Tensor *offsets) {
    check_group("grouped_linear", ctx, x, w, offsets);
    GroupedShape shape = shape_of(x, w);
    Tensor *y = tensor_new(ctx, "grouped_linear", ctx->dtype, SHAPE(shape.rows, shape.out));
    if (w->quantised) {
        w->quantised->products->grouped(ctx, y->data, x->data, w, offsets->data, shape.rows);
        return y;
    }
    if (products_take(ctx, w, NULL))
        ctx->products->forward(ctx, &(ProductTerm){.w = w, .y = y->data}, 1, rows_of(x, offsets));
    else
        ON(ctx, grouped_forward, y->data, x->data, w->data, offsets->data, shape);
    RECORD(ctx, y, grouped_linear_backward, GroupedLinearSaved, .y = y, .x = x, .w = w,
           .offsets = offsets);
    return y;
}

/* ---- h = silu(x W_gate^T) * (x W_up^T) ---- */

typedef struct GroupedSwigluSaved {
    Tensor *h, *g, *u, *x, *gate, *up;
    const Tensor *offsets;
} GroupedSwigluSaved;

/* dg and du from dh, element by element; then two products for x, summed, and one for each weight.
 */
static void grouped_swiglu_backward(Context *ctx, void *saved) {
    GroupedSwigluSaved *s = saved;
    GroupedShape shape = shape_of(s->x, s->gate);
    const int32_t *offsets = s->offsets->data;
    Tensor *dg = tensor_new(ctx, "grouped_swiglu.dg", ctx->dtype, SHAPE(shape.rows, shape.out));
    Tensor *du = tensor_new(ctx, "grouped_swiglu.du", ctx->dtype, SHAPE(shape.rows, shape.out));
    ON(ctx, swiglu_backward, dg->data, 0, du->data, 0, s->h->grad->data, s->g->data, s->u->data,
       tensor_count(s->h));
    int add_x, add_gate, add_up;
    void *dx = grad_slot(ctx, s->x, &add_x);
    float *dgate = grad_slot(ctx, s->gate, &add_gate), *dup = grad_slot(ctx, s->up, &add_up);
    const void *x = s->x->data;
    if (products_take(ctx, s->gate, NULL)) {
        ProductTerm terms[] = {{.w = s->gate, .dy = dg->data, .dw = dgate, .add = add_gate},
                               {.w = s->up, .dy = du->data, .dw = dup, .add = add_up}};
        ctx->products->backward(ctx, dx, add_x, terms, 2, rows_of(s->x, s->offsets));
        return;
    }
    if (dx)
        ON(ctx, grouped_swiglu_backward_input, dx, add_x, dg->data, s->gate->data, du->data,
           s->up->data, offsets, shape);
    if (dgate) ON(ctx, grouped_backward_weight, dgate, add_gate, dg->data, x, offsets, shape);
    if (dup) ON(ctx, grouped_backward_weight, dup, add_up, du->data, x, offsets, shape);
}

/* Off the tape, by way of the weights' own products. */
static Tensor *quantised_swiglu(Context *ctx, Tensor *x, Tensor *gate, Tensor *up,
                                const Tensor *offsets) {
    int64_t rows = x->shape[0], out = tensor_dim(gate, 1);
    Tensor *h = tensor_new(ctx, "grouped_swiglu", ctx->dtype, SHAPE(rows, out));
    ArenaMark before = arena_mark(&ctx->data);
    Tensor *g = grouped_linear(ctx, x, gate, offsets), *u = grouped_linear(ctx, x, up, offsets);
    check_shape("grouped_swiglu", u, ctx->dtype, SHAPE(rows, out));
    ON(ctx, swiglu_forward, h->data, g->data, u->data, rows * out);
    arena_release(&ctx->data, before);
    return h;
}

Tensor *grouped_swiglu(Context *ctx, Tensor *x, Tensor *gate, Tensor *up, const Tensor *offsets) {
    if (gate->quantised || up->quantised) return quantised_swiglu(ctx, x, gate, up, offsets);
    check_group("grouped_swiglu", ctx, x, gate, offsets);
    check_shape("grouped_swiglu", up, gate->dtype, gate->shape, gate->ndim);
    CHECK(gate != up, "grouped_swiglu: gate and up must be two tensors");
    GroupedShape shape = shape_of(x, gate);
    Tensor *h = tensor_new(ctx, "grouped_swiglu", ctx->dtype, SHAPE(shape.rows, shape.out));
    ArenaMark before = arena_mark(&ctx->data); /* g and u go back at once without a tape */
    Tensor *g = NULL, *u = NULL;
    bool another = products_take(ctx, gate, NULL);
    if (ctx->recording || another)
        g = tensor_new(ctx, "grouped_swiglu.g", ctx->dtype, SHAPE(shape.rows, shape.out));
    if (ctx->recording || another || ctx->device == CPU)
        u = tensor_new(ctx, "grouped_swiglu.u", ctx->dtype, SHAPE(shape.rows, shape.out));
    if (another) {
        ProductTerm terms[] = {{.w = gate, .y = g->data}, {.w = up, .y = u->data}};
        ctx->products->forward(ctx, terms, 2, rows_of(x, offsets));
        ON(ctx, swiglu_forward, h->data, g->data, u->data, tensor_count(h));
    } else
        ON(ctx, grouped_swiglu_forward, h->data, g ? g->data : NULL, u ? u->data : NULL, x->data,
           gate->data, up->data, offsets->data, shape);
    if (!ctx->recording) arena_release(&ctx->data, before);
    RECORD(ctx, h, grouped_swiglu_backward, GroupedSwigluSaved, .h = h, .g = g, .u = u, .x = x,
           .gate = gate, .up = up, .offsets = offsets);
    return h;
}
