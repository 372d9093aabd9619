/*
 * Where guessing pays: what it costs and what it brings, measured in the loop that is in use.
 *
 * A plain step is 1. Looking at k + 1 rows costs V, each draft c, and a step makes
 * 1 + a_1 + a_1 a_2 + ... tokens, so decoding becomes (1 + a_1 + ...) / (V + k c) times as fast
 * (verify.h). V is a step whose drafts are planted, for nothing, and wrong; with modules that do
 * their work in front of them, and for nothing too, it is V + k c. What is predicted from these two
 * stands beside a run whose drafts are right as often as it comes.
 *
 * All runs make the same text, in turns, so that they share what disturbs them; the fastest counts.
 */
#ifndef PAYS_H
#define PAYS_H

#include "06_mtp/speculate/speculate.h"

__BEGIN_DECLS

typedef struct PaysTask {
    Context *ctx;
    const Mtp *mtp;
    const Position *position; /* or NULL */
    const int32_t *prompt;    /* [prompt_tokens], at least 2 */
    int prompt_tokens, new_tokens;
    int drafts;
    const int32_t *vocabulary; /* [vocabulary_size] ids that are guessed; NULL: all */
    int vocabulary_size;
    const double *rates; /* [drafts]: plant drafts that are right so often; NULL: the modules' */
    double seconds;      /* for all runs, at least; each runs twice or more */
} PaysTask;

typedef struct Pays {
    double plain, V, c;               /* seconds of a plain step; the others in plain steps */
    double a[SPECULATE_MOST], tokens; /* drafts kept, of those looked at; tokens a step */
    double predicted, measured;       /* speed-up */
} Pays;

/* Ends the program if memory runs out, or the texts differ. text [prompt_tokens + new_tokens] gets
 * what was said, guessed (if not NULL) whether each token was a guess. */
Pays pays_measure(const PaysTask *task, int32_t *text, bool *guessed);

__END_DECLS
#endif
