/*
 * The model: what is between a ModelConfig and a Decoder.
 *
 * Registering translates the config, lists the weights and counts them without memory; model_init
 * also allocates them and makes the table of positions.
 */
#include "10_full_model/model/model.h"

#include <math.h>
#include <stdlib.h>

/* One for each block, which is told of it. */
static void register_indexers(Model *model) {
    const IndexerConfig cfg = config_indexer(&model->cfg);
    int layers = model->cfg.num_hidden_layers, count = layers + model->mtp.depth;
    indexers_register(&model->indexers, &model->params, &cfg, count);
    for (int i = 0; i < count; i++) {
        Block *block =
            i < layers ? &model->decoder.layers[i] : &model->mtp.modules[i - layers].block;
        block->selection = &model->indexers.list[i].selection;
    }
}

int model_register(Model *model, Context *ctx, const ModelConfig *cfg, Error *err) {
    (void)err; /* config_check has seen the sizes; every device has all kernels */
    *model = (Model){.ctx = ctx, .cfg = *cfg};
    Params *params = &model->params;
    params_init(params, ctx);
    const DecoderConfig decoder = {.vocab_size = cfg->vocab_size,
                                   .num_hidden_layers = cfg->num_hidden_layers,
                                   .tie_word_embeddings = cfg->tie_word_embeddings,
                                   .block = config_block(cfg)};
    decoder_register(&model->decoder, params, &decoder);
    mtp_register(&model->mtp, params, &model->decoder, cfg->num_nextn_predict_layers);
    if (config_is_sparse(cfg)) register_indexers(model);
    return 0;
}

int model_allocate(Model *model, bool training, Error *err) {
    RopeConfig rope = config_rope(&model->cfg);
    if (rope.dim && rope_init(&model->rope, model->ctx, &rope, err)) return -1;
    rope.layout = ROPE_HALVES; /* whatever attention has */
    if (rope.dim && config_is_sparse(&model->cfg)) {
        if (rope_init(&model->index_rope, model->ctx, &rope, err)) return -1;
        indexers_set_rope(&model->indexers, &model->index_rope);
    }
    return params_allocate(&model->params, training, err);
}

int model_init(Model *model, Context *ctx, const ModelConfig *cfg, bool training, Error *err) {
    if (model_register(model, ctx, cfg, err) == 0 && model_allocate(model, training, err) == 0)
        return 0;
    model_free(model);
    return -1;
}

/* The first number that is not finite of n on the host; -1: none. */
static int64_t first_not_finite(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i])) return i;
    return -1;
}

static int check_weights(Model *model, Error *err) {
    Params *params = &model->params;
    for (int i = 0; i < params->count + params->buffer_count; i++) {
        const Tensor *t = i < params->count ? params->list[i] : params->buffers[i - params->count];
        if (t->dtype == I32) continue; /* a router's status */
        float *values = must_alloc((size_t)tensor_count(t), sizeof *values);
        params_get(params, t, values);
        int64_t at = first_not_finite(values, tensor_count(t));
        float value = at < 0 ? 0 : values[at];
        free(values);
        if (at >= 0)
            return error_set(err, "number %lld of '%s' is %g: this model's file is broken",
                             (long long)at, t->name, fabsf(value));
    }
    return 0;
}

/* Decoders of the first 0, 1, ... layers, until one of them goes wrong. */
static int check_layers(Model *model, const int32_t *ids, int count, Error *err) {
    Context *ctx = model->ctx;
    const DecoderRun run = {.position = model_position(model)};
    Decoder first = model->decoder;
    int layers = model->cfg.num_hidden_layers, wrong = -1;
    for (int i = 0; i <= layers + 1 && wrong < 0; i++) {
        first.cfg.num_hidden_layers = i < layers ? i : layers;
        Tensor *input = tensor_copy_in(ctx, "ids", I32, ids, SHAPE(1, count));
        Tensor *x = decoder_states(ctx, &first, input, &run);
        if (i > layers) x = decoder_logits(ctx, &first, x);
        float *values = must_alloc((size_t)tensor_count(x), sizeof *values);
        tensor_download(ctx, values, x);
        if (first_not_finite(values, tensor_count(x)) >= 0) wrong = i;
        free(values);
        context_reset(ctx);
    }
    if (wrong < 0) return 0;
    const char *dtype = dtype_name(ctx->dtype);
    if (wrong == 0 || wrong > layers)
        return error_set(err, "%s gives numbers that are not finite in %s, though all weights are",
                         wrong ? "lm_head" : "model.embed_tokens", dtype);
    return error_set(err,
                     "behind model.layers.%d there are numbers that are not finite in %s, though "
                     "all weights are",
                     wrong - 1, dtype);
}

int model_not_finite(Model *model, const int32_t *ids, int count, Error *err) {
    return check_weights(model, err) ? -1 : check_layers(model, ids, count, err);
}

void model_free(Model *model) {
    if (!model->ctx) return;
    params_free(&model->params);
    rope_free(&model->rope);
    rope_free(&model->index_rope);
    decoder_free(&model->decoder);
    mtp_free(&model->mtp);
    indexers_free(&model->indexers);
    *model = (Model){0};
}

static DecoderStart start(const Model *model) {
    float std = model->cfg.initializer_range;
    float residual_std = std / sqrtf(2.0f * (float)model->cfg.num_hidden_layers);
    return (DecoderStart){std, std, residual_std, residual_std};
}

void model_randomize(Model *model) {
    decoder_randomize(&model->params, &model->decoder, start(model));
    mtp_randomize(&model->params, &model->mtp, start(model));
    model_randomize_indexers(model);
}

static void randomize_indexers(Model *model, int first) {
    for (int i = first; i < model->indexers.count; i++)
        indexer_randomize(&model->params, &model->indexers.list[i], start(model).std);
}

void model_randomize_modules(Model *model) {
    mtp_randomize(&model->params, &model->mtp, start(model));
    randomize_indexers(model, model->cfg.num_hidden_layers);
}

void model_randomize_indexers(Model *model) { randomize_indexers(model, 0); }

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
