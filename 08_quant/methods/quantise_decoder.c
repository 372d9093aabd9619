/*
 * Recipes, texts and reports; and the way through the decoder: watch a block, quantise it, and make
 * of the block as it is now what the next one reads.
 */
#include "08_quant/methods/quantise_layer.h"

#include "08_quant/methods/int8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- recipes ---- */

const char *const quant_method_names[] = {"rtn", "llmint8", "smoothquant", "awq", "gptq", NULL};

QuantRecipe quant_recipe(QuantMethod method, QuantFormat format) {
    return (QuantRecipe){.method = method,
                         .format = format,
                         .damp = 0.01f,
                         .act_order = true,
                         .alpha = 0.5f,
                         .threshold = LLMINT8_THRESHOLD};
}

bool quant_activations_too(QuantMethod method) {
    return method == QUANT_LLMINT8 || method == QUANT_SMOOTHQUANT;
}

bool quant_needs_text(QuantMethod method) {
    return method == QUANT_SMOOTHQUANT || method == QUANT_AWQ || method == QUANT_GPTQ;
}

int quant_recipe_check(const QuantRecipe *r, Error *err) {
    const QuantFormat *f = &r->format;
    if ((unsigned)r->method >= QUANT_METHODS) return error_set(err, "no method %d", r->method);
    const char *name = quant_method_names[r->method];
    if (r->method == QUANT_RTN) return 0;
    if (quant_activations_too(r->method) && (f->dtype != U8 || f->block_out != 1 || f->block_in))
        return error_set(err,
                         "%s multiplies whole numbers, with one scale for each row of INT8 "
                         "weights; choose INT8 without groups, or another method",
                         name);
    if ((f->dtype != U8 && f->dtype != I4) || f->block_out != 1)
        return error_set(err,
                         "%s is for INT8 and INT4 in groups of a row; %s is rounded to nearest "
                         "(rtn)",
                         name, dtype_name(f->dtype));
    if (!(r->damp > 0 && isfinite(r->damp)))
        return error_set(err, "damp is %g; it must be positive", (double)r->damp);
    if (!(r->alpha >= 0 && r->alpha <= 1))
        return error_set(err, "alpha is %g; it must be from 0 to 1", (double)r->alpha);
    if (!(r->threshold > 0))
        return error_set(err, "threshold is %g; it must be positive", (double)r->threshold);
    return 0;
}

/* ---- texts ---- */

int calibration_init(Calibration *c, const int32_t *ids, int64_t count, int64_t sequences,
                     int64_t length, Error *err) {
    *c = (Calibration){.sequences = sequences, .length = length};
    CHECK(sequences > 0 && length > 0, "calibration_init: %lld windows of %lld",
          (long long)sequences, (long long)length);
    if (count < sequences * length)
        return error_set(err,
                         "the calibration text has %lld tokens, but %lld windows of %lld need "
                         "%lld; give a longer text, or ask for fewer or shorter windows",
                         (long long)count, (long long)sequences, (long long)length,
                         (long long)(sequences * length));
    c->ids = must_alloc((size_t)(sequences * length), sizeof *c->ids);
    int64_t room = count - length; /* the last window begins there */
    for (int64_t i = 0; i < sequences; i++)
        memcpy(c->ids + i * length, ids + (sequences > 1 ? i * room / (sequences - 1) : 0),
               sizeof *ids * (size_t)length);
    return 0;
}

void calibration_free(Calibration *c) {
    free(c->ids);
    *c = (Calibration){0};
}

/* ---- reports ---- */

void quant_report_free(QuantReport *report) {
    for (int i = 0; i < report->count; i++) {
        free(report->list[i].codes);
        free(report->list[i].scales);
    }
    free(report->list);
    *report = (QuantReport){0};
}

const QuantisedWeight *quant_report_find(const QuantReport *report, const Tensor *weight) {
    for (int i = 0; i < report->count; i++)
        if (report->list[i].weight == weight) return &report->list[i];
    return NULL;
}

/* ---- through the decoder ---- */

/* The texts on their way: F32 [sequences, length, hidden_size] in host memory. */
typedef struct States {
    const Calibration *text;
    int64_t hidden;
    float *x;
} States;

enum { TOKENS_AT_ONCE = 2048 };

/* Calls `step` for some sequences after the other; what it makes of them, if anything, takes the
 * place of what they were. The arena is as before. */
typedef Tensor *(*StatesStep)(Context *ctx, Tensor *x, void *user);

static void for_sequences(Context *ctx, States *s, StatesStep step, void *user) {
    int64_t length = s->text->length, at_once = TOKENS_AT_ONCE / length;
    if (at_once < 1) at_once = 1;
    for (int64_t i = 0; i < s->text->sequences; i += at_once) {
        int64_t B = s->text->sequences - i < at_once ? s->text->sequences - i : at_once;
        ArenaMark data = arena_mark(&ctx->data), host = arena_mark(&ctx->host);
        float *place = s->x + i * length * s->hidden;
        Tensor *x = tensor_copy_in(ctx, "states", F32, place, SHAPE(B, length, s->hidden));
        Tensor *y = step(ctx, x, user);
        if (y) tensor_download(ctx, place, y);
        arena_release(&ctx->host, host);
        arena_release(&ctx->data, data);
    }
}

