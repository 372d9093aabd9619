/*
 * A step: the newest token of every sequence goes through the decoder, or, at first, all tokens
 * that the caches lack, padded on the right. Where the likeliest token is always the one, the
 * device chooses by itself and some steps' tokens are read at once (decode_graph.h); otherwise each
 * sequence's logits come to the sampler with a random number of their own.
 */
#include "05_moe/decoder/decoder_generate.h"

#include "common/program/progress.h"

#include <stdlib.h>
#include <string.h>

/* ---- sequences ---- */

int decoder_generator_init(DecoderGenerator *g, Context *ctx, const Decoder *decoder,
                           const Position *position, int batch, int capacity, Error *err) {
    const DecoderConfig *cfg = &decoder->cfg;
    CHECK(batch > 0 && capacity > 0, "decoder_generator_init: %d sequences of %d tokens", batch,
          capacity);
    CHECK(batch == 1 || cfg->block.attention == ATTENTION_MLA,
          "decoder_generator_init: multi-head attention; sequences of different lengths, which are "
          "cut one by one, need a cache of latents");
    *g = (DecoderGenerator){ctx, decoder, position, .batch = batch, .capacity = capacity};
    g->sequences = must_alloc((size_t)batch, sizeof *g->sequences);
    for (int b = 0; b < batch; b++)
        g->sequences[b] = (DecoderSequence){.ids = must_alloc((size_t)capacity, sizeof(int32_t)),
                                            .logprobs = must_alloc((size_t)capacity, sizeof(float)),
                                            .stream = (uint64_t)b};
    g->logits = must_alloc((size_t)batch * (size_t)cfg->vocab_size, sizeof *g->logits);
    if (decoder_cache_init(&g->cache, ctx, &cfg->block, cfg->num_hidden_layers, batch, capacity,
                           err) ||
        decode_graph_init(&g->decode, ctx, decoder, position, &g->cache, err)) {
        decoder_generator_free(g);
        return -1;
    }
    return 0;
}

void decoder_generator_free(DecoderGenerator *g) {
    if (!g->ctx) return;
    decode_graph_free(&g->decode);
    decoder_cache_free(&g->cache);
    for (int b = 0; b < g->batch; b++) free(g->sequences[b].ids), free(g->sequences[b].logprobs);
    free(g->sequences);
    free(g->logits);
    *g = (DecoderGenerator){0};
}

void decoder_generator_truncate(DecoderGenerator *g, int b, int count) {
    for (int i = b < 0 ? 0 : b; i < (b < 0 ? g->batch : b + 1); i++) {
        DecoderSequence *s = &g->sequences[i];
        CHECK(count >= 0 && count <= s->count, "decoder_generator_truncate: %d of %d", count,
              s->count);
        s->drawn = s->drawn > s->count - count ? s->drawn - (s->count - count) : 0;
        s->count = count;
    }
    decoder_cache_truncate(&g->cache, b, count ? count - 1 : 0);
}

/* ---- steps ---- */

/* tokens I32 [batch, count] follow what the caches hold, and go into them. */
static void forward(DecoderGenerator *g, const int32_t *tokens, int count) {
    Context *ctx = g->ctx;
    const DecoderRun run = {.position = g->position, .cache = &g->cache};
    Error err;
    CHECK(decoder_cache_reserve(&g->cache, g->position, count, &err) == 0, "generate: %s",
          err.text);
    decoder_states(ctx, g->decoder, tensor_copy_in(ctx, "ids", I32, tokens, SHAPE(g->batch, count)),
                   &run);
    context_reset(ctx);
}

/* Brings the caches to where a step wants them: all tokens but the last of each sequence. */
static int fill_caches(DecoderGenerator *g) {
    int longest = 0, total = 0;
    for (int b = 0; b < g->batch; b++) {
        int missing = g->sequences[b].count - 1 - decoder_cache_length(&g->cache, b);
        total += missing;
        if (missing > longest) longest = missing;
    }
    if (longest == 0) return 0;
    int32_t *tokens = must_alloc((size_t)g->batch * (size_t)longest, sizeof *tokens);
    for (int b = 0; b < g->batch; b++) {
        int cached = decoder_cache_length(&g->cache, b);
        const DecoderSequence *s = &g->sequences[b];
        memcpy(tokens + b * longest, s->ids + cached,
               /* and zeros after them: the padding */
               (size_t)(s->count - 1 - cached) * sizeof *tokens);
    }
    forward(g, tokens, longest);
    for (int b = 0; b < g->batch; b++)
        decoder_cache_truncate(&g->cache, b, g->sequences[b].count - 1);
    free(tokens);
    return total;
}

typedef struct Run {
    DecoderGenerator *g;
    const DecoderGenerateOptions *options;
    bool *done;    /* [batch] */
    int broken;    /* 1 + the first sequence with logits that are not finite; 0: none */
    int32_t *next; /* [1 + DECODE_STEPS, batch]: the last token of each sequence, then new ones */
    float *randoms, *logprobs; /* [batch], for draw_on_device() */
} Run;

/* This token is the next of sequence b; -1: there is none, and no going on. */
static void append(Run *run, int b, SampledToken token) {
    const DecoderGenerateOptions *o = run->options;
    DecoderSequence *s = &run->g->sequences[b];
    if (token.id < 0 && !run->broken) run->broken = b + 1;
    if (run->broken) return;
    s->ids[s->count] = token.id;
    s->logprobs[s->count++] = token.logprob;
    s->drawn++;
    run->done[b] = token.id == o->end || (o->ends && o->ends(o->user, b, token.id));
}

