/*
 * What a training run says about itself: one row of a CSV file a step.
 *
 * After a resume the file goes on where the run does: rows of steps that were done after the last
 * save, and will now be done again, are removed.
 */
#ifndef METRICS_H
#define METRICS_H

#include "10_full_model/model/model.h"

#include "common/files/csv.h"

/* And behind these mtp_loss_1, ... for each module; where indexers learn, the means of what they
 * measured in the last micro-batch (sparse/index_loss.h), and then loss, recall and mass of each.
 * Empty cells: a validation that was not due, a peak that was not measured, a model without
 * experts. */
#define TRAIN_COLUMNS                                        \
    "step,loss,validation_loss,learning_rate,gradient_norm," \
    "tokens_per_second,share_of_peak,max_vio,idle_experts"

/* What the routers have counted since decoder_rebalance, those of modules too. */
ExpertLoad metrics_expert_load(Model *model);

typedef struct StepReport {
    int64_t step; /* counts from 1 */
    float loss;
    float mtp_loss[MTP_MAX_DEPTH]; /* of each module for multi-token prediction that there is */
    float validation_loss;         /* NAN: not measured */
    float learning_rate, gradient_norm;
    double tokens_per_second;
    ExpertLoad load;
} StepReport;

typedef struct Metrics {
    Csv csv;                  /* stream NULL: no file */
    int depth;                /* modules for multi-token prediction: columns of their own */
    const Indexers *indexers; /* the same; NULL: none learns */
    double flop_per_token, peak;
} Metrics;

/*
 * Opens path (NULL: none). after: the run goes on behind this step; 0 begins a new file. peak: the
 * device's operations per second, 0 if unknown; a step that does more raises it.
 */
int metrics_open(Metrics *metrics, const char *path, const Model *model, int context_length,
                 int64_t after, double peak, Error *err);
void metrics_row(Metrics *metrics, const StepReport *report);
/* -1 and a message if a row could not be written. */
int metrics_close(Metrics *metrics, Error *err);

/*
 * Operations that one token costs in the forward pass (a training step: three times as many): two
 * for each weight it is multiplied with, attention over half a window on average, or over what is
 * selected of it, and then the indexers' scores of that half.
 */
double metrics_flop_per_token(const Model *model, int context_length);

#endif
