/*
 * The language model's objective. The load of the experts is read before the biases move: moving
 * them begins a new count.
 */
#include "10_full_model/train/objective.h"

/*
 * What sends padding to no expert, and counts it nowhere, in all layers; NULL: there is none. (A
 * router that is told anything has no balance loss of that micro-batch, for that would be about
 * padding, too.)
 */
static const Tensor *const *without_padding(const Model *model, const MicroBatch *micro) {
    Context *ctx = model->ctx;
    int64_t B = tensor_dim(micro->ids, 0), T = tensor_dim(micro->ids, 1);
    int K = model->cfg.num_experts_per_tok, layers = model->cfg.num_hidden_layers;
    if (!micro->lengths || model->cfg.n_routed_experts == 0) return NULL;
    int32_t *rows = arena_alloc(&ctx->host, (size_t)(B * T * K) * sizeof *rows);
    for (int64_t i = 0; i < B * T * K; i++)
        rows[i] = i / K % T < micro->lengths[i / K / T] ? ROUTE_FREE : ROUTE_NOBODY;
    const Tensor **replay = arena_alloc(&ctx->host, (size_t)layers * sizeof *replay);
    replay[0] = tensor_copy_in(ctx, "no padding", I32, rows, SHAPE(B * T, K));
    for (int i = 1; i < layers; i++) replay[i] = replay[0];
    return replay;
}

/* [language_model_loss] */
static Tensor *language_model_loss(void *self, const MicroBatch *micro, Tensor **shown) {
    const LanguageModelObjective *o = self;
    Model *model = o->model;
    const DecoderRun run = {.position = model_position(model),
                            .replay = without_padding(model, micro),
                            .training = &o->training};
    /* Shown are the losses of the text alone: they are what a reader of the log wants to know. */
    Tensor *loss = mtp_training_loss(model->ctx, &model->mtp, micro->ids, micro->targets, &run,
                                     &o->mtp, shown);
    if (o->stage == INDEXER_SELECTS) return loss;
    return indexers_add_losses(model->ctx, &model->indexers,
                               o->stage == INDEXER_LEARNS ? loss : NULL, o->index_loss);
}

static void language_model_after_step(void *self, StepReport *report) {
    LanguageModelObjective *o = self;
    Context *ctx = o->model->ctx;
    decoder_share_load(ctx, &o->model->decoder);
    mtp_share_load(ctx, &o->model->mtp);
    indexers_share_measures(&o->model->indexers, ctx->comm);
    report->load = metrics_expert_load(o->model);
    float speed = o->stage == INDEXER_WARMS_UP ? 0 : o->bias_speed; /* the count begins anew */
    decoder_rebalance(ctx, &o->model->decoder, speed);
    mtp_rebalance(ctx, &o->model->mtp, speed);
}
/* [/language_model_loss] */

Objective objective_language_model(LanguageModelObjective *self) {
    return (Objective){self, 1 + self->model->mtp.depth, language_model_loss,
                       language_model_after_step};
}
