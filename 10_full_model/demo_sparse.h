/*
 * A step of the tour: the trained model gets indexers, which learn to choose what attention reads.
 */
#ifndef DEMO_SPARSE_H
#define DEMO_SPARSE_H

#include "10_full_model/train/train.h"

/* Section `section` of the tour: warm-up and sparse training of a copy of the model (SPARSE.md),
 * with their charts. -1 and a message. */
int demo_sparse(int section, Model *model, const TokenSource *source, const TrainOptions *train,
                Error *err);

#endif
