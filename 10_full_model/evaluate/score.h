/*
 * How likely a model holds a text behind another one: log p(continuation | context), the sum over
 * the continuation's tokens of the log-probability of each behind all before it.
 *
 * Texts of any lengths are scored together. They are sorted by length, the longest first, and as
 * many as fit go through the model side by side, padded on the right: the mask is causal, so no
 * token sees the padding, and behind sorting there is little of it. The head, which is the larger
 * part of a small model, sees the rows of continuations only. What a text is given does not depend
 * on what stands beside it, but for the last bit of rounding.
 */
#ifndef SCORE_H
#define SCORE_H

#include "10_full_model/model/model.h"

#include "common/text/tokenizer.h"

typedef struct ScoredText {
    int32_t *ids; /* [count]: the context and the continuation; owned */
    int count;
    int asked; /* the last so many tokens are the continuation; 1 .. count - 1 */
    bool cut;  /* the beginning of the context did not fit, and is left out */
    /* what score_texts finds: */
    double logprob; /* natural log */
    bool greedy;    /* each of these tokens is the likeliest in its place */
} ScoredText;

/*
 * The tokens of both texts, as lm-eval finds them: spaces at the end of the context belong to the
 * continuation; the two are encoded as one text, and what the context alone has as tokens is taken
 * to be the context's. Without a context (""), `begin` stands before the continuation.
 * Of a context that is too long for a model's `longest` tokens, the end stays. -1 and a message for
 * a continuation that alone is too long, or an empty context when begin is negative. Free ids.
 */
int score_encode(ScoredText *text, const Tokenizer *tokenizer, int begin, const char *context,
                 const char *continuation, int longest, Error *err);

typedef struct ScoreOptions {
    int batch_tokens; /* side by side, padding included; one text always fits */
    bool greedy;      /* also find out what is the likeliest */
    void (*progress)(void *user, size_t done); /* texts; may be NULL */
    void *user;
} ScoreOptions;

/* How many tokens side by side make logits of a size that a device has room for. */
int score_batch_tokens(const Model *model);

/* Scores all of them. -1 and a message for a number that is not finite: what in the model makes
 * it. */
int score_texts(Model *model, ScoredText *texts, size_t count, const ScoreOptions *options,
                Error *err);

#endif
