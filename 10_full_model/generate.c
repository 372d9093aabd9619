#include "generate.h"

#include "../common/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- sampling ---- */

typedef struct Candidate {
    float probability;
    int32_t id;
} Candidate;

static int likelier_first(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->probability != y->probability) return x->probability > y->probability ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static int32_t likeliest(const float *logits, int vocab) {
    int32_t best = 0;
    for (int32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* [sample_token] */
int32_t sample_token(float *logits, int vocab, const Sampling *sampling, float random) {
    int32_t best = likeliest(logits, vocab);
    if (sampling->temperature <= 0) return best;

    /* Softmax at the temperature, largest first. */
    Candidate *candidates = malloc((size_t)vocab * sizeof *candidates);
    if (!candidates) fatal("out of memory");
    double total = 0;
    for (int32_t i = 0; i < vocab; i++) {
        candidates[i] = (Candidate){expf((logits[i] - logits[best]) / sampling->temperature), i};
        total += candidates[i].probability;
    }
    qsort(candidates, (size_t)vocab, sizeof *candidates, likelier_first);

    /* Keep the first k, and of them those before which less than p was reached: at least one. */
    int kept = sampling->top_k > 0 && sampling->top_k < vocab ? sampling->top_k : vocab;
    double mass = 0;
    int count = 0;
    while (count < kept && (count == 0 || mass < sampling->top_p * total))
        mass += candidates[count++].probability;

    /* Walk along the kept probabilities until `random` of their sum is behind us. */
    double rest = random * mass;
    int chosen = 0;
    while (chosen < count - 1 && rest >= candidates[chosen].probability)
        rest -= candidates[chosen++].probability;
    int32_t id = candidates[chosen].id;
    free(candidates);
    return id;
}
/* [/sample_token] */

/* ---- whole characters ---- */

typedef struct Characters {
    char bytes[8];
    size_t count;
    TextFunction emit;
    void *user;
} Characters;

/* How many bytes the UTF-8 character that begins with c has; 1 for what cannot begin one. */
static size_t character_length(unsigned char c) {
    return c >= 0xf0 && c < 0xf8 ? 4 : c >= 0xe0 ? (c < 0xf0 ? 3 : 1) : c >= 0xc2 ? 2 : 1;
}

static void characters_flush(Characters *c) {
    if (c->count) c->emit(c->user, c->bytes, c->count);
    c->count = 0;
}

/* A byte that does not continue the character ends it: what waits goes out as it is. */
static void characters_add(Characters *c, const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (c->count && (byte & 0xc0) != 0x80) characters_flush(c);
        c->bytes[c->count++] = (char)byte;
        if (c->count >= character_length((unsigned char)c->bytes[0])) characters_flush(c);
    }
}

/* ---- generation ---- */

/* Feeds `count` tokens and leaves the logits of the last one in host memory. */
static void feed(Model *model, KVCache *caches, const int32_t *ids, int count, float *logits) {
    Context *ctx = model->ctx;
    Tensor *t = tensor_from(ctx, "ids", I32, ids, SHAPE(1, count));
    tensor_download(ctx, logits, model_forward(model, t, caches));
    context_reset(ctx);
}

/* The prompt's tokens (at least one), or NULL and a message. */
static int32_t *encode_prompt(const Model *model, const Tokenizer *tokenizer, const char *prompt,
                              size_t *count, Error *err) {
    int32_t *ids = tokenizer_encode(tokenizer, prompt, strlen(prompt), count);
    size_t limit = (size_t)model->cfg.max_position_embeddings;
    if (*count == 0 && tokenizer_eot(tokenizer) >= 0) {
        ids = realloc(ids, sizeof *ids);
        if (!ids) fatal("out of memory");
        ids[(*count)++] = tokenizer_eot(tokenizer);
    }
    if (*count == 0) {
        error_set(err,
                  "the prompt is empty, and this tokenizer has no <|endoftext|> to begin with");
    } else if (*count >= limit) {
        error_set(
            err,
            "the prompt has %zu tokens, but this model's context holds %zu, the answer included",
            *count, limit);
    } else {
        return ids;
    }
    free(ids);
    return NULL;
}

int generate(Model *model, const Tokenizer *tokenizer, const char *prompt, int max_new_tokens,
             const Sampling *sampling, TextFunction emit, void *user, GenerateResult *result,
             Error *err) {
    *result = (GenerateResult){0};
    size_t count;
    int32_t *ids = encode_prompt(model, tokenizer, prompt, &count, err);
    if (!ids) return -1;
    int limit = model->cfg.max_position_embeddings;
    int room = limit - (int)count < max_new_tokens ? limit - (int)count : max_new_tokens;
    KVCache *caches = model_caches_new(model, (int)count + room, err);
    if (!caches) {
        free(ids);
        return -1;
    }
    int vocab = model->cfg.vocab_size;
    float *logits = malloc((size_t)vocab * sizeof *logits);
    if (!logits) fatal("out of memory");
    Characters characters = {.emit = emit, .user = user};

    double started = seconds_now();
    feed(model, caches, ids, (int)count, logits);
    result->prompt_tokens = (int)count;
    result->prompt_seconds = seconds_now() - started;
    started = seconds_now();
    for (int i = 0; i < room; i++) {
        int32_t id =
            sample_token(logits, vocab, sampling, rng_uniform(sampling->seed, 0, (uint64_t)i));
        if (id == tokenizer_eot(tokenizer)) break;
        size_t bytes;
        const char *text = tokenizer_token(tokenizer, id, &bytes);
        characters_add(&characters, text, bytes);
        result->new_tokens++;
        if (i + 1 < room) feed(model, caches, &id, 1, logits);
    }
    characters_flush(&characters);
    result->seconds = seconds_now() - started;
    free(logits);
    free(ids);
    model_caches_free(model, caches);
    return 0;
}
