/*
 * The driver's work on one layer (quantise_decoder.h): its weights, what was seen of their inputs,
 * and where the outcome goes.
 */
#ifndef QUANTISE_LAYER_H
#define QUANTISE_LAYER_H

#include "08_quant/methods/inputs.h"
#include "08_quant/methods/layer.h"
#include "08_quant/methods/quantise_decoder.h"

__BEGIN_DECLS

typedef struct LayerWork {
    const QuantRecipe *recipe;
    QuantReport *report;
    QuantLayer layer;
    bool watched;                    /* are there stats? */
    InputStats *stats[LAYER_INPUTS]; /* of each input, [experts] */
} LayerWork;

/* Does the method round activations, too? */
bool quant_activations_too(QuantMethod method);

/* Quantises all linear layers and adds them to the report; -1 and a message that names the
 * weight. */
int quantise_layer(LayerWork *work, Error *err);

__END_DECLS
#endif
