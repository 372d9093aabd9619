/*
 * Four ways of making one text, in turns: plainly; with drafts that are all wrong and cost nothing;
 * with those behind modules at work; and with the drafts that are asked for.
 */
#include "06_mtp/speculate/pays.h"

#include "06_mtp/speculate/verify.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PERIOD = 997 }; /* of planted patterns */

typedef struct Way {
    DecoderGenerator g;
    Speculator s; /* zeros: plain */
    double best;  /* seconds of a step */
    double tokens;
} Way;

static DecoderGenerateOptions options_of(const PaysTask *t) {
    return (DecoderGenerateOptions){
        .sampling = {.top_p = 1}, .max_new_tokens = t->new_tokens, .end = -1};
}

static void open_generator(DecoderGenerator *g, const PaysTask *t) {
    Error err;
    if (decoder_generator_init(g, t->ctx, t->mtp->decoder, t->position, 1,
                               t->prompt_tokens + t->new_tokens, &err))
        fatal("%s", err.text);
    memcpy(g->sequences[0].ids, t->prompt, (size_t)t->prompt_tokens * sizeof *t->prompt);
    g->sequences[0].count = t->prompt_tokens;
}

/* Drafts by modules or none; over them planted ones, if truth is not NULL: never right (rates NULL)
 * or so often. */
static void open_speculator(Way *way, const PaysTask *t, bool modules, const int32_t *truth,
                            const double *rates) {
    const Decoder *d = t->mtp->decoder;
    Error err;
    Drafter *drafter = NULL;
    DraftVocabulary *v = NULL;
    if (modules) drafter = drafter_of_modules(t->ctx, t->mtp, &way->g.cache, t->drafts, &err);
    if (modules && !drafter) fatal("%s", err.text);
    if (t->vocabulary) {
        v = must_alloc(1, sizeof *v);
        if (draft_vocabulary_init(v, t->ctx, d, t->vocabulary, t->vocabulary_size, -1, &err))
            fatal("%s", err.text);
    }
    if (truth) {
        int32_t *right = must_alloc(SPECULATE_MOST * PERIOD, sizeof *right);
        for (int i = 0; i < t->drafts * PERIOD && rates; i++)
            right[i] =
                rng_uniform(9, (uint64_t)(i / PERIOD), (uint64_t)(i % PERIOD)) < rates[i / PERIOD];
        drafter = drafter_planted(t->ctx, &way->g.cache, truth, t->prompt_tokens + t->new_tokens,
                                  right, PERIOD, d->cfg.vocab_size, drafter, &err);
        if (!drafter) fatal("%s", err.text);
        free(right);
    }
    if (speculator_init(&way->s, &way->g, drafter, v, t->drafts, &err)) fatal("%s", err.text);
}

/* The text once more. */
static void run(Way *way, const PaysTask *t) {
    DecoderGenerateOptions options = options_of(t);
    DecoderGenerateResult result;
    decoder_generator_truncate(&way->g, -1, 0); /* the prompt too: its guesses begin anew */
    way->g.sequences[0].count = t->prompt_tokens;
    way->s.counts = (SpeculateCounts){0};
    if (way->s.g)
        speculate_generate(&way->s, &options, &result);
    else
        decoder_generate(&way->g, &options, &result);
    double steps = way->s.g ? (double)way->s.counts.steps : result.new_tokens;
    way->best = fmin(way->best, result.seconds / steps);
    way->tokens = result.new_tokens / steps;
}

Pays pays_measure(const PaysTask *t, int32_t *text, bool *guessed) {
    enum { PLAIN, LOOK, PAY, GUESS, WAYS };
    Way ways[WAYS] = {0};
    size_t count = (size_t)(t->prompt_tokens + t->new_tokens);
    for (int i = 0; i < WAYS; i++) {
        open_generator(&ways[i].g, t);
        ways[i].best = INFINITY;
    }
    run(&ways[PLAIN], t);
    memcpy(text, ways[PLAIN].g.sequences[0].ids, count * sizeof *text);
    open_speculator(&ways[LOOK], t, false, text, NULL);
    open_speculator(&ways[PAY], t, true, text, NULL);
    open_speculator(&ways[GUESS], t, true, t->rates ? text : NULL, t->rates);
    double until = seconds_now() + t->seconds;
    for (int turn = 0; turn < 2 || seconds_now() < until; turn++)
        for (int i = 0; i < WAYS; i++) run(&ways[i], t);
    for (int i = LOOK; i < WAYS; i++)
        CHECK(!memcmp(ways[i].g.sequences[0].ids, text, count * sizeof *text),
              "guessing has changed the text");
    const Way *guess = &ways[GUESS];
    Pays p = {.plain = ways[PLAIN].best, .tokens = guess->tokens};
    p.V = ways[LOOK].best / p.plain;
    p.c = (ways[PAY].best - ways[LOOK].best) / p.plain / t->drafts;
    for (int j = 0; j < t->drafts; j++)
        p.a[j] = guess->s.counts.seen[j]
                     ? (double)guess->s.counts.kept[j] / (double)guess->s.counts.seen[j]
                     : 0;
    p.predicted = speculate_speedup(p.a, t->drafts, p.V, p.c);
    p.measured = p.plain / (guess->best / guess->tokens);
    if (guessed) memcpy(guessed, guess->s.guessed, count * sizeof *guessed);
    for (int i = 0; i < WAYS; i++) {
        speculator_free(&ways[i].s);
        decoder_generator_free(&ways[i].g);
    }
    return p;
}
