/*
 * The decoder, wired from blocks. There is one loop over the layers, through_blocks(); training and
 * prompts go through block_forward in it, decoding through block_decode.
 */
#include "05_moe/decoder/decoder.h"

#include "05_moe/decoder/block_decode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

int decoder_check(const DecoderConfig *cfg, Error *err) {
    if (block_check(&cfg->block, err)) return -1;
    if (cfg->vocab_size < 2)
        return error_set(err, "vocab_size is %d; it must be at least 2", cfg->vocab_size);
    if (cfg->num_hidden_layers < 1)
        return error_set(err, "num_hidden_layers is %d; it must be at least 1",
                         cfg->num_hidden_layers);
    return 0;
}

void decoder_register(Decoder *d, Params *params, const DecoderConfig *cfg) {
    int64_t hidden = cfg->block.hidden_size, vocab = cfg->vocab_size;
    size_t layers = (size_t)cfg->num_hidden_layers;
    *d = (Decoder){.cfg = *cfg};
    d->layers = must_alloc(layers, sizeof *d->layers);
    d->records = must_alloc(layers, sizeof *d->records);
    d->embed_tokens = params_new(params, NULL, "model.embed_tokens.weight", SHAPE(vocab, hidden));
    if (cfg->places)
        d->places = params_new(params, NULL, "model.position.weight", SHAPE(cfg->places, hidden));
    for (int i = 0; i < cfg->num_hidden_layers; i++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "model.layers.%d", i);
        d->layers[i] = block_init(params, prefix, &cfg->block, i);
    }
    d->norm = params_new(params, NULL, "model.norm.weight", SHAPE(hidden));
    d->lm_head = cfg->tie_word_embeddings
                     ? d->embed_tokens
                     : params_new(params, NULL, "lm_head.weight", SHAPE(vocab, hidden));
}

void decoder_free(Decoder *d) {
    free(d->layers);
    free(d->records);
    *d = (Decoder){0};
}

void decoder_randomize(Params *params, const Decoder *d, DecoderStart s) {
    params_normal(params, d->embed_tokens, s.embed);
    if (d->places) params_normal(params, d->places, s.embed);
    for (int i = 0; i < d->cfg.num_hidden_layers; i++)
        block_randomize(params, &d->layers[i], s.std, s.o_proj, s.down_proj);
    params_fill(params, d->norm, 1);
    if (d->lm_head != d->embed_tokens) params_normal(params, d->lm_head, s.std);
}

/* x + the place of each token, counted from the first of its sequence. */
static Tensor *add_places(Context *ctx, const Decoder *d, Tensor *x, const DecoderRun *run) {
    int64_t B = tensor_dim(x, 0), T = tensor_dim(x, 1);
    int64_t last = run->cache ? decoder_cache_length(run->cache, -1) : T;
    CHECK(last <= d->cfg.places, "decoder: %lld tokens, places for %d", (long long)last,
          d->cfg.places);
    Tensor *positions = run->cache ? decoder_cache_positions(ctx, run->cache, (int)T)
                                   : positions_from(ctx, B, T, 0);
    return add(ctx, x, embedding(ctx, d->places, positions));
}

/* [decoder_states] */
typedef Tensor *BlockFunction(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                              const BlockRun *run);

static Tensor *through_blocks(Context *ctx, const Decoder *d, Tensor *ids, const DecoderRun *run,
                              BlockFunction *block) {
    Tensor *x = embedding(ctx, d->embed_tokens, ids); /* [B, T, hidden_size] */
    if (run->cache) decoder_cache_begin(run->cache, (int)tensor_dim(ids, 1));
    if (d->places) x = add_places(ctx, d, x, run);
    if (ctx->recording && run->training) x = dropout(ctx, x, run->training->dropout);
    for (int i = 0; i < d->cfg.num_hidden_layers; i++) {
        BlockRun one = {.position = run->position,
                        .mode = run->mode,
                        .selection = run->selections ? run->selections[i] : NULL,
                        .cache = run->cache ? &run->cache->layers[i] : NULL,
                        .replay = run->replay ? run->replay[i] : NULL,
                        .record = run->record ? &d->records[i] : NULL,
                        .training = run->training};
        x = block(ctx, x, &d->layers[i], &d->cfg.block, &one);
    }
    return x;
}

