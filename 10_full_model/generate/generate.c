/*
 * Prompts become ids, the decoder goes on with them (05_moe/decoder/decoder_generate.h), and each
 * new id becomes bytes, which the text's stream looks through for stop strings. A token that ends a
 * text is an id like any other there; here it is cut off, for no text goes on behind it.
 */
#include "10_full_model/generate/generate.h"

#include <stdlib.h>
#include <string.h>

/* ---- sequences ---- */

int generate_begin(const Model *model, const Tokenizer *tokenizer) {
    int begin = tokenizer_bos(tokenizer);
    if (begin < 0) begin = model->cfg.bos_token_id;
    return begin < 0 ? tokenizer_eot(tokenizer) : begin;
}

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

int generate_usual(const Model *model, int tokens) {
    int left = model->cfg.trained_context_length - tokens; /* not known, or beyond: below 1 */
    return left > 0 && left < GENERATE_USUAL ? left : GENERATE_USUAL;
}

int generator_init(Generator *g, Model *model, const Tokenizer *tokenizer, int batch, int capacity,
                   Error *err) {
    CHECK(capacity <= model->cfg.max_position_embeddings, "generator_init: %d tokens", capacity);
    *g = (Generator){.tokenizer = tokenizer, .begin = generate_begin(model, tokenizer)};
    return decoder_generator_init(&g->decoding, model->ctx, &model->decoder, model_position(model),
                                  batch, capacity, err);
}

void generator_free(Generator *g) {
    if (g->speculator) speculator_free(g->speculator);
    free(g->speculator);
    decoder_generator_free(&g->decoding);
    *g = (Generator){0};
}

/* The end token and those with the smallest numbers. */
static DraftVocabulary *frequent_tokens(const Generator *g, Model *model, int count, Error *err) {
    int vocab = model->cfg.vocab_size, end = tokenizer_eot(g->tokenizer);
    if (count > vocab) {
        error_set(err, "a draft vocabulary of %d tokens; the model has %d, take 1 to %d", count,
                  vocab, vocab);
        return NULL;
    }
    int32_t *ids = must_alloc((size_t)count, sizeof *ids);
    for (int i = 0; i < count; i++) ids[i] = i;
    if (end >= count) ids[count - 1] = end;
    DraftVocabulary *v = must_alloc(1, sizeof *v);
    int status = draft_vocabulary_init(v, model->ctx, &model->decoder, ids, count, end, err);
    free(ids);
    if (!status) return v;
    free(v);
    return NULL;
}

int generator_guess(Generator *g, Model *model, const GuessOptions *o, Error *err) {
    DraftVocabulary *vocabulary = NULL;
    if (o->drafts == 0) return 0;
    if (config_needs_latents(&model->cfg, "--speculative", err)) return -1;
    if (model->mtp.depth == 0)
        return error_set(err, "this model has no modules that could guess "
                              "(num_nextn_predict_layers is 0): train one with --mtp 1, or leave "
                              "out --speculative");
    if (o->drafts >= g->decoding.capacity)
        return error_set(err, "%d drafts at a time, but there is room for %d tokens", o->drafts,
                         g->decoding.capacity);
    if (o->vocabulary && !(vocabulary = frequent_tokens(g, model, o->vocabulary, err))) return -1;
    Drafter *drafter =
        drafter_of_modules(model->ctx, &model->mtp, &g->decoding.cache, o->drafts, err);
    Speculator *s = must_alloc(1, sizeof *s);
    if (drafter && !speculator_init(s, &g->decoding, drafter, vocabulary, o->drafts, err)) {
        g->speculator = s;
        return 0;
    }
    if (!drafter && vocabulary) draft_vocabulary_free(vocabulary), free(vocabulary);
    free(s);
    return -1;
}

int generator_most(const Model *model, const GuessOptions *o) {
    if (!config_has_latents(&model->cfg)) return 1;
    return o->drafts ? speculate_rows(model->ctx) / (o->drafts + 1) : INT32_MAX;
}

