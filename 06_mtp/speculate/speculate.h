/*
 * Speculative decoding: several tokens a step, and the text of plain decoding.
 *
 * A step of decoding reads all weights to make one token of each text; with a few rows more it
 * reads hardly more. So a drafter guesses k tokens (drafter.h), one step looks at all of them, and
 * those that the decoder would have said itself are kept (Leviathan et al. 2023):
 *
 *     rows        t_{n-1}    d_1       d_2      ...  d_k        k + 1 of each text, in one step
 *     row j's     says t_n   t_{n+1}   t_{n+2}       t_{n+k}    d_1 .. d_j taken for granted
 *     kept        while d_{j+1} is what row j says; then what it says instead, or, when all were
 *                 right, what the last row says, the bonus: 1 to k + 1 tokens
 *
 * Likeliest tokens: the text is that of plain decoding, token for token. The logits of a row are
 * the same bits, whatever rows stand beside it (speculate_rows), so no near tie can fall the other
 * way. Drawn tokens: their distribution is the model's (verify.h). Random numbers come from (seed,
 * stream, place of the token, purpose), so neighbours have no part in a text here either; but the
 * text is another one than plain decoding draws from the same seed.
 *
 * Invariant, between steps: the caches of decoder and drafter hold all tokens of a text but the
 * last, exactly as plain decoding would have left the decoder's.
 */
#ifndef SPECULATE_H
#define SPECULATE_H

#include "05_moe/decoder/decoder_generate.h"
#include "06_mtp/speculate/draft_vocabulary.h"
#include "06_mtp/speculate/drafter.h"

#include <stdio.h>

__BEGIN_DECLS

/* What has happened: per draft j = 1 .. k how often it was looked at (all before it were kept), and
 * how often kept itself. */
typedef struct SpeculateCounts {
    int64_t steps, tokens; /* of all sequences that were not at their end */
    int64_t seen[SPECULATE_MOST], kept[SPECULATE_MOST];
} SpeculateCounts;

double speculate_tokens_a_step(const SpeculateCounts *counts);
void speculate_add(SpeculateCounts *sum, const SpeculateCounts *more);
/* "2.41 tokens a step; drafts kept: 81 %, 74 %": of those that were looked at, draft by draft. */
void speculate_print(FILE *out, const SpeculateCounts *counts);

typedef struct Speculator {
    DecoderGenerator *g;
    Drafter *drafter;
    DraftVocabulary *vocabulary;
    int most;    /* drafts at a time */
    bool argmax; /* drawn text: the drafter's likeliest tokens instead of drawn ones */
    bool alone;  /* likeliest tokens: the device steps without the host; at first: a GPU does */
    SpeculateCounts counts;
    bool *guessed; /* [batch, capacity]: which tokens of the last run were drafts that stayed */
    /* Of the step. On the host: */
    const DecoderGenerateOptions *options;
    int drafted;             /* drafts that stand behind ids' first column */
    bool *done;              /* [batch] */
    int broken;              /* 1 + the sequence with logits that are not finite; 0: none */
    int *left;               /* [batch]: tokens that may still come */
    int32_t *says, *guesses; /* [batch, 1 + most]: the token behind each row; [batch, 1 + MOST] */
    int32_t *last;           /* [batch] */
    float *logits, *p, *q; /* drawn text: [batch, 1 + most, vocab], [vocab], [batch, most, vocab] */
    /* On the device, I32: */
    Tensor ids;      /* [batch, 1 + SPECULATE_MOST]: the newest token, and the drafts behind it */
    Tensor rest;     /* [batch]: left */
    Tensor back;     /* [2, batch]: rows that were wrong; rows that the drafter added */
    Tensor found;    /* [DECODE_STEPS, batch, 2 + most]: each step's count of tokens, and they */
    Tensor step;     /* [1] */
    GpuGraph *graph; /* NULL until such a step is taken, and on the CPU */
} Speculator;

/* How many rows of all texts together one step can look at so that each row has the bits that it
 * has alone. */
int speculate_rows(const Context *ctx);

/*
 * Up to `drafts` drafts a step for the texts of g, none of which has been continued yet. -1 and a
 * message that says what is possible when rows or the vocabulary are too many, or memory runs out.
 * drafter and vocabulary (NULL: all tokens) become the speculator's; its address must not change.
 */
int speculator_init(Speculator *s, DecoderGenerator *g, Drafter *drafter,
                    DraftVocabulary *vocabulary, int drafts, Error *err);
void speculator_free(Speculator *s); /* zeros: fine */

/* decoder_generate(), faster: the same arguments, results, and, without drawing, ids. */
void speculate_generate(Speculator *s, const DecoderGenerateOptions *options,
                        DecoderGenerateResult *result);

/* ---- kernel ---- */

/*
 * Greedy acceptance. says [batch, 1 + k] is the likeliest token behind each row of ids [batch, 1 +
 * k, of a row's width 1 + SPECULATE_MOST], or -1; count = drafts that agree, and one, but no more
 * than rest[b], which becomes less by it. Then ids[b, 0] is the newest token (0, where that is -1),
 * last[b] = count - 1, back[b] = k + 1 - count, and row *step of found [DECODE_STEPS, batch, 2 +
 * most] is count and the tokens; *step is one more.
 */
KERNEL(speculate_accept, int32_t *ids, int32_t *last, int32_t *back, int32_t *rest, int32_t *found,
       int32_t *step, const int32_t *says, int64_t batch, int64_t k, int64_t most);

__END_DECLS
#endif
