/*
 * The model: what is between a ModelConfig and a Decoder.
 *
 * Registering translates the config, lists the weights and counts them without memory; model_init
 * also allocates them and makes the table of positions.
 */
#include "10_full_model/model/model.h"

#include <math.h>

int model_register(Model *model, Context *ctx, const ModelConfig *cfg, Error *err) {
    *model = (Model){0};
    if (config_buildable(cfg, err)) return -1;
    *model = (Model){.ctx = ctx, .cfg = *cfg};
    Params *params = &model->params;
    params_init(params, ctx);
    const DecoderConfig decoder = {.vocab_size = cfg->vocab_size,
                                   .num_hidden_layers = cfg->num_hidden_layers,
                                   .tie_word_embeddings = cfg->tie_word_embeddings,
                                   .block = config_block(cfg)};
    decoder_register(&model->decoder, params, &decoder);
    mtp_register(&model->mtp, params, &model->decoder, cfg->num_nextn_predict_layers);
    return 0;
}

int model_allocate(Model *model, bool training, Error *err) {
    RopeConfig rope = config_rope(&model->cfg);
    if (rope.dim && rope_init(&model->rope, model->ctx, &rope, err)) return -1;
    return params_allocate(&model->params, training, err);
}

int model_init(Model *model, Context *ctx, const ModelConfig *cfg, bool training, Error *err) {
    if (model_register(model, ctx, cfg, err) == 0 && model_allocate(model, training, err) == 0)
        return 0;
    model_free(model);
    return -1;
}

void model_free(Model *model) {
    if (!model->ctx) return;
    params_free(&model->params);
    rope_free(&model->rope);
    decoder_free(&model->decoder);
    mtp_free(&model->mtp);
    *model = (Model){0};
}

static DecoderStart start(const Model *model) {
    float std = model->cfg.initializer_range;
    float residual_std = std / sqrtf(2.0f * (float)model->cfg.num_hidden_layers);
    return (DecoderStart){std, std, residual_std, residual_std};
}

void model_randomize(Model *model) {
    decoder_randomize(&model->params, &model->decoder, start(model));
    model_randomize_modules(model);
}

void model_randomize_modules(Model *model) {
    mtp_randomize(&model->params, &model->mtp, start(model));
}

const Position *model_position(const Model *model) {
    return model->cfg.qk_rope_head_dim ? &model->rope.position : NULL;
}

Tensor *model_forward(Model *model, Tensor *ids, DecoderCache *cache) {
    const DecoderRun run = {.position = model_position(model), .cache = cache};
    Tensor *x = decoder_states(model->ctx, &model->decoder, ids, &run);
    if (cache) x = decoder_last(model->ctx, x);
    return decoder_logits(model->ctx, &model->decoder, x);
}

Tensor *model_loss(Model *model, Tensor *ids, Tensor *targets) {
    return decoder_loss(model->ctx, &model->decoder, ids, targets, model_position(model));
}

int model_cache_init(Model *model, DecoderCache *cache, int batch, int capacity, Error *err) {
    return decoder_cache_init(cache, model->ctx, &model->decoder.cfg.block,
                              model->cfg.num_hidden_layers, batch, capacity, err);
}

int model_cache_reserve(Model *model, DecoderCache *cache, int tokens, Error *err) {
    return decoder_cache_reserve(cache, model_position(model), tokens, err);
}
