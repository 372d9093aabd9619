/*
 * Self-attention, wired from linear layers, two matrix products and a softmax.
 *
 * There is no backward function in this file: each operation called here records its own, and the
 * tape runs them. The price is that scores and weights, [B, T, T] each, are kept for the backward
 * pass; chapter 02 gets rid of them.
 */
#include "01_self_attention/attention.h"

#include "01_self_attention/matmul.h"
#include "01_self_attention/softmax.h"
#include "common/core/ops.h"

#include <math.h>

/* [attention] */
Tensor *attention(Context *ctx, Tensor *q, Tensor *k, Tensor *v, Tensor **weights) {
    int64_t batch = tensor_dim(q, 0), keys = tensor_dim(k, 1), d = tensor_dim(q, -1);
    check_shape("attention: q", q, ctx->dtype, SHAPE(batch, -1, d));
    check_shape("attention: k", k, ctx->dtype, SHAPE(batch, -1, d));
    check_shape("attention: v", v, ctx->dtype, SHAPE(batch, keys, -1));

    Tensor *scores = matmul_transposed(ctx, q, k, 1.0f / sqrtf((float)d)); /* [B, T, S] */
    Tensor *p = softmax(ctx, scores);                                      /* [B, T, S] */
    if (weights) *weights = p;
    return matmul(ctx, p, v); /* [B, T, E] */
}

Tensor *self_attention_forward(Context *ctx, Tensor *x, const SelfAttention *w, Tensor **weights) {
    check_shape("self_attention", x, ctx->dtype, SHAPE(-1, -1, tensor_dim(w->q_proj, 1)));
    Tensor *q = linear(ctx, x, w->q_proj, NULL); /* [B, T, D]: what the token looks for */
    Tensor *k = linear(ctx, x, w->k_proj, NULL); /* [B, T, D]: what it can be found by */
    Tensor *v = linear(ctx, x, w->v_proj, NULL); /* [B, T, D]: what it passes on when found */
    return attention(ctx, q, k, v, weights);
}
/* [/attention] */

SelfAttention self_attention_init(Params *params, const char *prefix,
                                  const SelfAttentionConfig *cfg) {
    CHECK(cfg->hidden_size > 0 && cfg->head_dim > 0,
          "self_attention_init %s: hidden_size %d and head_dim %d must be at least 1", prefix,
          cfg->hidden_size, cfg->head_dim);
    SelfAttention w;
    int64_t in = cfg->hidden_size, out = cfg->head_dim;
    w.q_proj = params_new(params, prefix, "q_proj.weight", SHAPE(out, in));
    w.k_proj = params_new(params, prefix, "k_proj.weight", SHAPE(out, in));
    w.v_proj = params_new(params, prefix, "v_proj.weight", SHAPE(out, in));
    return w;
}

void self_attention_randomize(Params *params, const SelfAttention *w, float std) {
    params_normal(params, w->q_proj, std);
    params_normal(params, w->k_proj, std);
    params_normal(params, w->v_proj, std);
}
