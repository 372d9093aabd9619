/*
 * Generating text: one token at a time, each drawn from what the model thinks comes next.
 *
 * A Generator holds one or more sequences side by side. Prompts of different lengths go through the
 * model together, padded on the right: the mask is causal, so no token sees the padding, and the
 * caches are cut to size afterwards. From then on a step is one token of every sequence.
 *
 * Invariant, between calls: the caches hold all tokens of a sequence but its last one, which is
 * what the next step begins with. So a text can be continued, by the model or by the user, and
 * nothing is computed twice.
 */
#ifndef GENERATE_H
#define GENERATE_H

#include "10_full_model/generate/decode_graph.h"
#include "10_full_model/generate/text_stream.h"
#include "10_full_model/model/model.h"
#include "common/text/sampler.h"

#include "common/text/tokenizer.h"

typedef struct Sequence {
    int32_t *ids; /* [capacity] */
    int count;
    int answered;    /* new tokens in the last generator_run() */
    uint64_t stream; /* of random numbers: says who asks, not where it stands. At first: b */
} Sequence;

typedef struct Generator {
    Model *model;
    const Tokenizer *tokenizer;
    DecoderCache cache;
    int batch, capacity;
    Sequence *sequences; /* [batch] */
    float *logits;       /* [batch, vocab_size], host */
    DecodeGraph decode;
} Generator;

/* What sequences need that begin with these texts [batch] and get up to new_tokens: whole pages, at
 * most the model's context. */
int generator_capacity(const Model *model, const Tokenizer *tokenizer, const char *const *texts,
                       int batch, int new_tokens);

/* Sequences of up to `capacity` tokens (at most the model's context), all empty. -1 and a message
 * when memory runs out. */
int generator_init(Generator *g, Model *model, const Tokenizer *tokenizer, int batch, int capacity,
                   Error *err);
void generator_free(Generator *g); /* zeros: fine */

/*
 * Text (zero-terminated) behind what sequence b holds. An empty text in an empty sequence becomes
 * <|endoftext|>. A text that leaves no room for an answer is an error that says how long it is and
 * how long it may be; then nothing has changed. With several sequences: before the first run only.
 */
int generator_prompt(Generator *g, int b, const char *text, Error *err);

/* All sequences are empty again. */
void generator_clear(Generator *g);

typedef struct GenerateOptions {
    Sampling sampling;
    int max_new_tokens;
    const char *const *stops; /* strings that end an answer, and are not part of it */
    int stop_count;
    TextFunction emit; /* gets the text as it comes; only with one sequence. May be NULL */
    void *user;
    const volatile int *cancelled; /* looked at before each token; may be NULL */
} GenerateOptions;

typedef struct GenerateResult {
    int prompt_tokens, new_tokens;  /* of all sequences: into the caches first, and answered */
    double prompt_seconds, seconds; /* for each of the two */
    bool full;                      /* the end of the context ended it */
} GenerateResult;

/*
 * Continues every sequence by up to max_new_tokens tokens. A sequence ends at <|endoftext|>, at a
 * stop string, or when the context is full; all of them end when the longest fills it. A sequence
 * draws its random numbers from (seed, stream, position): neither the neighbours nor its place
 * among them have a part in it.
 */
void generator_run(Generator *g, const GenerateOptions *options, GenerateResult *result);

/* What sequence b answered in the last run, for the caller to free(); without the stop string. */
char *generator_answer(const Generator *g, int b, const GenerateOptions *options);

/* All of it at once, for one prompt. */
int generate(Model *model, const Tokenizer *tokenizer, const char *prompt,
             const GenerateOptions *options, GenerateResult *result, Error *err);

#endif
