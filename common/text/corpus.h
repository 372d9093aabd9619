/*
 * The text a model learns from: tokens in one long row, and windows of it.
 *
 * A part is kept for validation and never trained on: not the end, which in a book is about other
 * things than the rest, but the end of each tenth of the text. These stretches are moved to the
 * back, so that both parts are one row of tokens. A batch is a function of (seed, step): windows
 * that begin at random places, drawn by a counter, so that any step can be asked for again.
 */
#ifndef DATA_H
#define DATA_H

#include "common/core/error.h"
#include "common/text/tokenizer.h"

typedef struct Corpus {
    int32_t *ids;
    size_t count;       /* tokens */
    size_t train_count; /* the first of them: for training; the rest: for validation */
    size_t bytes;       /* of text, all files together */
} Corpus;

/* The files' bytes, one after the other, for the caller to free(). No text at all is an error. */
char *corpus_read_text(const char *const *paths, int path_count, size_t *bytes, Error *err);

/*
 * Encodes text and splits it: `validation` (0.05: the last 5 % of each tenth) is kept back. Both
 * parts must be longer than context_length; a shorter text is an error that says how many tokens
 * there are and how many are needed.
 */
int corpus_init(Corpus *corpus, const Tokenizer *tokenizer, const char *text, size_t bytes,
                double validation, int context_length, Error *err);
/* All of the text as the validation part: for measuring a model that is already trained. */
int corpus_whole(Corpus *corpus, const Tokenizer *tokenizer, const char *text, size_t bytes,
                 int context_length, Error *err);
void corpus_free(Corpus *corpus);

/* The token that a new text is to begin with, one that the corpus has: <|endoftext|>, or else a
 * newline. -1: it has neither. */
int corpus_begin(const Corpus *corpus, const Tokenizer *tokenizer);

/* Windows number first .. first + batch - 1 of a run: inputs and targets [batch, length]; targets
 * are one token further. */
void corpus_batch(const Corpus *corpus, uint64_t seed, uint64_t first, int batch, int length,
                  int32_t *inputs, int32_t *targets);

/* Window i of `count` that are spread evenly over the validation part, in the same layout (batch
 * 1). */
void corpus_validation(const Corpus *corpus, int i, int count, int length, int32_t *inputs,
                       int32_t *targets);

/* Entropy (natural log, per token) of the validation part under the training part's token
 * frequencies: what a model reaches that knows how often each token occurs and nothing else. */
double corpus_unigram_loss(const Corpus *corpus, int vocab_size);

#endif
