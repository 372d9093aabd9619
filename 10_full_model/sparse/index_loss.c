/*
 * The loss as an operation on the tape: its kernel has made the gradients when the forward pass
 * ends, and backward multiplies them by the loss's own.
 */
#include "10_full_model/sparse/index_loss.h"

#include "10_full_model/sparse/index_kernels.h"

#include <math.h>

typedef struct IndexLossSaved {
    Tensor *loss, *inputs[3]; /* q, k, w */
    float *gradients[3];      /* for a loss whose gradient is 1 */
} IndexLossSaved;

static void index_loss_backward(Context *ctx, void *saved) {
    IndexLossSaved *s = saved;
    float factor;
    tensor_download(ctx, &factor, s->loss->grad);
    for (int i = 0; i < 3; i++) {
        int add;
        float *to = grad_slot(ctx, s->inputs[i], &add);
        int64_t n = tensor_count(s->inputs[i]);
        for (int64_t j = 0; j < n && to; j++)
            to[j] = (add ? to[j] : 0) + factor * s->gradients[i][j];
    }
}

static IndexMeasures measure(Context *ctx, IndexLossInput in, IndexLossShape shape, double loss) {
    float out[5];
    INDEX_ON(ctx, index_measure, out, in, shape);
    bool any = out[0] > 0;
    return (IndexMeasures){loss, any ? out[1] / out[0] : NAN, any ? out[2] / out[0] : NAN,
                           any ? out[3] / out[0] : NAN, 1 - out[4] / shape.index_heads};
}

Tensor *index_loss(Context *ctx, const Attended *a, Tensor *q, Tensor *k, Tensor *w, float scale,
                   int topk, IndexMeasures *measures) {
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1), heads = tensor_dim(q, 2);
    int64_t dim = tensor_dim(q, 3), H = tensor_dim(a->q, 2), qk = tensor_dim(a->q, 3);
    check_shape("index_loss", a->q, ctx->dtype, SHAPE(B, T, H, qk));
    check_shape("index_loss", k, ctx->dtype, SHAPE(B, T, dim));
    check_shape("index_loss", w, F32, SHAPE(B, T, heads));
    IndexLossShape shape = {.batch = (int)B,
                            .tokens = (int)T,
                            .heads = (int)H,
                            .qk_dim = (int)qk,
                            .attention_scale = a->scale,
                            .index_heads = (int)heads,
                            .index_dim = (int)dim,
                            .index_scale = scale,
                            .topk = topk};
    IndexLossInput in = {a->q->data, a->k->data, a->lse, q->data, k->data, w->data, NULL};
    if (a->selected) {
        shape.count = (int)tensor_dim(a->selected, 2);
        SelectedShape lists = {.attention = {.batch = (int)B, .q_len = (int)T, .kv_len = (int)T},
                               .count = shape.count};
        int32_t *tidy = arena_alloc(&ctx->data, selected_work_cpu(lists));
        INDEX_ON(ctx, selected_tidy, tidy, a->selected->data, lists);
        in.lists = tidy;
    }
    float *losses = arena_alloc(&ctx->data, sizeof(float) * (size_t)(B * T));
    IndexLossSaved s = {.loss = tensor_new(ctx, "index_loss", F32, SHAPE(1)), .inputs = {q, k, w}};
    for (int i = 0; i < 3 && ctx->recording; i++)
        s.gradients[i] = arena_alloc(&ctx->data, sizeof(float) * (size_t)tensor_count(s.inputs[i]));
    INDEX_ON(ctx, index_loss, losses, s.gradients[0], s.gradients[1], s.gradients[2], in, shape);
    double sum = 0;
    for (int64_t i = 0; i < B * T; i++) sum += losses[i];
    float mean = (float)(sum / (double)(B * T));
    tensor_upload(ctx, s.loss, &mean);
    tape_push(ctx, s.loss, index_loss_backward, &s, sizeof s);
    *measures = measure(ctx, in, shape, mean);
    return s.loss;
}
