/*
 * Generating text: a prompt's tokens, and behind them one token at a time, each drawn from what the
 * model thinks comes next.
 *
 * A Generator holds one or more texts side by side, as ids (05_moe/decoder/decoder_generate.h).
 * Invariant, between calls: no sequence ends with an end token that the model has said. So a
 * text can be continued, by the model or by the user, and nothing is computed twice.
 */
#ifndef GENERATE_H
#define GENERATE_H

#include "10_full_model/generate/text_stream.h"
#include "10_full_model/model/model.h"

#include "05_moe/decoder/decoder_generate.h"
#include "06_mtp/speculate/speculate.h"
#include "common/text/tokenizer.h"

typedef struct Generator {
    const Tokenizer *tokenizer;
    int begin;                 /* the token that an empty text begins with; -1: there is none */
    DecoderGenerator decoding; /* its sequences are the texts */
    Speculator *speculator;    /* NULL: decodes plainly */
} Generator;

/* The token that an empty text begins with, as the tokenizer's folder or config.json says, or else
 * the one that ends texts; -1: there is none. */
int generate_begin(const Model *model, const Tokenizer *tokenizer);

/* What sequences need that begin with these texts [batch] and get up to new_tokens: whole pages, at
 * most the model's context. */
int generator_capacity(const Model *model, const Tokenizer *tokenizer, const char *const *texts,
                       int batch, int new_tokens);

/* How many new tokens are fit for a text of `tokens`, when nobody says: GENERATE_USUAL, but no more
 * than make it as long as the texts were that the model was trained on. */
enum { GENERATE_USUAL = 200 };
int generate_usual(const Model *model, int tokens);

/* Sequences of up to `capacity` tokens (at most the model's context), all empty. -1 and a message
 * when memory runs out. Its address must not change. */
int generator_init(Generator *g, Model *model, const Tokenizer *tokenizer, int batch, int capacity,
                   Error *err);
void generator_free(Generator *g);

/* Guesses by the model's MTP modules: the same texts, sooner (06_mtp/speculate/speculate.h). */
typedef struct GuessOptions {
    int drafts;     /* at a time; 0: none */
    int vocabulary; /* only the most frequent tokens are guessed, so many; 0: all are */
} GuessOptions;

/*
 * From now on g guesses, unless options->drafts is 0. Which tokens are frequent is known from their
 * numbers: byte pairs are numbered as they are learned, the most frequent first. -1 and a message
 * when the model has no modules, or what is asked for does not fit.
 */
int generator_guess(Generator *g, Model *model, const GuessOptions *options, Error *err);

/* How many texts can stand side by side then. */
int generator_most(const Model *model, const GuessOptions *options);

/*
 * Text (zero-terminated) behind what sequence b holds. An empty text in an empty sequence becomes
 * the token that begins a text. One that leaves no room for an answer is an error that says how
 * long it is and how long it may be; then nothing has changed. With several sequences: before the
 * first run only.
 */
int generator_prompt(Generator *g, int b, const char *text, Error *err);

typedef struct GenerateOptions {
    Sampling sampling;
    int max_new_tokens;
    const char *const *stops; /* strings that end an answer, and are not part of it */
    int stop_count;
    TextFunction emit; /* gets the text as it comes; only with one sequence. May be NULL */
    void *user;
    const volatile int *cancelled; /* looked at before each token; may be NULL */
} GenerateOptions;

/* new_tokens: without those that end a text; full: the end of the context ended it */
typedef DecoderGenerateResult GenerateResult;

/*
 * Continues every sequence by up to max_new_tokens tokens. A sequence ends at a token that ends
 * texts (tokenizer_is_end), at a stop string, or when the context is full; all of them end when the
 * longest fills it. By its `stream` a sequence draws the same numbers whatever stands beside it.
 */
void generator_run(Generator *g, const GenerateOptions *options, GenerateResult *result);

/* 0; or -1 and a message, when logits that were not finite ended a run: what in the model makes
 * them. */
int generator_check(const Generator *g, Model *model, const GenerateResult *result, Error *err);

/* What sequence b answered in the last run, for the caller to free(); without the stop string. */
char *generator_answer(const Generator *g, int b, const GenerateOptions *options);

/* All of it at once, for one prompt. */
int generate(Model *model, const Tokenizer *tokenizer, const char *prompt,
             const GenerateOptions *options, GenerateResult *result, Error *err);

#endif
