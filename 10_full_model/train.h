/*
 * Training: batches in, a smaller loss out, and nothing lost on the way.
 *
 * A step is: gradients of `accumulation` micro-batches added up, clipped by their global norm, one AdamW step. The
 * learning rate warms up linearly and comes down along a cosine. Every eval_interval steps, and at the end, the loss on fixed
 * windows of the validation text is measured, and the weights are saved if it is the best so far.
 *
 * When the loss or the gradient is not a finite number training stops and says at which step; the weights saved last
 * are untouched. Ctrl-C finishes the step, validates (and saves, if it is the best so far), and stops.
 */
#ifndef TRAIN_H
#define TRAIN_H

#include "data.h"
#include "model.h"

#include "../common/csv.h"

typedef struct TrainOptions {
    int64_t steps;
    int batch_size, context_length,
        accumulation; /* a step sees batch_size * accumulation * context_length tokens */
    int64_t warmup_steps;
    float learning_rate, min_learning_rate;
    AdamW adamw;
    int eval_interval,
        eval_batches; /* validation: every so many steps, on eval_batches * batch_size windows */
    const char *out;  /* folder for the model, which must exist; NULL: do not save */
    const Tokenizer *tokenizer; /* saved with it, and config.json; NULL: only the weights */
    Csv *csv;                   /* one row a step, or NULL: see TRAIN_COLUMNS */
    bool quiet;                 /* no progress line */
} TrainOptions;

#define TRAIN_COLUMNS "step,loss,validation_loss,learning_rate,gradient_norm,tokens_per_second"

/* The defaults of both programs for a model this size. */
TrainOptions train_defaults(void);

typedef struct TrainResult {
    int64_t steps;         /* done */
    float loss;            /* mean over the last tenth of the steps */
    float validation_loss; /* at the end */
    float best_validation_loss;
    double seconds, tokens_per_second;
    size_t peak_bytes; /* of activations and gradients in a step */
    bool interrupted;  /* by Ctrl-C */
} TrainResult;

/* Trains model (allocated for training) on corpus. -1 and a message for a loss that is not finite or a save that fails. */
int train(Model *model, const Corpus *corpus, const TrainOptions *options, TrainResult *result,
          Error *err);

/* Mean loss per token over `windows` windows spread evenly over the validation text, batch_size at a time. */
float validation_loss(Model *model, const Corpus *corpus, int windows, int batch_size,
                      int context_length);

#endif
