/*
 * A step of the tour: the trained model's linear layers in fewer bits, and what it still knows.
 */
#ifndef DEMO_QUANTISE_H
#define DEMO_QUANTISE_H

#include "10_full_model/train/train.h"

/* Section `section` of the tour. Prints a table: bytes and validation loss in F32, INT8 and INT4.
 * The model is as before afterwards. For the CPU and F32; elsewhere it does nothing. -1 and a
 * message. */
int demo_fewer_bits(int section, Model *model, const TokenSource *source, const TrainOptions *train,
                    Error *err);

#endif
