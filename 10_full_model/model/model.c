#include "10_full_model/model/model.h"

#include "05_moe/block_decode.h"
#include "common/core/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int model_init(Model *model, Context *ctx, const ModelConfig *cfg, bool training, Error *err) {
    *model = (Model){0};
    if (config_buildable(cfg, err)) return -1;
    *model = (Model){.ctx = ctx, .cfg = *cfg, .block = config_block(cfg)};
    Params *params = &model->params;
    params_init(params, ctx);
    model->layers = must_alloc((size_t)cfg->num_hidden_layers, sizeof *model->layers);
    int64_t d = cfg->hidden_size;
    model->embed_tokens =
        params_new(params, "model.embed_tokens.weight", SHAPE(cfg->vocab_size, d));
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%d", i);
        model->layers[i] = block_init(params, prefix, &model->block, i);
    }
    model->norm = params_new(params, "model.norm.weight", SHAPE(d));
    model->lm_head = cfg->tie_word_embeddings
                         ? model->embed_tokens
                         : params_new(params, "lm_head.weight", SHAPE(cfg->vocab_size, d));
    RopeConfig rope = config_rope(cfg);
    if ((rope.dim && rope_init(&model->rope, ctx, &rope, err)) ||
        params_allocate(params, training, err)) {
        model_free(model);
        return -1;
    }
    return 0;
}

void model_free(Model *model) {
    if (!model->ctx) return;
    params_free(&model->params);
    rope_free(&model->rope);
    free(model->layers);
    *model = (Model){0};
}

void model_randomize(Model *model) {
    Params *params = &model->params;
    float std = model->cfg.initializer_range;
    float residual_std = std / sqrtf(2.0f * (float)model->cfg.num_hidden_layers);
    params_normal(params, model->embed_tokens, std);
    for (int i = 0; i < model->cfg.num_hidden_layers; i++)
        block_randomize(params, &model->layers[i], std, residual_std);
    params_fill(params, model->norm, 1);
    if (model->lm_head != model->embed_tokens) params_normal(params, model->lm_head, std);
}

/* A model without a rotated part has no positions. */
static const Position *position_of(const Model *model) {
    return model->cfg.qk_rope_head_dim ? &model->rope.position : NULL;
}

/* The last token's row of each sequence of x [B, T, D], as [B, 1, D]. */
static Tensor *last_tokens(Context *ctx, Tensor *x) {
    int64_t B = tensor_dim(x, 0), T = tensor_dim(x, 1), d = tensor_dim(x, 2);
    CHECK(!ctx->recording, "last_tokens: for generating");
    if (T == 1) return x;
    Tensor *rows = reshape(ctx, x, SHAPE(B, T * d)); /* they are the last columns of this */
    return reshape(ctx, slice(ctx, rows, (T - 1) * d, d), SHAPE(B, 1, d));
}

/* [model_forward] */
typedef Tensor *BlockFunction(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                              const BlockRun *run);

/* What the last norm reads, [B, T, hidden_size]. */
static Tensor *states(Model *model, Tensor *ids, BlockFunction *block, DecoderCache *cache,
                      MoeRecord *records, const BlockTraining *training) {
    Context *ctx = model->ctx;
    Tensor *x = embedding(ctx, model->embed_tokens, ids); /* [B, T, hidden_size] */
    if (ctx->recording && training) x = dropout(ctx, x, training->dropout);
    if (cache) decoder_cache_begin(cache, (int)tensor_dim(ids, 1));
    for (int i = 0; i < model->cfg.num_hidden_layers; i++) {
        BlockRun run = {.position = position_of(model),
                        .cache = cache ? &cache->layers[i] : NULL,
                        .record = records ? &records[i] : NULL,
                        .training = training};
        x = block(ctx, x, &model->layers[i], &model->block, &run);
    }
    return x;
}

static Tensor *head(Model *model, Tensor *x) {
    return rmsnorm_linear(model->ctx, x, model->norm, model->cfg.rms_norm_eps, model->lm_head);
}

Tensor *model_forward(Model *model, Tensor *ids, DecoderCache *cache, MoeRecord *records) {
    Tensor *x = states(model, ids, block_forward, cache, records, NULL);
    return head(model, cache ? last_tokens(model->ctx, x) : x); /* [B, T or 1, vocab_size] */
}

Tensor *model_decode(Model *model, Tensor *ids, DecoderCache *cache) {
    Tensor *x = states(model, ids, block_decode, cache, NULL, NULL);
    return head(model, last_tokens(model->ctx, x)); /* [B, 1, vocab_size] */
}
/* [/model_forward] */

/* Mean cross entropy. */
static Tensor *loss_of(Model *model, Tensor *x, Tensor *targets) {
    Tensor *h = rmsnorm(model->ctx, x, model->norm, model->cfg.rms_norm_eps);
    return linear_cross_entropy(model->ctx, h, model->lm_head, targets);
}

Tensor *model_loss(Model *model, Tensor *ids, Tensor *targets) {
    return loss_of(model, states(model, ids, block_forward, NULL, NULL, NULL), targets);
}

/* [model_training_loss] */
Tensor *model_training_loss(Model *model, Tensor *ids, Tensor *targets,
                            const BlockTraining *training, MoeRecord *records,
                            Tensor **cross_entropy_loss) {
    Tensor *x = states(model, ids, block_forward, NULL, records, training);
    Tensor *loss = *cross_entropy_loss = loss_of(model, x, targets);
    for (int i = 0; i < model->cfg.num_hidden_layers; i++)
        if (records[i].loss) loss = add(model->ctx, loss, records[i].loss);
    return loss;
}
/* [/model_training_loss] */

void model_rebalance(Model *model, float gamma) {
    for (int i = 0; i < model->cfg.num_hidden_layers; i++)
        if (!model->layers[i].dense) moe_rebalance(model->ctx, &model->layers[i].moe, gamma);
}

int model_cache_init(Model *model, DecoderCache *cache, int batch, int capacity, Error *err) {
    return decoder_cache_init(cache, model->ctx, &model->block, model->cfg.num_hidden_layers, batch,
                              capacity, err);
}

int model_cache_reserve(Model *model, DecoderCache *cache, int tokens, Error *err) {
    return decoder_cache_reserve(cache, position_of(model), tokens, err);
}
