/*
 * Causal attention as a module: shapes are checked at the door, the kernel of the context's device
 * runs, and the tape remembers what backward needs: q, k, v, the output, and one number per row,
 * lse. No probability is kept.
 */
#include "02_causal/causal.h"

#include <math.h>

AttentionShape attention_shape(int batch, int heads, int kv_heads, int q_len, int kv_len,
                               int qk_dim, int v_dim, int causal) {
    AttentionShape shape = {batch, heads,  kv_heads,
                            q_len, kv_len, qk_dim,
                            v_dim, causal, .scale = 1.0f / sqrtf((float)qk_dim)};
    shape.q = (HeadStrides){(int64_t)q_len * heads * qk_dim, (int64_t)heads * qk_dim, qk_dim};
    shape.k =
        (HeadStrides){(int64_t)kv_len * kv_heads * qk_dim, (int64_t)kv_heads * qk_dim, qk_dim};
    shape.v = (HeadStrides){(int64_t)kv_len * kv_heads * v_dim, (int64_t)kv_heads * v_dim, v_dim};
    shape.o = (HeadStrides){(int64_t)q_len * heads * v_dim, (int64_t)heads * v_dim, v_dim};
    return shape;
}

void attention_shape_check(const char *where, const AttentionShape *s) {
    CHECK(s->batch > 0 && s->q_len > 0 && s->kv_len > 0, "%s: batch %d, q_len %d, kv_len %d", where,
          s->batch, s->q_len, s->kv_len);
    CHECK(s->heads > 0 && s->kv_heads > 0 && s->heads % s->kv_heads == 0,
          "%s: %d query heads cannot share %d key heads evenly", where, s->heads, s->kv_heads);
    CHECK(!s->causal || s->q_len <= s->kv_len,
          "%s: %d queries but only %d keys: the first queries would see nothing", where, s->q_len,
          s->kv_len);
    CHECK(s->qk_dim > 0 && s->qk_dim <= ATTENTION_MAX_DIM && s->v_dim > 0 &&
              s->v_dim <= ATTENTION_MAX_DIM,
          "%s: heads of %d and %d columns; the tiles hold 1 to %d", where, s->qk_dim, s->v_dim,
          ATTENTION_MAX_DIM);
}

typedef struct AttentionSaved {
    Tensor *o, *q, *k, *v;
    const float *lse; /* [B, H, T] */
    AttentionShape shape;
} AttentionSaved;

static void causal_attention_backward(Context *ctx, void *saved) {
    AttentionSaved *s = saved;
    int add_q, add_k, add_v;
    void *dq = grad_slot(ctx, s->q, &add_q);
    void *dk = grad_slot(ctx, s->k, &add_k);
    void *dv = grad_slot(ctx, s->v, &add_v);
    ArenaMark mark = arena_mark(&ctx->data); /* behind the gradients, which stay */
    size_t bytes = ON(ctx, causal_backward_scratch, s->shape);
    float *scratch = bytes ? arena_alloc(&ctx->data, bytes) : NULL;
    ON(ctx, causal_backward, dq, add_q, dk, add_k, dv, add_v, scratch, s->o->grad->data, s->q->data,
       s->k->data, s->v->data, s->o->data, s->lse, s->shape);
    arena_release(&ctx->data, mark);
}

Tensor *causal_attention(Context *ctx, Tensor *q, Tensor *k, Tensor *v, float scale) {
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1), H = tensor_dim(q, 2), D = tensor_dim(q, 3);
    int64_t S = tensor_dim(k, 1), H_kv = tensor_dim(k, 2), D_v = tensor_dim(v, 3);
    check_shape("causal_attention", q, ctx->dtype, SHAPE(B, T, H, D));
    check_shape("causal_attention", k, ctx->dtype, SHAPE(B, S, H_kv, D));
    check_shape("causal_attention", v, ctx->dtype, SHAPE(B, S, H_kv, D_v));
    AttentionShape shape =
        attention_shape((int)B, (int)H, (int)H_kv, (int)T, (int)S, (int)D, (int)D_v, 1);
    if (scale != 0) shape.scale = scale;
    attention_shape_check("causal_attention", &shape);

    Tensor *o = tensor_new(ctx, "attention", ctx->dtype, SHAPE(B, T, H, D_v));
    float *lse = arena_alloc(&ctx->data, sizeof(float) * (size_t)(B * H * T));
    ON(ctx, causal_forward, o->data, lse, q->data, k->data, v->data, shape);
    RECORD(ctx, o, causal_attention_backward, AttentionSaved, .o = o, .q = q, .k = k, .v = v,
           .lse = lse, .shape = shape);
    return o;
}
