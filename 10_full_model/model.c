#include "model.h"

#include "../common/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* A weight of layer i, named as Hugging Face does. */
static Tensor *layer_weight(Model *model, int layer, const char *name, const int64_t *shape,
                            int ndim) {
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
    return params_new(&model->params, full, shape, ndim);
}

int model_init(Model *model, Context *ctx, const ModelConfig *cfg, bool training, Error *err) {
    *model = (Model){.ctx = ctx, .cfg = *cfg};
    params_init(&model->params, ctx);
    model->layers = calloc((size_t)cfg->num_hidden_layers, sizeof *model->layers);
    if (!model->layers) fatal("out of memory");
    int64_t d = cfg->hidden_size, wide = cfg->intermediate_size;
    MultiheadConfig attention = config_attention(cfg);

    model->embed_tokens =
        params_new(&model->params, "model.embed_tokens.weight", SHAPE(cfg->vocab_size, d));
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        ModelLayer *layer = &model->layers[i];
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%d.self_attn", i);
        layer->input_layernorm = layer_weight(model, i, "input_layernorm", SHAPE(d));
        layer->self_attn = multihead_init(&model->params, prefix, &attention);
        layer->post_attention_layernorm =
            layer_weight(model, i, "post_attention_layernorm", SHAPE(d));
        layer->gate_proj = layer_weight(model, i, "mlp.gate_proj", SHAPE(wide, d));
        layer->up_proj = layer_weight(model, i, "mlp.up_proj", SHAPE(wide, d));
        layer->down_proj = layer_weight(model, i, "mlp.down_proj", SHAPE(d, wide));
    }
    model->norm = params_new(&model->params, "model.norm.weight", SHAPE(d));
    model->lm_head = cfg->tie_word_embeddings
                         ? model->embed_tokens
                         : params_new(&model->params, "lm_head.weight", SHAPE(cfg->vocab_size, d));
    if (params_allocate(&model->params, training, err)) {
        model_free(model);
        return -1;
    }
    return 0;
}

void model_free(Model *model) {
    if (!model->ctx) return;
    params_free(&model->params);
    free(model->layers);
    *model = (Model){0};
}

void model_randomize(Model *model) {
    Params *params = &model->params;
    float std = model->cfg.initializer_range;
    float residual_std = std / sqrtf(2.0f * (float)model->cfg.num_hidden_layers);
    params_normal(params, model->embed_tokens, std);
    for (int i = 0; i < model->cfg.num_hidden_layers; i++) {
        ModelLayer *layer = &model->layers[i];
        params_fill(params, layer->input_layernorm, 1);
        multihead_randomize(params, &layer->self_attn, std, residual_std);
        params_fill(params, layer->post_attention_layernorm, 1);
        params_normal(params, layer->gate_proj, std);
        params_normal(params, layer->up_proj, std);
        params_normal(params, layer->down_proj, residual_std);
    }
    params_fill(params, model->norm, 1);
    if (model->lm_head != model->embed_tokens) params_normal(params, model->lm_head, std);
}

/* The last token's row of x [1, T, D], as [1, 1, D]: the same memory. */
static Tensor *last_token(Context *ctx, Tensor *x) {
    CHECK(!ctx->recording && tensor_dim(x, 0) == 1, "last_token: for generating, one sequence");
    int64_t d = tensor_dim(x, 2);
    Tensor *last = arena_alloc(&ctx->host, sizeof *last);
    char *data = (char *)x->data + (size_t)((tensor_dim(x, 1) - 1) * d) * dtype_size(x->dtype);
    *last = tensor_of(data, x->name, x->dtype, x->device, SHAPE(1, 1, d));
    return last;
}

/* [model_forward] */
static Tensor *mlp(Context *ctx, Tensor *h, const ModelLayer *w) {
    Tensor *gate = linear(ctx, h, w->gate_proj, NULL); /* [B, T, intermediate_size] */
    Tensor *up = linear(ctx, h, w->up_proj, NULL);
    return linear(ctx, swiglu(ctx, gate, up), w->down_proj, NULL);
}

Tensor *model_forward(Model *model, Tensor *ids, KVCache *caches) {
    Context *ctx = model->ctx;
    const ModelConfig *cfg = &model->cfg;
    MultiheadConfig attention = config_attention(cfg);

    Tensor *x = embedding(ctx, model->embed_tokens, ids); /* [B, T, hidden_size] */
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        const ModelLayer *w = &model->layers[i];
        Tensor *h = rmsnorm(ctx, x, w->input_layernorm, cfg->rms_norm_eps);
        h = multihead_forward(ctx, h, &w->self_attn, &attention, caches ? &caches[i] : NULL);
        x = add(ctx, x, h);
        h = rmsnorm(ctx, x, w->post_attention_layernorm, cfg->rms_norm_eps);
        x = add(ctx, x, mlp(ctx, h, w));
    }
    if (caches) x = last_token(ctx, x);
    x = rmsnorm(ctx, x, model->norm, cfg->rms_norm_eps);
    return linear(ctx, x, model->lm_head, NULL); /* [B, T, vocab_size] */
}
/* [/model_forward] */

Tensor *model_loss(Model *model, Tensor *ids, Tensor *targets) {
    return cross_entropy(model->ctx, model_forward(model, ids, NULL), targets);
}

KVCache *model_caches_new(Model *model, int capacity, Error *err) {
    int layers = model->cfg.num_hidden_layers;
    KVCache *caches = calloc((size_t)layers, sizeof *caches);
    if (!caches) fatal("out of memory");
    for (int i = 0; i < layers; i++)
        if (kv_cache_init(&caches[i], model->ctx, 1, capacity, model->cfg.num_key_value_heads,
                          model->cfg.head_dim, err)) {
            model_caches_free(model, caches);
            return NULL;
        }
    return caches;
}

void model_caches_free(Model *model, KVCache *caches) {
    for (int i = 0; caches && i < model->cfg.num_hidden_layers; i++) kv_cache_free(&caches[i]);
    free(caches);
}
