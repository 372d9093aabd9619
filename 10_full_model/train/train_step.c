/*
 * Micro-batch m of step s has the windows from (s accumulation + m) batch_size on, so batches of
 * one size and four of a quarter see the same text. All that a micro-batch needs, its ids on the
 * host too, is in the arenas and goes with it.
 */
#include "10_full_model/train/train_step.h"

static MicroBatch next_micro_batch(const Trainer *t, int64_t number) {
    Context *ctx = t->params->ctx;
    size_t tokens = (size_t)t->batch_size * (size_t)t->context_length;
    int32_t *inputs = arena_alloc(&ctx->host, 2 * tokens * sizeof *inputs);
    source_batch(t->source, ctx->rng.seed, (uint64_t)number * t->batch_size, t->batch_size,
                 t->context_length, inputs, inputs + tokens);
    const int64_t shape[] = {t->batch_size, t->context_length};
    return (MicroBatch){tensor_copy_in(ctx, "ids", I32, inputs, shape, 2),
                        tensor_copy_in(ctx, "targets", I32, inputs + tokens, shape, 2)};
}

/* [train_step] */
void train_step(const Trainer *t, AdamW *adamw, StepReport *report) {
    Context *ctx = t->params->ctx;
    int64_t step = adamw->step;
    double total[OBJECTIVE_SHOWN] = {0};
    params_zero_grad(t->params);
    for (int micro = 0; micro < t->accumulation; micro++) {
        ctx->recording = true;
        MicroBatch batch = next_micro_batch(t, step * t->accumulation + micro);
        Tensor *shown[OBJECTIVE_SHOWN];
        tape_backward(ctx, t->objective.loss(t->objective.self, &batch, shown));
        for (int i = 0; i < t->objective.shown; i++) {
            float loss;
            tensor_download(ctx, &loss, shown[i]);
            total[i] += loss;
        }
        context_reset(ctx);
    }
    /* Were there several processes, they would add up their gradients here. */
    report->learning_rate = schedule_rate(&t->schedule, step);
    report->gradient_norm =
        adamw_step(adamw, t->params, report->learning_rate, 1.0f / t->accumulation);
    report->loss = (float)(total[0] / t->accumulation);
    for (int i = 1; i < t->objective.shown; i++)
        report->mtp_loss[i - 1] = (float)(total[i] / t->accumulation);
    report->step = step + 1;
    if (t->objective.after_step) t->objective.after_step(t->objective.self, report);
}
/* [/train_step] */
