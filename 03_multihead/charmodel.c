/*
 * A small language model of characters. See charmodel.h for the equations; each function here is
 * one of them.
 */
#include "03_multihead/charmodel.h"

#include "common/core/ops.h"
#include "common/text/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const float NORM_EPS = 1e-6f;

int charmodel_init(CharModel *model, Params *params, const CharModelConfig *cfg, Error *err) {
    if (multihead_check(&cfg->attention, err)) return -1;
    if (cfg->num_hidden_layers < 1 || cfg->num_hidden_layers > CHARMODEL_MAX_LAYERS)
        return error_set(err, "num_hidden_layers is %d; it must be 1 to %d", cfg->num_hidden_layers,
                         CHARMODEL_MAX_LAYERS);
    if (cfg->vocab_size < 2 || cfg->context < 2 || cfg->intermediate_size < 1)
        return error_set(err,
                         "vocab_size %d, context %d, intermediate_size %d: the first two must be "
                         "at least 2, the last at least 1",
                         cfg->vocab_size, cfg->context, cfg->intermediate_size);
    int hidden = cfg->attention.hidden_size;
    *model = (CharModel){.cfg = *cfg};
    model->embed =
        params_new(params, NULL, "model.embed_tokens.weight", SHAPE(cfg->vocab_size, hidden));
    model->position =
        params_new(params, NULL, "model.position.weight", SHAPE(cfg->context, hidden));
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        CharLayer *layer = &model->layers[i];
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%d", i);
        layer->input_norm = params_new(params, prefix, "input_layernorm.weight", SHAPE(hidden));
        layer->attention =
            multihead_init(params, params_name(prefix, "self_attn").text, &cfg->attention);
        layer->post_norm =
            params_new(params, prefix, "post_attention_layernorm.weight", SHAPE(hidden));
        layer->gate_proj = params_new(params, prefix, "mlp.gate_proj.weight",
                                      SHAPE(cfg->intermediate_size, hidden));
        layer->up_proj =
            params_new(params, prefix, "mlp.up_proj.weight", SHAPE(cfg->intermediate_size, hidden));
        layer->down_proj = params_new(params, prefix, "mlp.down_proj.weight",
                                      SHAPE(hidden, cfg->intermediate_size));
    }
    model->norm = params_new(params, NULL, "model.norm.weight", SHAPE(hidden));
    model->head = params_new(params, NULL, "lm_head.weight", SHAPE(cfg->vocab_size, hidden));
    return 0;
}

void charmodel_randomize(Params *params, const CharModel *model) {
    const CharModelConfig *cfg = &model->cfg;
    float std = 1.0f / sqrtf((float)cfg->attention.hidden_size); /* keeps a row's length */
    /*
     * Position and character start equally loud: a head must be able to tell places apart at
     * once.
     */
    params_normal(params, model->embed, 0.5f);
    params_normal(params, model->position, 0.5f);
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        const CharLayer *layer = &model->layers[i];
        params_fill(params, layer->input_norm, 1.0f);
        params_fill(params, layer->post_norm, 1.0f);
        multihead_randomize(params, &layer->attention, std, std);
        params_normal(params, layer->gate_proj, std);
        params_normal(params, layer->up_proj, std);
        params_normal(params, layer->down_proj, 1.0f / sqrtf((float)cfg->intermediate_size));
    }
    params_fill(params, model->norm, 1.0f);
    params_normal(params, model->head, std);
}

/* Place t of every sequence: first, first + 1, ... */
static Tensor *places(Context *ctx, int64_t B, int64_t T, int first) {
    int32_t *host = must_alloc((size_t)(B * T), sizeof *host);
    for (int64_t i = 0; i < B * T; i++) host[i] = first + (int32_t)(i % T);
    Tensor *t = tensor_copy_in(ctx, "places", I32, host, SHAPE(B, T));
    free(host);
    return t;
}

Tensor *charmodel_forward(Context *ctx, const CharModel *model, Tensor *ids, KVCache *caches,
                          Tensor **watched) {
    const CharModelConfig *cfg = &model->cfg;
    int64_t B = tensor_dim(ids, 0), T = tensor_dim(ids, 1);
    int first = caches ? caches[0].length : 0;
    CHECK(first + T <= cfg->context, "charmodel: %d + %d characters in a context of %d", first,
          (int)T, cfg->context);

    Tensor *h = add(ctx, embedding(ctx, model->embed, ids),
                    embedding(ctx, model->position, places(ctx, B, T, first)));
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        const CharLayer *layer = &model->layers[i];
        Tensor *n = rmsnorm(ctx, h, layer->input_norm, NORM_EPS);
        if (watched) watched[i] = n;
        h = multihead_forward(ctx, n, &layer->attention, &cfg->attention,
                              caches ? &caches[i] : NULL, (Residual){.x = h});
        n = rmsnorm(ctx, h, layer->post_norm, NORM_EPS);
        Tensor *gated = swiglu(ctx, linear(ctx, n, layer->gate_proj, NULL),
                               linear(ctx, n, layer->up_proj, NULL));
        h = linear_residual(ctx, gated, layer->down_proj, NULL, (Residual){.x = h});
    }
    return linear(ctx, rmsnorm(ctx, h, model->norm, NORM_EPS), model->head, NULL);
}

Tensor *charmodel_loss(Context *ctx, const CharModel *model, Tensor *ids, Tensor *targets) {
    return cross_entropy(ctx, charmodel_forward(ctx, model, ids, NULL, NULL), targets);
}

int charmodel_generate(Context *ctx, const CharModel *model, int32_t *ids, int prompt, int count,
                       float temperature, uint64_t seed, bool cached, Error *err) {
    const CharModelConfig *cfg = &model->cfg;
    const MultiheadConfig *attention = &cfg->attention;
    const Sampling sampling = {.temperature = temperature, .top_p = 1};
    int vocab = cfg->vocab_size, layers = cfg->num_hidden_layers;
    CHECK(prompt > 0 && prompt + count <= cfg->context, "charmodel_generate: %d + %d of %d", prompt,
          count, cfg->context);
    KVCache caches[CHARMODEL_MAX_LAYERS] = {0};
    int status = 0;
    for (int i = 0; cached && i < layers && status == 0; i++)
        status = kv_cache_init(&caches[i], ctx, 1, cfg->context, attention->num_key_value_heads,
                               attention->head_dim, err);
    float *logits = must_alloc((size_t)cfg->context * (size_t)vocab, sizeof *logits);

    for (int n = prompt; status == 0 && n < prompt + count; n++) {
        /* With a cache: the whole prompt once, then only the newest character. */
        int from = cached && n > prompt ? n - 1 : 0, T = n - from;
        Tensor *input = tensor_copy_in(ctx, "ids", I32, ids + from, SHAPE(1, T));
        Tensor *out = charmodel_forward(ctx, model, input, cached ? caches : NULL, NULL);
        tensor_download(ctx, logits, out);
        float *last = logits + (int64_t)(T - 1) * vocab, u = rng_uniform(seed, 0, (uint64_t)n);
        ids[n] = sample_token(last, vocab, &sampling, u).id;
        context_reset(ctx);
    }
    free(logits);
    for (int i = 0; i < layers; i++) kv_cache_free(&caches[i]);
    return status;
}