int generator_prompt(Generator *g, int b, const char *text, Error *err) {
    const DecoderGenerator *d = &g->decoding;
    DecoderSequence *s = &d->sequences[b];
    CHECK(d->batch == 1 || decoder_cache_length(&d->cache, b) == 0,
          "generator_prompt: sequence %d of %d has been continued already", b, d->batch);
    size_t count;
    int32_t *ids = tokenizer_encode(g->tokenizer, text, strlen(text), &count);
    int status = 0;
    if (count == 0 && s->count == 0 && g->begin < 0) {
        status = error_set(err, "the prompt is empty, and this model has no token to begin with: "
                                "no bos_token_id and no <|endoftext|>");
    } else if (s->count + count >= (size_t)d->capacity) {
        status = error_set(err,
                           "the prompt has %zu tokens, but this model's context holds %d, the "
                           "answer included%s",
                           count, d->capacity, s->count ? " and what was said before" : "");
    } else {
        if (count) memcpy(s->ids + s->count, ids, count * sizeof *ids);
        s->count += (int)count;
        if (s->count == 0) s->ids[s->count++] = g->begin;
    }
    free(ids);
    return status;
}

/* ---- the answer ---- */

typedef struct Answers {
    const Tokenizer *tokenizer;
    TextStream *streams; /* [batch] */
} Answers;

/* Has sequence b said a stop string with this token? */
static bool stops(void *user, int b, int32_t id) {
    Answers *answers = user;
    if (tokenizer_is_end(answers->tokenizer, id)) return true; /* it is no text */
    size_t bytes;
    const char *text = tokenizer_token(answers->tokenizer, id, &bytes);
    return text_stream_add(&answers->streams[b], text, bytes);
}

void generator_run(Generator *g, const GenerateOptions *o, GenerateResult *result) {
    DecoderGenerator *d = &g->decoding;
    Answers answers = {g->tokenizer, must_alloc((size_t)d->batch, sizeof *answers.streams)};
    for (int b = 0; b < d->batch; b++)
        answers.streams[b] =
            text_stream(d->batch == 1 ? o->emit : NULL, o->user, o->stops, o->stop_count);
    const DecoderGenerateOptions options = {.sampling = o->sampling,
                                            .max_new_tokens = o->max_new_tokens,
                                            .end = -1, /* there may be several */
                                            .ends = stops,
                                            .user = &answers,
                                            .cancelled = o->cancelled};
    if (g->speculator)
        speculate_generate(g->speculator, &options, result);
    else
        decoder_generate(d, &options, result);
    for (int b = 0; b < d->batch; b++) {
        const DecoderSequence *s = &d->sequences[b];
        text_stream_end(&answers.streams[b]);
        if (!s->drawn || !tokenizer_is_end(g->tokenizer, s->ids[s->count - 1])) continue;
        decoder_generator_truncate(d, b, s->count - 1);
        result->new_tokens--;
    }
    free(answers.streams);
}

int generator_check(const Generator *g, Model *model, const GenerateResult *result, Error *err) {
    if (!result->broken) return 0;
    const DecoderSequence *s = &g->decoding.sequences[result->broken - 1];
    if (model_not_finite(model, s->ids, s->count, err) == 0)
        error_set(err, "the numbers in the cache of an earlier token are not finite");
    return error_prefix(err, "there is no next token, for the model's logits are not finite: ");
}

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
    const DecoderSequence *s = &g->decoding.sequences[b];
    Collected collected = {must_alloc(1, 1), 0};
    TextStream stream = text_stream(collect, &collected, o->stops, o->stop_count);
    for (int i = s->count - s->drawn; i < s->count; i++) {
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
    if (!status) {
        generator_run(&g, options, result);
        status = generator_check(&g, model, result, err);
    }
    generator_free(&g);
    return status;
}
