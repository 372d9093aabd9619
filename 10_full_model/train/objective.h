/*
 * What is made smaller: the part of a training step that differs between one kind of training and
 * another.
 *
 *     data -> objective -> gradients -> optimizer -> after-step          (train_step.h)
 *
 * An objective turns a micro-batch into a loss on the tape. It may run several models or parts of
 * one, some of them not recorded (a teacher); add losses of its own with weights of its own; keep
 * what it likes in `self`; and, after the optimizer's step, move what no gradient moves. It does
 * not draw batches, clip, or step: all objectives share that.
 *
 * Invariant: the loss is a mean over the micro-batch's targets; the step gives it the weight that
 * they have among all of its targets, so it does not matter how a step is cut.
 */
#ifndef OBJECTIVE_H
#define OBJECTIVE_H

#include "10_full_model/model/model.h"
#include "10_full_model/train/metrics.h"

/* I32 [batch, length], on the device. A target of IGNORE_TARGET (ops.h) does not count: a mask over
 * tokens is written there. */
typedef struct MicroBatch {
    Tensor *ids, *targets;
    float weight; /* of its loss in the step: 1 where all micro-batches have as many targets */
    const int32_t
        *lengths; /* [batch], host: tokens of a row, behind which is padding; NULL: none */
} MicroBatch;

enum { OBJECTIVE_SHOWN = 1 + MTP_MAX_DEPTH };

typedef struct Objective {
    void *self;
    int shown; /* how many numbers loss() has for the log, 1 .. OBJECTIVE_SHOWN */
    /* Called while ctx records. shown: the numbers for the log, F32 [1] each; the first is the
     * loss, which may be less than all that is made smaller, the others are parts of that. */
    Tensor *(*loss)(void *self, const MicroBatch *micro, Tensor **shown);
    /* NULL: nothing to do. Fills in the columns of the report that only this objective knows. */
    void (*after_step)(void *self, StepReport *report);
} Objective;

/*
 * The cross entropy of the next token, and of later ones if the model has modules for them (shown
 * one by one: StepReport's mtp_loss), and the routers' balance losses; then the routers' biases. Of
 * a sparse model also what its indexers have to learn; or that alone.
 */
typedef struct LanguageModelObjective {
    Model *model;
    BlockTraining training; /* dropout, and the routers' balance losses */
    MtpTraining mtp;        /* the modules' weight, and where documents end */
    float bias_speed;       /* how far a router's bias moves after a step */
    IndexerStage stage;     /* of a sparse model; while indexers warm up, they alone move */
    float index_loss;       /* weight of their loss (sparse/index_loss.h) */
} LanguageModelObjective;

/* self must live as long as the objective. */
Objective objective_language_model(LanguageModelObjective *self);

#endif
