/*
 * One training step, whatever is learned:
 *
 *     for each micro-batch:  data -> objective -> gradients, which add up
 *     optimizer: clipped by their global norm, one AdamW step at the schedule's rate
 *     the objective's after-step
 *
 * A Trainer says how and holds no state: step s is a function of the weights, of adamw (whose
 * count of finished steps is s, and decides which windows of the data come), and of the context's
 * random numbers.
 */
#ifndef TRAIN_STEP_H
#define TRAIN_STEP_H

#include "10_full_model/data/token_source.h"
#include "10_full_model/train/objective.h"
#include "common/core/optimizer.h"

typedef struct Trainer {
    Params *params; /* that the objective's loss reaches, allocated for training */
    Objective objective;
    const TokenSource *source;
    Schedule schedule;
    int batch_size, context_length;
    int accumulation; /* micro-batches of batch_size windows in a step */
} Trainer;

/*
 * The step behind adamw->step finished ones. Fills in the report, but for what takes a clock or a
 * validation. If the loss or the norm is not finite, AdamW has changed nothing and counted nothing.
 */
void train_step(const Trainer *trainer, AdamW *adamw, StepReport *report);

#endif
