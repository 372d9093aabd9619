/*
 * The loss as an operation on the tape: its kernel has made the gradients when the forward pass
 * ends, and backward multiplies them by the loss's own.
 */
#include "10_full_model/sparse/index_loss.h"

#include "10_full_model/sparse/index_kernels.h"

#include <math.h>

typedef struct IndexLossSaved {
    Tensor *loss, *inputs[3]; /* q, k, w */
    void *gradients[3];       /* for a loss whose gradient is 1; of the inputs' dtypes */
} IndexLossSaved;

static void index_loss_backward(Context *ctx, void *saved) {
    IndexLossSaved *s = saved;
    for (int i = 0; i < 3; i++) {
        int add;
        void *to = grad_slot(ctx, s->inputs[i], &add);
        if (to)
            ON_AS(ctx, s->inputs[i]->dtype, index_multiply, to, add, s->gradients[i],
                  s->loss->grad->data, tensor_count(s->inputs[i]));
    }
}

static IndexMeasures measure(Context *ctx, void *scratch, IndexLossInput in, IndexLossShape shape,
                             const Tensor *loss) {
    Tensor *sums = tensor_new(ctx, "index_measures", F32, SHAPE(5));
    float out[5], mean;
    ON(ctx, index_measure, sums->data, scratch, in, shape);
    tensor_download(ctx, out, sums), tensor_download(ctx, &mean, loss);
    bool any = out[0] > 0;
    return (IndexMeasures){mean, any ? out[1] / out[0] : NAN, any ? out[2] / out[0] : NAN,
                           any ? out[3] / out[0] : NAN, 1 - out[4] / shape.index_heads};
}

Tensor *index_loss(Context *ctx, const Attended *a, Tensor *q, Tensor *k, Tensor *w, float scale,
                   int topk, IndexMeasures *measures) {
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1), heads = tensor_dim(q, 2);
    int64_t dim = tensor_dim(q, 3), H = tensor_dim(a->q, 2), qk = tensor_dim(a->q, 3);
    int64_t kv_heads = tensor_dim(a->k, 2);
    check_shape("index_loss", a->q, ctx->dtype, SHAPE(B, T, H, qk));
    check_shape("index_loss", a->k, ctx->dtype, SHAPE(B, T, kv_heads == 1 ? 1 : H, qk));
    check_shape("index_loss", k, ctx->dtype, SHAPE(B, T, dim));
    check_shape("index_loss", w, F32, SHAPE(B, T, heads));
    IndexLossShape shape = {.batch = (int)B,
                            .tokens = (int)T,
                            .heads = (int)H,
                            .kv_heads = (int)kv_heads,
                            .qk_dim = (int)qk,
                            .attention_scale = a->scale,
                            .index_heads = (int)heads,
                            .index_dim = (int)dim,
                            .index_scale = scale,
                            .topk = topk};
    IndexLossInput in = {a->q->data, a->k->data, a->lse, q->data, k->data, w->data, NULL};
    IndexLossSaved s = {.loss = tensor_new(ctx, "index_loss", F32, SHAPE(1)), .inputs = {q, k, w}};
    for (int i = 0; i < 3 && ctx->recording; i++)
        s.gradients[i] = arena_alloc(&ctx->data, tensor_bytes(s.inputs[i]));
    ArenaMark mark = arena_mark(&ctx->data); /* behind what backward needs */
    if (a->selected) {
        shape.count = (int)tensor_dim(a->selected, 2);
        SelectedShape lists = {.attention = {.batch = (int)B, .q_len = (int)T, .kv_len = (int)T},
                               .count = shape.count};
        int32_t *tidy = arena_alloc(&ctx->data, ON(ctx, selected_work, lists));
        ON(ctx, selected_tidy, tidy, a->selected->data, lists);
        in.lists = tidy;
    }
    float *losses = arena_alloc(&ctx->data, sizeof(float) * (size_t)(B * T));
    size_t bytes = ON(ctx, index_loss_scratch, shape);
    void *scratch = bytes ? arena_alloc(&ctx->data, bytes) : NULL;
    ON(ctx, index_loss, losses, s.gradients[0], s.gradients[1], s.gradients[2], scratch, in, shape);
    ON(ctx, index_mean, s.loss->data, losses, B * T);
    tape_push(ctx, s.loss, index_loss_backward, &s, sizeof s);
    *measures = measure(ctx, scratch, in, shape, s.loss);
    arena_release(&ctx->data, mark);
    return s.loss;
}
