/*
 * A small language model of latent attention and rotary positions. See ropemodel.h.
 */
#include "07_rope/ropemodel.h"

#include "common/core/ops.h"

#include <math.h>
#include <stdio.h>

static const float NORM_EPS = 1e-6f;

static Tensor *weight(Params *params, int layer, const char *name, const int64_t *shape, int ndim) {
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s.weight", layer, name);
    return params_new(params, full, shape, ndim);
}

int ropemodel_init(RopeModel *model, Params *params, const RopeModelConfig *cfg, Error *err) {
    if (mla_check(&cfg->attention, err)) return -1;
    if (cfg->num_hidden_layers < 1 || cfg->num_hidden_layers > ROPEMODEL_MAX_LAYERS)
        return error_set(err, "num_hidden_layers is %d; it must be 1 to %d", cfg->num_hidden_layers,
                         ROPEMODEL_MAX_LAYERS);
    if (cfg->vocab_size < 2)
        return error_set(err, "vocab_size is %d; it must be at least 2", cfg->vocab_size);
    if (cfg->intermediate_size < 1)
        return error_set(err, "intermediate_size is %d; it must be at least 1",
                         cfg->intermediate_size);
    int hidden = cfg->attention.hidden_size, wide = cfg->intermediate_size;
    *model = (RopeModel){.cfg = *cfg};
    model->embed = params_new(params, "model.embed_tokens.weight", SHAPE(cfg->vocab_size, hidden));
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        RopeModelLayer *layer = &model->layers[i];
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%d.self_attn", i);
        layer->input_norm = weight(params, i, "input_layernorm", SHAPE(hidden));
        layer->attention = mla_init(params, prefix, &cfg->attention);
        layer->post_norm = weight(params, i, "post_attention_layernorm", SHAPE(hidden));
        layer->gate_proj = weight(params, i, "mlp.gate_proj", SHAPE(wide, hidden));
        layer->up_proj = weight(params, i, "mlp.up_proj", SHAPE(wide, hidden));
        layer->down_proj = weight(params, i, "mlp.down_proj", SHAPE(hidden, wide));
    }
    model->norm = params_new(params, "model.norm.weight", SHAPE(hidden));
    model->head = params_new(params, "lm_head.weight", SHAPE(cfg->vocab_size, hidden));
    return 0;
}

void ropemodel_randomize(Params *params, const RopeModel *model) {
    const RopeModelConfig *cfg = &model->cfg;
    float std = 1.0f / sqrtf((float)cfg->attention.hidden_size); /* keeps a row's length */
    params_normal(params, model->embed, 0.5f);
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        const RopeModelLayer *layer = &model->layers[i];
        params_fill(params, layer->input_norm, 1.0f);
        params_fill(params, layer->post_norm, 1.0f);
        mla_randomize(params, &layer->attention, std, std);
        params_normal(params, layer->gate_proj, std);
        params_normal(params, layer->up_proj, std);
        params_normal(params, layer->down_proj, 1.0f / sqrtf((float)cfg->intermediate_size));
    }
    params_fill(params, model->norm, 1.0f);
    params_normal(params, model->head, std);
}

/* [ropemodel_forward] */
Tensor *ropemodel_forward(Context *ctx, const RopeModel *model, Tensor *ids,
                          const Position *position, LatentCache *caches) {
    const RopeModelConfig *cfg = &model->cfg;
    Tensor *h = embedding(ctx, model->embed, ids); /* no position is added to it */
    Error err = {0};
    CHECK(!caches || pages_begin(caches->pages, (int)tensor_dim(ids, 1), &err) == 0,
          "ropemodel_forward: %s", err.text);
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        const RopeModelLayer *layer = &model->layers[i];
        Tensor *n = rmsnorm(ctx, h, layer->input_norm, NORM_EPS);
        h = mla_forward(ctx, n, &layer->attention, &cfg->attention, position,
                        caches ? &caches[i] : NULL, MLA_AUTO, (Residual){.x = h});
        n = rmsnorm(ctx, h, layer->post_norm, NORM_EPS);
        Tensor *gated = swiglu(ctx, linear(ctx, n, layer->gate_proj, NULL),
                               linear(ctx, n, layer->up_proj, NULL));
        h = linear_residual(ctx, gated, layer->down_proj, NULL, (Residual){.x = h});
    }
    return linear(ctx, rmsnorm(ctx, h, model->norm, NORM_EPS), model->head, NULL);
}
/* [/ropemodel_forward] */

Tensor *ropemodel_loss(Context *ctx, const RopeModel *model, Tensor *ids, Tensor *targets,
                       const Position *position) {
    return cross_entropy(ctx, ropemodel_forward(ctx, model, ids, position, NULL), targets);
}
