/*
 * A step: the newest token of every sequence goes through the model, or, after a prompt, all
 * tokens that the caches lack, padded on the right. Where the likeliest token is always the one,
 * the device chooses by itself and some steps' tokens are read at once (decode_graph.h); otherwise
 * each sequence's logits come to the sampler with a random number of their own.
 */
#include "10_full_model/generate/generate.h"

#include "common/program/progress.h"

#include <stdlib.h>
#include <string.h>

/* ---- sequences ---- */

int generator_capacity(const Model *model, const Tokenizer *tokenizer, const char *const *texts,
                       int batch, int new_tokens) {
    size_t longest = 1, count, most = (size_t)model->cfg.max_position_embeddings;
    for (int b = 0; b < batch; b++) {
        free(tokenizer_encode(tokenizer, texts[b], strlen(texts[b]), &count));
        if (count > longest) longest = count;
    }
    size_t pages = (longest + (size_t)new_tokens + PAGE_TOKENS - 1) / PAGE_TOKENS;
    return (int)(pages * PAGE_TOKENS < most ? pages * PAGE_TOKENS : most);
}

int generator_init(Generator *g, Model *model, const Tokenizer *tokenizer, int batch, int capacity,
                   Error *err) {
    CHECK(batch > 0 && capacity > 0 && capacity <= model->cfg.max_position_embeddings,
          "generator_init: %d sequences of %d tokens", batch, capacity);
    *g = (Generator){.model = model, .tokenizer = tokenizer, .batch = batch, .capacity = capacity};
    if (model_cache_init(model, &g->cache, batch, capacity, err)) return -1;
    g->sequences = must_alloc((size_t)batch, sizeof *g->sequences);
    for (int b = 0; b < batch; b++)
        g->sequences[b] =
            (Sequence){.ids = must_alloc((size_t)capacity, sizeof(int32_t)), .stream = (uint64_t)b};
    g->logits = must_alloc((size_t)batch * (size_t)model->cfg.vocab_size, sizeof *g->logits);
    if (decode_graph_init(&g->decode, model, &g->cache, err)) {
        generator_free(g);
        return -1;
    }
    return 0;
}

void generator_free(Generator *g) {
    if (!g->model) return;
    decode_graph_free(&g->decode);
    decoder_cache_free(&g->cache);
    for (int b = 0; g->sequences && b < g->batch; b++) free(g->sequences[b].ids);
    free(g->sequences);
    free(g->logits);
    *g = (Generator){0};
}

void generator_clear(Generator *g) {
    for (int b = 0; b < g->batch; b++) g->sequences[b].count = g->sequences[b].answered = 0;
    decoder_cache_truncate(&g->cache, -1, 0);
}

int generator_prompt(Generator *g, int b, const char *text, Error *err) {
    Sequence *s = &g->sequences[b];
    int eot = tokenizer_eot(g->tokenizer);
    CHECK(g->batch == 1 || decoder_cache_length(&g->cache, b) == 0,
          "generator_prompt: sequence %d of %d has been continued already", b, g->batch);
    size_t count;
    int32_t *ids = tokenizer_encode(g->tokenizer, text, strlen(text), &count);
    int status = 0;
    if (count == 0 && s->count == 0 && eot < 0) {
        status = error_set(err, "the prompt is empty, and this tokenizer has no <|endoftext|> to "
                                "begin with");
    } else if (s->count + count >= (size_t)g->capacity) {
        status = error_set(err,
                           "the prompt has %zu tokens, but this model's context holds %d, the "
                           "answer included%s",
                           count, g->model->cfg.max_position_embeddings,
                           s->count ? " and what was said before" : "");
    } else {
        if (count) memcpy(s->ids + s->count, ids, count * sizeof *ids);
        s->count += (int)count;
        if (s->count == 0) s->ids[s->count++] = eot;
    }
    free(ids);
    return status;
}

/* ---- steps ---- */

/* [forward] */
/* tokens I32 [batch, count] follow what the caches hold, and go into them. */
static void forward(Generator *g, const int32_t *tokens, int count) {
    Context *ctx = g->model->ctx;
    Error err;
    CHECK(model_cache_reserve(g->model, &g->cache, count, &err) == 0, "generate: %s", err.text);
    model_forward(g->model, tensor_copy_in(ctx, "ids", I32, tokens, SHAPE(g->batch, count)),
                  &g->cache);
    context_reset(ctx);
}

