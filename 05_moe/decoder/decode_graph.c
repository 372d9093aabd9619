/*
 * Capturing a decoding step, and repeating it. What goes from step to step (ids, tokens, the step's
 * number) has memory of its own, at addresses that the graph may keep; all else is in the arena.
 * Where there is no graph, on the CPU and with keys and values, whose length the host counts, run()
 * calls the step itself.
 */
#include "05_moe/decoder/decode_graph.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

/* ---- memory that outlives a step ---- */

static bool own(Context *ctx, Tensor *t, const char *name, DType dtype, const int64_t *shape,
                int ndim) {
    *t = tensor_view(NULL, name, dtype, ctx->device, shape, ndim);
    t->data = device_alloc(ctx->gpu, tensor_bytes(t));
    return t->data != NULL;
}

static void put(Context *ctx, Tensor *t, const void *host) {
    device_put(ctx->gpu, t->data, host, tensor_bytes(t));
}

int decode_graph_init(DecodeGraph *d, Context *ctx, const Decoder *decoder,
                      const Position *position, DecoderCache *cache, Error *err) {
    int batch = cache->batch;
    *d = (DecodeGraph){ctx, decoder, position, cache, .batch = batch};
    d->experts = must_alloc((size_t)decoder->cfg.num_hidden_layers, sizeof *d->experts);
    if (!own(ctx, &d->ids, "ids", I32, SHAPE(batch, 1)) ||
        !own(ctx, &d->tokens, "tokens", I32, SHAPE(DECODE_STEPS, batch)) ||
        !own(ctx, &d->step, "step", I32, SHAPE(1)) ||
        !own(ctx, &d->randoms, "randoms", F32, SHAPE(batch)) ||
        !own(ctx, &d->drawn, "drawn", I32, SHAPE(batch)) ||
        !own(ctx, &d->logprobs, "logprobs", F32, SHAPE(batch))) {
        decode_graph_free(d);
        return error_set(err, "no memory for the tokens of %d sequences", batch);
    }
    return 0;
}

void decode_graph_free(DecodeGraph *d) {
    if (!d->ctx) return;
    Tensor *const tensors[] = {&d->ids, &d->tokens, &d->step, &d->randoms, &d->drawn, &d->logprobs};
    gpu_graph_free(d->graph);
    free(d->experts);
    for (int i = 0; i < 6; i++) device_free(d->ctx->gpu, tensors[i]->data);
    *d = (DecodeGraph){0};
}

/* ---- one step ---- */

bool decode_finite(const float *x, int64_t n) {
    int bad = 0;
    for (int64_t i = 0; i < n; i++) bad |= !(fabsf(x[i]) <= FLT_MAX);
    return !bad;
}

void decode_likeliest(Context *ctx, int32_t *ids, int32_t *tokens, int32_t *step,
                      const Tensor *logits) {
    int64_t batch = tensor_rows(logits);
    ArenaMark mark = arena_mark(&ctx->data);
    void *scratch = arena_alloc(&ctx->data, (size_t)batch * DECODE_LIKELIEST_SCRATCH);
    ON(ctx, decode_likeliest, ids, tokens, step, scratch, logits->data, batch,
       tensor_dim(logits, -1));
    arena_release(&ctx->data, mark);
}

void decode_likeliest_cpu(int32_t *ids, int32_t *tokens, int32_t *step, void *scratch,
                          const float *logits, int64_t batch, int64_t vocab) {
    (void)scratch;
#pragma omp parallel for if (batch > 1)
    for (int64_t b = 0; b < batch; b++) {
        const float *row = logits + b * vocab;
        float most = -INFINITY;
        int32_t best = 0;
        for (int64_t j = 0; j < vocab; j++)
            if (row[j] > most) most = row[j], best = (int32_t)j;
        bool finite = decode_finite(row, vocab);
        ids[b] = finite ? best : 0;
        if (tokens) tokens[(step ? *step : 0) * batch + b] = finite ? best : -1;
    }
    if (step) ++*step;
}

/* ids -> the logits behind them, and the likeliest token as the next ids. */
static Tensor *step(DecodeGraph *d) {
    Context *ctx = d->ctx;
    const DecoderRun run = {.position = d->position,
                            .mode = MLA_AS_TRAINED,
                            .cache = d->cache,
                            .record = d->routing != NULL};
    Tensor *x = d->as_trained ? decoder_states(ctx, d->decoder, &d->ids, &run)
                              : decoder_decode(ctx, d->decoder, &d->ids, &run);
    Tensor *logits = decoder_logits(ctx, d->decoder, x);
    decode_likeliest(ctx, d->ids.data, d->tokens.data, d->step.data, logits);
    for (int i = 0; d->routing && i < d->decoder->cfg.num_hidden_layers; i++)
        if (!d->decoder->layers[i].dense) d->experts[i] = *d->decoder->records[i].routing.indices;
    return logits;
}

