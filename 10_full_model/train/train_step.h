/*
 * One training step, whatever is learned:
 *
 *     for each micro-batch:  data -> objective -> gradients, which add up
 *     optimizer: clipped by their global norm, one AdamW step at the schedule's rate
 *     the objective's after-step
 *
 * Several ranks share a step's windows: each has an equal part, and no other step comes of it
 * (common/comm/ranks.h). Which windows a step has, and what is dropped out of them, depends on
 * their numbers in the run and not on who has them.
 *
 * A Trainer says how and holds no state: step s is a function of the weights, of adamw (whose
 * count of finished steps is s, and decides which windows of the data come), and of the context's
 * random numbers.
 */
#ifndef TRAIN_STEP_H
#define TRAIN_STEP_H

#include "10_full_model/data/token_source.h"
#include "10_full_model/train/objective.h"
#include "common/comm/ranks.h"

/* How a step's windows are cut into micro-batches, and which of them are this rank's. */
typedef struct StepCut {
    int windows; /* of a micro-batch */
    int all;     /* micro-batches of the step */
    int count;   /* this rank's, */
    int first;   /* from this one on */
} StepCut;

/*
 * batch_size * accumulation windows in micro-batches of at most batch_size, as many for each of the
 * context's ranks; with slots (ranks.h) as many for each slot. One rank without slots gets
 * accumulation of batch_size. -1 and a message that names what would divide.
 */
int step_cut(StepCut *cut, const Context *ctx, int batch_size, int accumulation, bool slots,
             Error *err);
int step_cut_for(StepCut *cut, int batch_size, int accumulation, int ranks, bool slots,
                 Error *err); /* for rank 0 of so many */

typedef struct Trainer {
    Params *params; /* that the objective's loss reaches, allocated for training */
    Objective objective;
    const TokenSource *source;
    Schedule schedule;
    int context_length;
    StepCut cut;
    Ranks *ranks; /* NULL: this process is alone */
} Trainer;

/*
 * The step behind adamw->step finished ones. Fills in the report, but for what takes a clock or a
 * validation. If the loss or the norm is not finite, AdamW has changed nothing and counted nothing.
 */
void train_step(const Trainer *trainer, AdamW *adamw, StepReport *report);

#endif
