/*
 * What the parts of the demo share: flags, a text, a small model that has learned it, and a copy of
 * its weights, from which every way of rounding them begins.
 */
#ifndef QUANT_DEMO_H
#define QUANT_DEMO_H

#include "08_quant/methods/quantise_decoder.h"

#include "common/program/options.h"
#include "common/program/plot.h"
#include "common/text/chartext.h"

#define DEMO_OUT "08_quant/figures/out/"

typedef struct DemoOptions {
    CommonOptions common;
    const char *text;
    int steps, layers, group;
} DemoOptions;

typedef struct Demo {
    DemoOptions options;
    Context ctx;
    CharText text;
    DecoderConfig cfg;
    Params params;
    Decoder decoder;
    float **learned;    /* every weight's numbers, in the order of the params */
    Calibration sample; /* of the text that it learned */
    double loss;        /* of the model as it learned it: validation, nats a character */
    Csv csv;            /* what sections 4 to 6 found, a row each */
} Demo;

/* Sections 1 and 2: formats, without any model (demo_formats.c). */
void demo_formats(const Demo *d);
void demo_outliers(const Demo *d);

/* Sections 3 to 6: -1 and a message (demo_model.c, demo_methods.c). */
int demo_learn(Demo *d, Error *err);
int demo_methods(Demo *d, Error *err);
void demo_places(Demo *d);
int demo_qat(Demo *d, Error *err);

/* ---- demo_model.c: what the others need of the model ---- */

/* What was learned is what the weights are now; and the weights are what was learned. */
void demo_remember(Demo *d);
void demo_restore(Demo *d);

/* Mean loss of all the text that was kept back, in nats a character, of the weights as they are. */
double demo_loss(Demo *d);

/* `steps` more steps from the weights as they are. format: with weights rounded on the way
 * (quantisation-aware), or NULL. */
int demo_train(Demo *d, const char *label, int steps, float rate, const QuantFormat *format,
               Error *err);

/* Rounds the weights: all linear layers, by a method; the report is the caller's to free. */
int demo_quantise(Demo *d, QuantMethod method, QuantFormat format, QuantReport *report, Error *err);

/* Per cent by which the perplexity is higher than that of the model as it learned it. */
double demo_worse(const Demo *d, double loss);

#endif
