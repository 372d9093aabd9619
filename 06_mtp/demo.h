/*
 * What the parts of the demo share: one text, and a small model that has learned it three times,
 * without modules, with them, and with independent heads.
 */
#ifndef MTP_DEMO_H
#define MTP_DEMO_H

#include "06_mtp/heads.h"

#include "common/program/options.h"
#include "common/text/chartext.h"

#define DEMO_OUT "06_mtp/figures/out/"

typedef struct DemoOptions {
    CommonOptions common;
    const char *text;
    int steps, layers, depth;
    double lambda;
} DemoOptions;

/* A model and what its training said. */
typedef struct DemoModel {
    Params params;
    Decoder decoder;
    Mtp mtp;                             /* depth options.depth of one model, 0 of the others */
    MtpHeads heads;                      /* of a third */
    int depth;                           /* of either */
    double *losses[1 + MTP_MAX_DEPTH];   /* [steps] of each depth */
    float validation[1 + MTP_MAX_DEPTH]; /* at the end */
    float agrees[1 + MTP_MAX_DEPTH];     /* how often module k's guess is the model's own, then */
    double seconds;                      /* of training */
} DemoModel;

typedef struct Demo {
    DemoOptions options;
    Context ctx;
    CharText text;
    DecoderConfig cfg;
    DemoModel plain, with, heads; /* without modules, with them, with independent heads */
} Demo;

enum { DEMO_BATCH = 20, DEMO_CONTEXT = 48 }; /* no text can be longer */

/* Reads the text, says what the model is, trains all and compares them (demo_train.c). -1 and a
 * message. */
int demo_train(Demo *d, Error *err);

#endif
