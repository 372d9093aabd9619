/*
 * Generating text: one token at a time, each drawn from what the model thinks comes next.
 *
 * The prompt goes through the model once and fills the KV caches; every further token costs one row. Text is handed
 * out in whole UTF-8 characters: bytes of a character that is not complete wait for the rest.
 */
#ifndef GENERATE_H
#define GENERATE_H

#include "model.h"

#include "../common/tokenizer.h"

typedef struct Sampling {
    float temperature; /* 0: always the likeliest token; 1: the model's own probabilities */
    int top_k;         /* only the k likeliest tokens; 0: all */
    float top_p;       /* only the likeliest tokens whose probabilities together reach p; 1: all */
    uint64_t seed;
} Sampling;

/*
 * The token that `random`, uniform in [0, 1), picks from logits [vocab] (host memory; overwritten). Equal logits: the
 * smaller id first.
 */
int32_t sample_token(float *logits, int vocab, const Sampling *sampling, float random);

typedef void (*TextFunction)(void *user, const char *text, size_t bytes);

typedef struct GenerateResult {
    int prompt_tokens, new_tokens;
    double prompt_seconds, seconds; /* for the prompt, and for the new tokens */
} GenerateResult;

/*
 * Continues prompt (zero-terminated) by up to max_new_tokens tokens and hands their text to emit as it comes. Stops early at
 * <|endoftext|> and when the context is full. An empty prompt begins at <|endoftext|>. A prompt that leaves no room in the context is an error that
 * says how long it is and how long it may be.
 */
int generate(Model *model, const Tokenizer *tokenizer, const char *prompt, int max_new_tokens,
             const Sampling *sampling, TextFunction emit, void *user, GenerateResult *result,
             Error *err);

#endif
