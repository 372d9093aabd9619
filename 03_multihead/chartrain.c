/*
 * One step, and the loop around it. What is shown in the end is about the mean loss of the last 20
 * steps: that of a single one depends on its text.
 */
#include "03_multihead/chartrain.h"

#include "common/program/progress.h"

#include <math.h>

/* Returns the loss; NaN if the gradient is not finite. */
static float train_step(Context *ctx, Params *params, const CharText *text, const CharTraining *how,
                        AdamW *adamw, int step) {
    Tensor *ids, *targets, *shown = NULL;
    float value;
    params_zero_grad(params);
    chartext_batch(text, ctx, how->rng, how->batch, how->length, &ids, &targets);
    ctx->recording = true;
    Tensor *loss = how->loss(ctx, how->user, ids, targets, &shown);
    tape_backward(ctx, loss);
    tensor_download(ctx, &value, shown ? shown : loss);
    float norm = adamw_step(adamw, params, schedule_rate(&how->schedule, step), 1.0f);
    if (how->after) how->after(ctx, how->user, step);
    context_reset(ctx);
    return isfinite(norm) ? value : NAN;
}

int chartrain(Context *ctx, Params *params, const CharText *text, const CharTraining *how,
              Error *err) {
    CHECK(text->train > how->length + 1, "chartrain: %lld characters for stretches of %d",
          (long long)text->train, how->length);
    AdamW adamw = adamw_defaults();
    Progress progress = progress_start(how->label, how->schedule.steps);
    double recent = 0;
    for (int step = 0; step < how->schedule.steps; step++) {
        float loss = train_step(ctx, params, text, how, &adamw, step);
        if (!isfinite(loss)) {
            progress_stop(&progress, NULL);
            return error_set(err, "%s: the loss is %g at step %d; try another --seed", how->label,
                             loss, step);
        }
        if (how->losses) how->losses[step] = loss;
        recent += (loss - recent) * fmax(1.0 / (step + 1), 0.05);
        progress_update(&progress, step + 1, "loss %.3f  %.0f characters/s", loss,
                        (step + 1.0) * how->batch * how->length /
                            (seconds_now() - progress.started));
    }
    progress_finish(&progress, "loss %.3f", recent);
    return 0;
}
