/*
 * The demo's second half: a trained model guesses its own tokens, and decodes faster for it.
 */
#ifndef DEMO_SPECULATE_H
#define DEMO_SPECULATE_H

#include "06_mtp/speculate/pays.h"

enum { DEMO_DRAFTS = 4 }; /* most at a time */

typedef struct DemoSpeculate {
    Context *ctx;
    const Mtp *mtp; /* trained */
    const Position *position;
    const int32_t *prompt; /* [prompt_tokens] */
    int prompt_tokens, new_tokens;
    const int32_t *vocabulary; /* [vocabulary_size] ids that are guessed; NULL: all */
    int vocabulary_size;
    void (*write)(void *user, int32_t id); /* a token's text, to stdout */
    void *user;
    const char *csv; /* where the table goes, and the chart beside it */
} DemoSpeculate;

/*
 * Measures 1 to DEMO_DRAFTS drafts at a time: acceptance by depth, tokens a step, the speed-up that
 * V and c predict and the one that is measured; draws it, and prints the text of the fastest with
 * the guessed tokens marked. Returns the best speed-up.
 */
double demo_speculate(const DemoSpeculate *d);

#endif
