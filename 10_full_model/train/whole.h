/*
 * A model of which no rank has all, as one: what is saved, and what is resumed from.
 *
 * Where ranks share the optimizer or a layer's experts (common/comm/ranks.h), files know nothing of
 * it. Before a save rank 0 puts the whole model together in its host's memory, with its moments;
 * before a run goes on every rank reads the file into such a model and keeps what is its own. So a
 * run that was saved by two ranks goes on on one or four.
 *
 * Of a model that each rank has all of, a Whole stays empty, its model.ctx NULL: the model itself
 * is what is saved.
 */
#ifndef WHOLE_H
#define WHOLE_H

#include "10_full_model/model/model.h"

#include "common/comm/ranks.h"

typedef struct Whole {
    Context ctx; /* of the host */
    Model model;
} Whole;

/* An empty one of the same kind, for training; in place: it must not move. -1 and a message. */
int whole_open(Whole *whole, const Model *model, Error *err);
void whole_free(Whole *whole); /* zeros: fine */

/* whole_open() on rank 0, and all of the model in it. Collective. */
int whole_collect(Whole *whole, Ranks *ranks, Model *model, Error *err);

/* What is this rank's of it, into the model, with the context's random numbers. ranks NULL: first
 * weights, before ranks_open(), whose moments are zero. An empty one: nothing. */
void whole_distribute(Whole *whole, Ranks *ranks, Model *model);

#endif