/* Brings the caches to where the invariant wants them: all tokens but the last of each sequence. */
static int fill_caches(Generator *g) {
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
        const Sequence *s = &g->sequences[b];
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
/* [/forward] */

typedef struct Run {
    Generator *g;
    const GenerateOptions *options;
    TextStream *streams; /* [batch] */
    bool *done;          /* [batch] */
    int32_t *next; /* [1 + DECODE_STEPS, batch]: the last token of each sequence, then new ones */
} Run;

/* Token id is the next of sequence b, or its end. */
static void accept(Run *run, int b, int32_t id) {
    Sequence *s = &run->g->sequences[b];
    if (id == tokenizer_eot(run->g->tokenizer)) {
        run->done[b] = true;
        return;
    }
    s->ids[s->count++] = id;
    s->answered++;
    size_t bytes;
    const char *text = tokenizer_token(run->g->tokenizer, id, &bytes);
    if (text_stream_add(&run->streams[b], text, bytes)) run->done[b] = true;
}

/* The sampler's choice of a next token for sequence b. */
static int32_t choose(Run *run, int b) {
    Generator *g = run->g;
    const Sequence *s = &g->sequences[b];
    int vocab = g->model->cfg.vocab_size;
    float *logits = g->logits + (size_t)b * (size_t)vocab;
    const Sampling *sampling = &run->options->sampling;
    penalize_repetitions(logits, vocab, s->ids, s->count, sampling->repetition_penalty);
    float random = rng_uniform(sampling->seed, s->stream, (uint64_t)s->count);
    return sample_token(logits, vocab, sampling, random).id;
}

/* Is the likeliest token always the one? Then the device chooses by itself. */
static bool is_greedy(const Sampling *s) {
    return s->temperature == 0 && (s->repetition_penalty == 1 || s->repetition_penalty == 0);
}

static bool all_done(const Run *run) {
    if (run->options->cancelled && *run->options->cancelled) return true;
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
    Generator *g = run->g;
    int steps = 1;
    for (int b = 0; b < g->batch; b++) {
        const Sequence *s = &g->sequences[b];
        run->next[b] = s->ids[s->count - 1];
    }
    if (is_greedy(&run->options->sampling)) {
        if (g->model->ctx->gpu) steps = room < DECODE_STEPS ? room : DECODE_STEPS;
        decode_greedy(&g->decode, run->next, steps, run->next + g->batch);
    } else {
        decode_logits(&g->decode, run->next, g->logits);
        for (int b = 0; b < g->batch; b++)
            if (!run->done[b]) run->next[g->batch + b] = choose(run, b);
    }
    for (int i = 1; i <= steps; i++)
        for (int b = 0; b < g->batch; b++)
            if (!run->done[b]) accept(run, b, run->next[i * g->batch + b]);
    return steps;
}

void generator_run(Generator *g, const GenerateOptions *o, GenerateResult *result) {
    *result = (GenerateResult){0};
    int longest = 0;
    for (int b = 0; b < g->batch; b++) {
        CHECK(g->sequences[b].count > 0, "generator_run: sequence %d is empty", b);
        g->sequences[b].answered = 0;
        if (g->sequences[b].count > longest) longest = g->sequences[b].count;
    }
    int room =
        g->capacity - longest < o->max_new_tokens ? g->capacity - longest : o->max_new_tokens;
    Run run = {.g = g, .options = o};
    run.streams = must_alloc((size_t)g->batch, sizeof *run.streams);
    run.done = must_alloc((size_t)g->batch, sizeof *run.done);
    run.next = must_alloc((1 + DECODE_STEPS) * (size_t)g->batch, sizeof *run.next);
    for (int b = 0; b < g->batch; b++)
        run.streams[b] =
            text_stream(g->batch == 1 ? o->emit : NULL, o->user, o->stops, o->stop_count);

    double started = seconds_now();
    result->prompt_tokens = fill_caches(g);
    result->prompt_seconds = seconds_now() - started;
    started = seconds_now();
    for (int steps; room > 0 && !all_done(&run); room -= steps) steps = advance(&run, room);
    result->seconds = seconds_now() - started;
    result->full = room == 0 && g->capacity - longest < o->max_new_tokens && !all_done(&run);
    for (int b = 0; b < g->batch; b++) {
        text_stream_end(&run.streams[b]);
        result->new_tokens += g->sequences[b].answered;
        decoder_cache_truncate(&g->cache, b, g->sequences[b].count - 1);
    }
    free(run.next);
    free(run.streams);
    free(run.done);
}

/* ---- the whole answer ---- */

typedef struct Collected {
    char *text;
    size_t bytes;
} Collected;

static void collect(void *user, const char *text, size_t bytes) {
    Collected *c = user;
    c->text = must_realloc(c->text, c->bytes + bytes + 1, 1);
    memcpy(c->text + c->bytes, text, bytes);
    c->bytes += bytes;
    c->text[c->bytes] = 0;
}

char *generator_answer(const Generator *g, int b, const GenerateOptions *o) {
    const Sequence *s = &g->sequences[b];
    Collected collected = {must_alloc(1, 1), 0};
    TextStream stream = text_stream(collect, &collected, o->stops, o->stop_count);
    for (int i = s->count - s->answered; i < s->count; i++) {
        size_t bytes;
        const char *text = tokenizer_token(g->tokenizer, s->ids[i], &bytes);
        if (text_stream_add(&stream, text, bytes)) break;
    }
    text_stream_end(&stream);
    return collected.text;
}

int generate(Model *model, const Tokenizer *tokenizer, const char *prompt,
             const GenerateOptions *options, GenerateResult *result, Error *err) {
    Generator g;
    int capacity = generator_capacity(model, tokenizer, &prompt, 1, options->max_new_tokens);
    if (generator_init(&g, model, tokenizer, 1, capacity, err)) return -1;
    int status = generator_prompt(&g, 0, prompt, err);
    if (!status) generator_run(&g, options, result);
    generator_free(&g);
    return status;
}