/* What the first block reads: what decoder_states() begins with. */
static void embed(Context *ctx, const Decoder *d, States *s) {
    int64_t length = s->text->length;
    for (int64_t i = 0; i < s->text->sequences; i++) {
        ArenaMark data = arena_mark(&ctx->data), host = arena_mark(&ctx->host);
        Tensor *ids = tensor_copy_in(ctx, "ids", I32, s->text->ids + i * length, SHAPE(1, length));
        Tensor *x = embedding(ctx, d->embed_tokens, ids);
        if (d->places)
            x = add(ctx, x, embedding(ctx, d->places, positions_from(ctx, 1, length, 0)));
        tensor_download(ctx, s->x + i * length * s->hidden, x);
        arena_release(&ctx->host, host);
        arena_release(&ctx->data, data);
    }
}

typedef struct BlockStep {
    const Block *block;
    const BlockConfig *cfg;
    BlockRun run;
} BlockStep;

static Tensor *through_block(Context *ctx, Tensor *x, void *user) {
    const BlockStep *step = user;
    return block_forward(ctx, x, step->block, step->cfg, &step->run);
}

static Tensor *only_watch(Context *ctx, Tensor *x, void *user) {
    through_block(ctx, x, user);
    return NULL;
}

/* ---- watching ---- */

static void see_input(void *user, float *x, int64_t rows, int64_t in, int expert) {
    InputStats *stats = user;
    (void)in;
    input_stats_add(&stats[expert], x, rows);
}

/* Fills work->stats with what the block's linear layers are given. */
static void watch(Context *ctx, LayerWork *work, States *s, BlockStep *step, int experts_per_tok) {
    Tap taps[LAYER_INPUTS];
    int64_t tokens = s->text->sequences * s->text->length;
    for (int i = 0; i < work->layer.input_count; i++) {
        const LayerInput *x = &work->layer.inputs[i];
        int64_t in = tensor_dim(x->linears[0], -1);
        int64_t rows = x->experts > 1 ? tokens * experts_per_tok / x->experts : tokens;
        work->stats[i] = must_alloc((size_t)x->experts, sizeof *work->stats[i]);
        for (int e = 0; e < x->experts; e++) input_stats_init(&work->stats[i][e], in, rows);
        tap_open(&taps[i], x->linears[0], see_input, work->stats[i]);
    }
    for_sequences(ctx, s, only_watch, step);
    for (int i = 0; i < work->layer.input_count; i++) tap_close(&taps[i]);
    work->watched = true;
}

static void forget(LayerWork *work) {
    for (int i = 0; i < work->layer.input_count && work->watched; i++) {
        for (int e = 0; e < work->layer.inputs[i].experts; e++)
            input_stats_free(&work->stats[i][e]);
        free(work->stats[i]);
    }
}

/* ---- the driver ---- */

/* What the decoder's layers, or its head (`layer` = their number), are given. */
static int check_states(const States *s, int layer, Error *err) {
    int64_t numbers = s->text->sequences * s->text->length * s->hidden;
    for (int64_t i = 0; i < numbers; i++)
        if (!isfinite(s->x[i]))
            return error_set(err,
                             "what layer %d is given is not finite (token %lld of window %lld): "
                             "is the model in order?",
                             layer, (long long)(i / s->hidden % s->text->length),
                             (long long)(i / s->hidden / s->text->length));
    return 0;
}

/* Has the text what the method needs? */
static int check_text(const Decoder *d, const QuantRecipe *r, const Calibration *text, Error *err) {
    if (!text)
        return quant_needs_text(r->method) ? error_set(err, "%s needs a text to calibrate with",
                                                       quant_method_names[r->method])
                                           : 0;
    int64_t tokens = text->sequences * text->length, widest = 0;
    for (int64_t i = 0; i < tokens; i++)
        if (text->ids[i] < 0 || text->ids[i] >= d->cfg.vocab_size)
            return error_set(err,
                             "id %d of the calibration text is outside of the vocabulary of %d",
                             text->ids[i], d->cfg.vocab_size);
    if (position_room(text->position, 0, text->length, err)) return -1;
    for (int i = 0; i < d->cfg.num_hidden_layers; i++) {
        QuantLayer layer = quant_layer(&d->layers[i], &d->cfg.block, false);
        for (int n = 0; n < layer.input_count; n++)
            if (layer.inputs[n].experts == 1 && tensor_dim(layer.inputs[n].linears[0], -1) > widest)
                widest = tensor_dim(layer.inputs[n].linears[0], -1);
    }
    if (r->method == QUANT_GPTQ && tokens < widest)
        return error_set(err,
                         "the calibration text has %lld tokens, but GPTQ needs at least as many "
                         "as the widest layer has inputs, %lld; more windows, or longer ones",
                         (long long)tokens, (long long)widest);
    return 0;
}

