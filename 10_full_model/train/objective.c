/*
 * The language model's objective. The load of the experts is read before the biases move: moving
 * them begins a new count.
 */
#include "10_full_model/train/objective.h"

#include <string.h>

/* [language_model_loss] */
static Tensor *language_model_loss(void *self, const MicroBatch *micro, Tensor **shown) {
    const LanguageModelObjective *o = self;
    Model *model = o->model;
    size_t bytes = (size_t)model->cfg.num_hidden_layers * sizeof(MoeRecord);
    MoeRecord *records = memset(arena_alloc(&model->ctx->host, bytes), 0, bytes);
    /* Shown is the loss of the text alone: it is what a reader of the log wants to know. */
    return model_training_loss(model, micro->ids, micro->targets, &o->training, records, shown);
}

static void language_model_after_step(void *self, StepReport *report) {
    LanguageModelObjective *o = self;
    report->load = metrics_expert_load(o->model);
    model_rebalance(o->model, o->bias_speed);
}
/* [/language_model_loss] */

Objective objective_language_model(LanguageModelObjective *self) {
    return (Objective){self, language_model_loss, language_model_after_step};
}