/* The sampler's choice of a next token for sequence b; -1: there is none. */
static SampledToken choose(Run *run, int b) {
    DecoderGenerator *g = run->g;
    const DecoderSequence *s = &g->sequences[b];
    int vocab = g->decoder->cfg.vocab_size;
    float *logits = g->logits + (size_t)b * (size_t)vocab;
    const Sampling *sampling = &run->options->sampling;
    if (!decode_finite(logits, vocab)) return (SampledToken){-1, 0};
    penalize_repetitions(logits, vocab, s->ids, s->count, sampling->repetition_penalty);
    float random = rng_uniform(sampling->seed, s->stream, (uint64_t)s->count);
    return sample_token(logits, vocab, sampling, random);
}

/* Is the likeliest token always the one? Then the device chooses by itself. */
static bool is_greedy(const Sampling *s) {
    return s->temperature == 0 && (s->repetition_penalty == 1 || s->repetition_penalty == 0);
}

/* Is the probability of a token its share of all? Then the device can draw. */
static bool is_plain(const Sampling *s, int vocab) {
    return s->temperature > 0 && (s->top_k <= 0 || s->top_k >= vocab) && s->top_p >= 1 &&
           s->min_p <= 0 && (s->repetition_penalty == 1 || s->repetition_penalty == 0);
}

/* A token for each sequence, drawn where the logits are. */
static void draw_on_device(Run *run) {
    DecoderGenerator *g = run->g;
    const Sampling *sampling = &run->options->sampling;
    for (int b = 0; b < g->batch; b++) {
        const DecoderSequence *s = &g->sequences[b];
        run->randoms[b] = rng_uniform(sampling->seed, s->stream, (uint64_t)s->count);
    }
    decode_draw(&g->decode, run->next, run->randoms, sampling->temperature, run->next + g->batch,
                run->logprobs);
    for (int b = 0; b < g->batch; b++)
        if (!run->done[b])
            append(run, b, (SampledToken){run->next[g->batch + b], run->logprobs[b]});
}

static bool all_done(const Run *run) {
    if (run->broken || (run->options->cancelled && *run->options->cancelled)) return true;
    for (int b = 0; b < run->g->batch; b++)
        if (!run->done[b]) return false;
    return true;
}

/*
 * A few tokens more for every sequence, at most `room`; returns how many steps it took. Where the
 * device chooses, several steps are cheaper than one and the wait for it; what a sequence got
 * behind its end is not looked at.
 */
static int advance(Run *run, int room) {
    DecoderGenerator *g = run->g;
    for (int b = 0; b < g->batch; b++) {
        const DecoderSequence *s = &g->sequences[b];
        run->next[b] = s->ids[s->count - 1];
    }
    if (run->options->device_draws && g->ctx->gpu &&
        is_plain(&run->options->sampling, g->decoder->cfg.vocab_size)) {
        draw_on_device(run);
        return 1;
    }
    if (!is_greedy(&run->options->sampling)) {
        decode_logits(&g->decode, run->next, g->logits);
        for (int b = 0; b < g->batch; b++)
            if (!run->done[b]) append(run, b, choose(run, b));
        return 1;
    }
    int steps = !g->ctx->gpu ? 1 : room < DECODE_STEPS ? room : DECODE_STEPS;
    decode_greedy(&g->decode, run->next, steps, run->next + g->batch);
    for (int i = 1; i <= steps; i++)
        for (int b = 0; b < g->batch; b++)
            if (!run->done[b]) append(run, b, (SampledToken){run->next[i * g->batch + b], 0});
    return steps;
}

void decoder_generate(DecoderGenerator *g, const DecoderGenerateOptions *o,
                      DecoderGenerateResult *result) {
    *result = (DecoderGenerateResult){0};
    int longest = 0;
    for (int b = 0; b < g->batch; b++) {
        CHECK(g->sequences[b].count > 0, "decoder_generate: sequence %d is empty", b);
        g->sequences[b].drawn = 0;
        if (g->sequences[b].count > longest) longest = g->sequences[b].count;
    }
    int left = g->capacity - longest, room = left < o->max_new_tokens ? left : o->max_new_tokens;
    Run run = {.g = g, .options = o};
    run.done = must_alloc((size_t)g->batch, sizeof *run.done);
    run.next = must_alloc((1 + DECODE_STEPS) * (size_t)g->batch, sizeof *run.next);
    run.randoms = must_alloc((size_t)g->batch, sizeof *run.randoms);
    run.logprobs = must_alloc((size_t)g->batch, sizeof *run.logprobs);

    double started = seconds_now();
    result->prompt_tokens = fill_caches(g);
    result->prompt_seconds = seconds_now() - started;
    started = seconds_now();
    for (int steps; room > 0 && !all_done(&run); room -= steps) steps = advance(&run, room);
    result->seconds = seconds_now() - started;
    result->broken = run.broken;
    result->full = room == 0 && left < o->max_new_tokens && !all_done(&run);
    for (int b = 0; b < g->batch; b++) {
        result->new_tokens += g->sequences[b].drawn;
        decoder_cache_truncate(&g->cache, b, g->sequences[b].count - 1);
    }
    free(run.next), free(run.randoms), free(run.logprobs);
    free(run.done);
}
