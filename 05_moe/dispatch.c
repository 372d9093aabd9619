/*
 * Dispatch on the tape. The plan is made once a layer, from the routers' indices, and has no
 * gradient; permute and combine are nodes that keep it. Each one's backward is the other's way:
 * what was copied apart is added up, what was added up is copied apart and weighted.
 */
#include "05_moe/dispatch.h"

#include <math.h>

int64_t dispatch_scratch_ints(int64_t slots, int experts) {
    return (slots + DISPATCH_PIECE - 1) / DISPATCH_PIECE * experts;
}

int64_t dispatch_capacity(float capacity_factor, int64_t tokens, int top_k, int experts) {
    if (!(capacity_factor > 0)) return 0;
    double capacity = ceil((double)capacity_factor * (double)(tokens * top_k) / experts);
    return capacity < (double)tokens ? (int64_t)capacity : tokens;
}

Dispatch dispatch_plan(Context *ctx, const Tensor *indices, int experts, int64_t capacity) {
    check_shape("dispatch_plan", indices, I32, SHAPE(-1, -1));
    int64_t tokens = indices->shape[0], top_k = indices->shape[1], slots = tokens * top_k;
    CHECK(slots > 0 && slots < INT32_MAX, "dispatch_plan: %lld tokens with %lld experts each",
          (long long)tokens, (long long)top_k);
    Dispatch plan = {.tokens = tokens,
                     .rows = slots,
                     .experts = experts,
                     .top_k = (int)top_k,
                     .capacity = capacity,
                     .counts = tensor_new(ctx, "expert counts", I32, SHAPE(experts)),
                     .offsets = tensor_new(ctx, "expert offsets", I32, SHAPE(experts + 1)),
                     .row_of_slot = tensor_new(ctx, "row of slot", I32, SHAPE(tokens, top_k)),
                     .slot_of_row = tensor_new(ctx, "slot of row", I32, SHAPE(slots))};
    Tensor *scratch =
        tensor_new(ctx, "dispatch scratch", I32, SHAPE(dispatch_scratch_ints(slots, experts)));
    ON(ctx, dispatch_plan, plan.counts->data, plan.offsets->data, plan.row_of_slot->data,
       plan.slot_of_row->data, scratch->data, indices->data, slots, experts, capacity);
    return plan;
}

/* ---- permute ---- */

typedef struct PermuteSaved {
    Tensor *xp, *x;
    const Tensor *row_of_slot;
} PermuteSaved;

static void dispatch_permute_backward(Context *ctx, void *saved) {
    PermuteSaved *s = saved;
    int add;
    void *dx = grad_slot(ctx, s->x, &add);
    if (dx)
        ON(ctx, dispatch_permute_backward, dx, add, s->xp->grad->data, s->row_of_slot->data,
           s->row_of_slot->shape[0], (int)s->row_of_slot->shape[1], s->x->shape[1]);
}

Tensor *dispatch_permute(Context *ctx, Tensor *x, const Dispatch *plan) {
    check_shape("dispatch_permute", x, ctx->dtype, SHAPE(plan->tokens, -1));
    int64_t d = x->shape[1];
    Tensor *xp = tensor_new(ctx, "permuted", ctx->dtype, SHAPE(plan->rows, d));
    ON(ctx, dispatch_permute, xp->data, x->data, plan->row_of_slot->data, plan->tokens, plan->top_k,
       d);
    RECORD(ctx, xp, dispatch_permute_backward, PermuteSaved, .xp = xp, .x = x,
           .row_of_slot = plan->row_of_slot);
    return xp;
}

/* ---- combine ---- */

typedef struct CombineSaved {
    Tensor *y, *base, *yp, *weights;
    const Tensor *row_of_slot;
} CombineSaved;

static void dispatch_combine_backward(Context *ctx, void *saved) {
    CombineSaved *s = saved;
    int add_yp, add_w;
    void *dyp = grad_slot(ctx, s->yp, &add_yp);
    float *dw = grad_slot(ctx, s->weights, &add_w);
    ON(ctx, dispatch_combine_backward, dyp, add_yp, dw, add_w, s->y->grad->data, s->yp->data,
       s->weights->data, s->row_of_slot->data, s->y->shape[0], (int)s->weights->shape[1],
       s->y->shape[1]);
    if (s->base) grad_pass(ctx, s->y, s->base); /* last: it takes dy's memory over */
}

Tensor *dispatch_combine(Context *ctx, Tensor *base, Tensor *yp, Tensor *weights,
                         const Dispatch *plan) {
    check_shape("dispatch_combine", yp, ctx->dtype, SHAPE(plan->rows, -1));
    check_shape("dispatch_combine", weights, F32, SHAPE(plan->tokens, plan->top_k));
    int64_t d = yp->shape[1];
    if (base) check_shape("dispatch_combine", base, ctx->dtype, SHAPE(plan->tokens, d));
    Tensor *y = tensor_new(ctx, "combined", ctx->dtype, SHAPE(plan->tokens, d));
    ON(ctx, dispatch_combine, y->data, base ? base->data : NULL, yp->data, weights->data,
       plan->row_of_slot->data, plan->tokens, plan->top_k, d);
    RECORD(ctx, y, dispatch_combine_backward, CombineSaved, .y = y, .base = base, .yp = yp,
           .weights = weights, .row_of_slot = plan->row_of_slot);
    return y;
}
