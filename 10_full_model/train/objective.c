/*
 * The language model's objective. The load of the experts is read before the biases move: moving
 * them begins a new count.
 */
#include "10_full_model/train/objective.h"

/* [language_model_loss] */
static Tensor *language_model_loss(void *self, const MicroBatch *micro, Tensor **shown) {
    const LanguageModelObjective *o = self;
    Model *model = o->model;
    const DecoderRun run = {.position = model_position(model), .training = &o->training};
    /* Shown are the losses of the text alone: they are what a reader of the log wants to know. */
    Tensor *loss = mtp_training_loss(model->ctx, &model->mtp, micro->ids, micro->targets, &run,
                                     &o->mtp, shown);
    if (o->stage == INDEXER_SELECTS) return loss;
    return indexers_add_losses(model->ctx, &model->indexers,
                               o->stage == INDEXER_LEARNS ? loss : NULL, o->index_loss);
}

static void language_model_after_step(void *self, StepReport *report) {
    LanguageModelObjective *o = self;
    report->load = metrics_expert_load(o->model);
    float speed = o->stage == INDEXER_WARMS_UP ? 0 : o->bias_speed; /* the count begins anew */
    decoder_rebalance(o->model->ctx, &o->model->decoder, speed);
    mtp_rebalance(o->model->ctx, &o->model->mtp, speed);
}
/* [/language_model_loss] */

Objective objective_language_model(LanguageModelObjective *self) {
    return (Objective){self, 1 + self->model->mtp.depth, language_model_loss,
                       language_model_after_step};
}