/* As if the last token had not been appended. */
static void forget_last(DecodeGraph *d) {
    for (int b = 0; b < d->batch; b++)
        decoder_cache_truncate(d->cache, b, decoder_cache_length(d->cache, b) - 1);
}

/*
 * The step runs once as it is, so that the arena has its memory and cuBLAS its plans, and is then
 * recorded at the same addresses. Neither counts: recording moves the lengths on the host
 * alone, the first run also writes one row, which the first launch writes again. Logits and scratch
 * stay in the arena: others use that memory between launches, but never during one.
 */
static void capture(DecodeGraph *d) {
    Context *ctx = d->ctx;
    Error err;
    decoder_cache_capture(d->cache, true);
    for (int pass = 0; pass < 2; pass++) {
        context_reset(ctx); /* both begin at the arena's first byte */
        CHECK(decoder_cache_reserve(d->cache, d->position, 1, &err) == 0, "decoding: %s", err.text);
        if (pass == 1) gpu_graph_begin(ctx->gpu);
        d->logits = *step(d);
        if (pass == 1) d->graph = gpu_graph_end(ctx->gpu);
        forget_last(d);
    }
    context_reset(ctx);
    decoder_cache_capture(d->cache, false);
}

/* Steps from ids, on the GPU not waited for. */
static void run(DecodeGraph *d, const int32_t *ids, int steps) {
    Context *ctx = d->ctx;
    Error err;
    CHECK(steps > 0 && steps <= DECODE_STEPS, "decoding: %d steps at once", steps);
    put(ctx, &d->ids, ids);
    put(ctx, &d->step, &(int32_t){0});
    if (ctx->gpu && !d->graph && d->cache->kind == ATTENTION_MLA) {
        capture(d);
        put(ctx, &d->ids, ids); /* the first run has moved them on */
        put(ctx, &d->step, &(int32_t){0});
    }
    CHECK(decoder_cache_reserve(d->cache, d->position, steps, &err) == 0, "decoding: %s", err.text);
    for (int i = 0; i < steps; i++) {
        if (d->graph) {
            gpu_graph_launch(ctx->gpu, d->graph);
        } else {
            context_reset(ctx); /* the step before's logits */
            d->logits = *step(d);
        }
    }
    if (d->graph) decoder_cache_follow(d->cache, steps, NULL);
}

void decode_greedy(DecodeGraph *d, const int32_t *ids, int steps, int32_t *tokens) {
    Context *ctx = d->ctx;
    size_t bytes = (size_t)steps * (size_t)d->batch * sizeof *tokens;
    run(d, ids, steps);
    device_get(ctx->gpu, tokens, d->tokens.data, bytes);
    context_reset(ctx);
}

/* What the step's routers chose, if the caller wants to know. */
static void get_routing(DecodeGraph *d) {
    int each = d->batch * d->decoder->cfg.block.moe.router.num_experts_per_tok;
    for (int i = 0; d->routing && i < d->decoder->cfg.num_hidden_layers; i++)
        if (!d->decoder->layers[i].dense)
            tensor_download_ints(d->ctx, d->routing + i * each, &d->experts[i]);
}

void decode_logits(DecodeGraph *d, const int32_t *ids, float *logits) {
    run(d, ids, 1);
    tensor_download(d->ctx, logits, &d->logits);
    get_routing(d);
    context_reset(d->ctx);
}

void decode_draw(DecodeGraph *d, const int32_t *ids, const float *randoms, float temperature,
                 int32_t *tokens, float *logprobs) {
    Context *ctx = d->ctx;
    run(d, ids, 1);
    put(ctx, &d->randoms, randoms);
    ON(ctx, decode_draw, d->drawn.data, d->logprobs.data, d->randoms.data, d->logits.data, d->batch,
       tensor_dim(&d->logits, -1), temperature);
    tensor_download_ints(ctx, tokens, &d->drawn);
    tensor_download(ctx, logprobs, &d->logprobs);
    get_routing(d);
    context_reset(ctx);
}

void decode_draw_cpu(int32_t *tokens, float *logprobs, const float *randoms, const float *logits,
                     int64_t batch, int64_t vocab, float temperature) {
    for (int64_t b = 0; b < batch; b++) {
        const float *z = logits + b * vocab;
        double largest = -INFINITY, sum = 0, so_far = 0;
        int64_t id;
        tokens[b] = -1, logprobs[b] = 0;
        if (!decode_finite(z, vocab)) continue;
        for (int64_t j = 0; j < vocab; j++) largest = fmax(largest, (double)z[j]);
        for (int64_t j = 0; j < vocab; j++)
            sum += exp(((double)z[j] - largest) / (double)temperature);
        for (id = 0; id < vocab - 1; id++) {
            so_far += exp(((double)z[id] - largest) / (double)temperature);
            if (so_far > (double)randoms[b] * sum) break;
        }
        tokens[b] = (int32_t)id;
        logprobs[b] = (float)(((double)z[id] - largest) / (double)temperature - log(sum));
    }
}
