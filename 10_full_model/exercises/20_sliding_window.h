/* A selection (04_mla/selection.h) that sees the last tokens only. */
#ifndef SLIDING_WINDOW_H
#define SLIDING_WINDOW_H

#include "04_mla/selection.h"

typedef struct SlidingWindow {
    Selection selection; /* first: a SlidingWindow * is a Selection * */
    int window;          /* how many tokens a query sees, itself included */
} SlidingWindow;

/* I32 [B, T, window]: the positions that each of x's T tokens may see. cache: see selection.h. */
Tensor *sliding_select(Context *ctx, const Selection *self, Tensor *x, Tensor *c_q,
                       LatentCache *cache);

/* The smallest window with which the model learns the text as well as with all. */
extern const int smallest;

#endif