typedef struct HeadStep {
    const Decoder *decoder;
    InputStats *stats;
} HeadStep;

static Tensor *watch_head(Context *ctx, Tensor *x, void *user) {
    HeadStep *step = user;
    Tensor *normed = decoder_normed(ctx, step->decoder, x);
    input_stats_add(step->stats, normed->data, tensor_rows(normed));
    return NULL;
}

/* A layer of one matrix. What it is given: the states behind the last block, normed. */
static int quantise_head(Context *ctx, const Decoder *d, const QuantRecipe *recipe, States *s,
                         QuantReport *report, Error *err) {
    LayerInput input = {.linears = {d->lm_head}, .count = 1, .experts = 1, .name = "head's input"};
    LayerWork work = {
        .recipe = recipe, .report = report, .layer = {.inputs = {input}, .input_count = 1}};
    if (s->text) {
        int64_t tokens = s->text->sequences * s->text->length;
        if (check_states(s, d->cfg.num_hidden_layers, err)) return -1;
        work.stats[0] = must_alloc(1, sizeof *work.stats[0]);
        input_stats_init(work.stats[0], s->hidden, tokens);
        for_sequences(ctx, s, watch_head, &(HeadStep){d, work.stats[0]});
        work.watched = true;
    }
    int status = quantise_layer(&work, err);
    forget(&work);
    return status;
}

static int through_layers(Context *ctx, const Decoder *d, const QuantRecipe *recipe,
                          const Calibration *text, QuantReport *report, Error *err) {
    const BlockConfig *cfg = &d->cfg.block;
    States states = {.text = text, .hidden = cfg->hidden_size};
    int layers = d->cfg.num_hidden_layers, status = 0;
    if (text) {
        states.x = must_realloc(NULL, (size_t)(text->sequences * text->length * states.hidden),
                                sizeof *states.x);
        embed(ctx, d, &states);
    }
    for (int i = 0; i < layers && !status; i++) {
        const Selection *selection = text && text->selections ? text->selections[i] : NULL;
        LayerWork work = {.recipe = recipe,
                          .report = report,
                          .layer =
                              quant_layer(&d->layers[i], cfg, selection || d->layers[i].selection)};
        BlockStep step = {
            &d->layers[i], cfg, {.position = text ? text->position : NULL, .selection = selection}};
        if (text) status = check_states(&states, i, err);
        if (text && !status) watch(ctx, &work, &states, &step, cfg->moe.router.num_experts_per_tok);
        if (!status) status = quantise_layer(&work, err);
        forget(&work);
        if (text && !status) for_sequences(ctx, &states, through_block, &step);
        if (report->progress) report->progress(report->user, i + 1, layers);
    }
    if (recipe->head && !status) status = quantise_head(ctx, d, recipe, &states, report, err);
    free(states.x);
    return status;
}

int quantise_decoder(Context *ctx, const Decoder *decoder, const QuantRecipe *recipe,
                     const Calibration *calibration, QuantReport *report, Error *err) {
    CHECK(ctx->device == CPU && ctx->dtype == F32 && !ctx->recording, "quantise_decoder: %s on %s",
          dtype_name(ctx->dtype), device_name(ctx->device));
    CHECK(!recipe->head || decoder->lm_head != decoder->embed_tokens,
          "quantise_decoder: the head is the embedding table");
    if (quant_recipe_check(recipe, err) || check_text(decoder, recipe, calibration, err)) return -1;
    return through_layers(ctx, decoder, recipe, calibration, report, err);
}

int quantise_block(const Block *block, const BlockConfig *cfg, const QuantRecipe *recipe,
                   QuantReport *report, Error *err) {
    QuantRecipe nearest = quant_recipe(QUANT_RTN, recipe->format);
    nearest.ragged = recipe->ragged;
    LayerWork work = {
        .recipe = &nearest, .report = report, .layer = quant_layer(block, cfg, false)};
    return quantise_layer(&work, err);
}

/* ---- activations ---- */

struct QuantActivations {
    float threshold;
    int count;
    Tap taps[];
};

static void round_input(void *user, float *x, int64_t rows, int64_t in, int expert) {
    const QuantActivations *a = user;
    (void)expert;
    int8_activations(x, x, rows, in, a->threshold);
}

QuantActivations *quant_activations_begin(const Decoder *d, const QuantRecipe *recipe) {
    int layers = d->cfg.num_hidden_layers;
    size_t most = (size_t)layers * BLOCK_LINEARS;
    QuantActivations *a = must_alloc(1, sizeof *a + most * sizeof *a->taps);
    a->threshold = recipe->method == QUANT_LLMINT8 ? recipe->threshold : INFINITY;
    for (int i = 0; i < layers; i++) {
        Tensor **places[BLOCK_LINEARS];
        Block block = d->layers[i];
        int count = block_linears(&block, places);
        for (int n = 0; n < count; n++) tap_open(&a->taps[a->count++], *places[n], round_input, a);
    }
    return a;
}

void quant_activations_end(QuantActivations *a) {
    while (a->count) tap_close(&a->taps[--a->count]);
    free(a);
}
