/*
 * A small language model with experts: blocks between an embedding and a head. See moemodel.h.
 */
#include "05_moe/moemodel.h"

#include "common/core/ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int moemodel_init(MoeModel *model, Params *params, const MoeModelConfig *cfg, Error *err) {
    if (block_check(&cfg->block, err)) return -1;
    if (cfg->block.attention != ATTENTION_MULTIHEAD)
        return error_set(err, "this model's position is added to its input: multi-head attention");
    if (cfg->num_hidden_layers < 1 || cfg->num_hidden_layers > MOEMODEL_MAX_LAYERS)
        return error_set(err, "num_hidden_layers is %d; it must be 1 to %d", cfg->num_hidden_layers,
                         MOEMODEL_MAX_LAYERS);
    if (cfg->vocab_size < 2 || cfg->context < 2)
        return error_set(err, "vocab_size %d, context %d: both must be at least 2", cfg->vocab_size,
                         cfg->context);
    int hidden = cfg->block.hidden_size;
    *model = (MoeModel){.cfg = *cfg};
    model->embed = params_new(params, "model.embed_tokens.weight", SHAPE(cfg->vocab_size, hidden));
    model->position = params_new(params, "model.position.weight", SHAPE(cfg->context, hidden));
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%d", i);
        model->layers[i] = block_init(params, prefix, &cfg->block, i);
    }
    model->norm = params_new(params, "model.norm.weight", SHAPE(hidden));
    model->head = params_new(params, "lm_head.weight", SHAPE(cfg->vocab_size, hidden));
    return 0;
}

void moemodel_randomize(Params *params, const MoeModel *model) {
    float std = 1.0f / sqrtf((float)model->cfg.block.hidden_size); /* keeps a row's length */
    params_normal(params, model->embed, 0.5f);
    params_normal(params, model->position, 0.5f);
    for (int i = 0; i < model->cfg.num_hidden_layers; i++)
        block_randomize(params, &model->layers[i], std, std);
    params_fill(params, model->norm, 1.0f);
    params_normal(params, model->head, std);
}

/* Place t of every sequence: 0, 1, ... */
static Tensor *places(Context *ctx, int64_t B, int64_t T) {
    int32_t *host = must_alloc((size_t)(B * T), sizeof *host);
    for (int64_t i = 0; i < B * T; i++) host[i] = (int32_t)(i % T);
    Tensor *t = tensor_copy_in(ctx, "places", I32, host, SHAPE(B, T));
    free(host);
    return t;
}

Tensor *moemodel_forward(Context *ctx, const MoeModel *model, Tensor *ids,
                         const BlockTraining *training, MoeRecord *records) {
    const MoeModelConfig *cfg = &model->cfg;
    int64_t B = tensor_dim(ids, 0), T = tensor_dim(ids, 1);
    CHECK(T <= cfg->context, "moemodel: %lld characters in a context of %d", (long long)T,
          cfg->context);
    Tensor *x = add(ctx, embedding(ctx, model->embed, ids),
                    embedding(ctx, model->position, places(ctx, B, T)));
    for (int i = 0; i < cfg->num_hidden_layers; i++)
        x = block_forward(
            ctx, x, &model->layers[i], &cfg->block,
            &(BlockRun){.record = records ? &records[i] : NULL, .training = training});
    return linear(ctx, rmsnorm(ctx, x, model->norm, cfg->block.rms_norm_eps), model->head, NULL);
}

Tensor *moemodel_loss(Context *ctx, const MoeModel *model, Tensor *ids, Tensor *targets,
                      const BlockTraining *training, MoeRecord *records, Tensor **loss) {
    Tensor *logits = moemodel_forward(ctx, model, ids, training, records);
    Tensor *total = *loss = cross_entropy(ctx, logits, targets);
    for (int i = 0; i < model->cfg.num_hidden_layers; i++)
        if (records[i].loss) total = add(ctx, total, records[i].loss);
    return total;
}

void moemodel_rebalance(Context *ctx, const MoeModel *model, float gamma) {
    for (int i = 0; i < model->cfg.num_hidden_layers; i++)
        if (!model->layers[i].dense) moe_rebalance(ctx, &model->layers[i].moe, gamma);
}