Tensor *decoder_states(Context *ctx, const Decoder *d, Tensor *ids, const DecoderRun *run) {
    return through_blocks(ctx, d, ids, run, block_forward);
}

Tensor *decoder_decode(Context *ctx, const Decoder *d, Tensor *ids, const DecoderRun *run) {
    return through_blocks(ctx, d, ids, run, block_decode);
}

Tensor *decoder_logits(Context *ctx, const Decoder *d, Tensor *states) {
    return rmsnorm_linear(ctx, states, d->norm, d->cfg.block.rms_norm_eps, d->lm_head);
}
/* [/decoder_states] */

Tensor *decoder_normed(Context *ctx, const Decoder *d, Tensor *states) {
    return rmsnorm(ctx, states, d->norm, d->cfg.block.rms_norm_eps);
}

Tensor *decoder_head(Context *ctx, const Decoder *d, Tensor *normed) {
    return linear(ctx, normed, d->lm_head, NULL);
}

Tensor *decoder_last(Context *ctx, Tensor *x) {
    int64_t B = tensor_dim(x, 0), T = tensor_dim(x, 1), hidden = tensor_dim(x, 2);
    CHECK(!ctx->recording, "decoder_last: for generating");
    if (T == 1) return x;
    Tensor *rows = reshape(ctx, x, SHAPE(B, T * hidden)); /* they are the last columns of this */
    return reshape(ctx, slice(ctx, rows, (T - 1) * hidden, hidden), SHAPE(B, 1, hidden));
}

static Tensor *cross_entropy_of(Context *ctx, const Decoder *d, Tensor *ids, Tensor *targets,
                                const DecoderRun *run) {
    Tensor *x = decoder_normed(ctx, d, decoder_states(ctx, d, ids, run));
    return linear_cross_entropy(ctx, x, d->lm_head, targets);
}

Tensor *decoder_loss(Context *ctx, const Decoder *d, Tensor *ids, Tensor *targets,
                     const Position *position) {
    return cross_entropy_of(ctx, d, ids, targets, &(DecoderRun){.position = position});
}

Tensor *decoder_training_loss(Context *ctx, const Decoder *d, Tensor *ids, Tensor *targets,
                              const DecoderRun *run, Tensor **cross_entropy_loss) {
    DecoderRun recorded = *run;
    recorded.record = true;
    *cross_entropy_loss = cross_entropy_of(ctx, d, ids, targets, &recorded);
    return decoder_add_losses(ctx, d, *cross_entropy_loss);
}

Tensor *decoder_add_losses(Context *ctx, const Decoder *d, Tensor *loss) {
    for (int i = 0; i < d->cfg.num_hidden_layers; i++)
        if (d->records[i].loss) loss = add(ctx, loss, d->records[i].loss);
    return loss;
}

void decoder_share_load(Context *ctx, const Decoder *d) {
    for (int i = 0; i < d->cfg.num_hidden_layers; i++) block_share_load(ctx, &d->layers[i]);
}

void decoder_rebalance(Context *ctx, const Decoder *d, float gamma) {
    for (int i = 0; i < d->cfg.num_hidden_layers; i++) block_rebalance(ctx, &d->layers[i], gamma);
}

ExpertLoad decoder_expert_load(Context *ctx, const Decoder *d) {
    ExpertLoad load = {.max_vio = NAN};
    for (int i = 0; i < d->cfg.num_hidden_layers; i++) block_add_load(ctx, &d->layers[i], &load);
    return load;
}

int decoder_healthy(Context *ctx, const Decoder *d, Error *err) {
    int status = 0;
    for (int i = 0; i < d->cfg.num_hidden_layers && !status; i++)
        status = block_healthy(ctx, &d->layers[i], err);
    return status;
}
