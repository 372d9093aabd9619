/*
 * A step of the tour: a copy of the trained model learns from rewards alone to say a word.
 */
#ifndef DEMO_REWARDS_H
#define DEMO_REWARDS_H

#include "10_full_model/train/train.h"

/* Section `section` of the tour, some seconds on two cores: a chart of the reward, what is written
 * then, and what it has cost. The model stays as it is. -1 and a message. */
int demo_rewards(int section, Model *model, const Corpus *corpus, const Tokenizer *tokenizer,
                 const TrainOptions *train, Error *err);

#endif
