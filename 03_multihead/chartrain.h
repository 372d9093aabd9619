/*
 * The training of a small model of characters, whatever is in it: a batch, its loss, backward, a
 * step of AdamW, and a line that says how far it is.
 */
#ifndef CHARTRAIN_H
#define CHARTRAIN_H

#include "common/core/optimizer.h"
#include "common/text/chartext.h"

typedef struct CharTraining {
    const char *label; /* for the progress bar */
    Schedule schedule;
    int batch, length;
    Rng *rng;       /* which stretches of text */
    double *losses; /* [steps], or NULL */
    /* The model: the loss to make smaller. *shown is what is told of it, if that is another. */
    Tensor *(*loss)(Context *ctx, void *user, Tensor *ids, Tensor *targets, Tensor **shown);
    /* NULL, or what else belongs to a step, with the step's activations still there */
    void (*after)(Context *ctx, void *user, int step);
    void *user;
} CharTraining;

/* -1 and a message when the loss or the gradient is no number any more. */
int chartrain(Context *ctx, Params *params, const CharText *text, const CharTraining *how,
              Error *err);

#endif
