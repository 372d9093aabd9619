/*
 * Trains at one length, asks at others. See trial.h.
 */
#include "07_rope/trial.h"

#include "common/core/ops.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

DecoderConfig trial_config(int vocab, int layers, int intermediate_size, MlaConfig attention) {
    return (DecoderConfig){.vocab_size = vocab,
                           .num_hidden_layers = layers,
                           .block = {.hidden_size = attention.hidden_size,
                                     .intermediate_size = intermediate_size,
                                     .rms_norm_eps = 1e-6f,
                                     .attention = ATTENTION_MLA,
                                     .mla = attention}};
}

void trial_randomize(Params *params, const Decoder *model) {
    float std = 1.0f / sqrtf((float)model->cfg.block.hidden_size);
    float down = 1.0f / sqrtf((float)model->cfg.block.intermediate_size);
    decoder_randomize(params, model, (DecoderStart){0.5f, std, std, down});
}

/* One step on `batch` stretches from anywhere in the training text. ids has room for twice
 * batch * length: the inputs and, behind them, the targets. */
static float train_step(Context *ctx, Params *params, const Decoder *model, const TrialText *text,
                        const Position *position, const TrialTraining *how, int step, int32_t *ids,
                        AdamW *adamw, float *norm) {
    int B = how->batch, T = how->length;
    int32_t *next = ids + (int64_t)B * T;
    for (int b = 0; b < B; b++) {
        double where = rng_uniform(how->seed, (uint64_t)step, (uint64_t)b);
        const int32_t *from = text->ids + (int64_t)(where * (double)(text->train - T - 1));
        memcpy(ids + (int64_t)b * T, from, (size_t)T * sizeof *ids);
        memcpy(next + (int64_t)b * T, from + 1, (size_t)T * sizeof *ids);
    }
    float loss;
    params_zero_grad(params);
    ctx->recording = true;
    Tensor *mean_loss =
        decoder_loss(ctx, model, tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, T)),
                     tensor_copy_in(ctx, "targets", I32, next, SHAPE(B, T)), position);
    tape_backward(ctx, mean_loss);
    tensor_download(ctx, &loss, mean_loss);
    const Schedule schedule = {how->steps, how->steps / 10 + 1, 0, how->learning_rate,
                               how->learning_rate / 10};
    *norm = adamw_step(adamw, params, schedule_rate(&schedule, step), 1.0f);
    context_reset(ctx);
    return loss;
}

int trial_train(Context *ctx, Params *params, const Decoder *model, const TrialText *text,
                const Position *position, const TrialTraining *how, Error *err) {
    CHECK(text->train > how->length + 1, "trial_train: %lld characters for stretches of %d",
          (long long)text->train, how->length);
    AdamW adamw = adamw_defaults();
    int32_t *ids = must_alloc(2 * (size_t)(how->batch * how->length), sizeof *ids);
    Progress progress = progress_start(how->label, how->steps);
    double started = seconds_now(), recent = 0; /* the mean of the last 20 steps or so */
    int failed = 0;
    for (int step = 0; step < how->steps; step++) {
        float norm;
        float loss = train_step(ctx, params, model, text, position, how, step, ids, &adamw, &norm);
        failed = !isfinite(loss) || !isfinite(norm);
        if (failed) {
            error_set(err, "%s: the loss is %g at step %d; try another --seed", how->label, loss,
                      step);
            break;
        }
        if (how->losses) how->losses[step] = loss;
        recent += (loss - recent) * fmax(1.0 / (step + 1), 0.05);
        progress_update(&progress, step + 1, "loss %.3f  %.0f characters/s", loss,
                        (step + 1.0) * how->batch * how->length / (seconds_now() - started));
    }
    /* Either way: a line that is still open would have the message printed behind its bar. */
    if (failed)
        progress_finish(&progress, "and stopped");
    else
        progress_finish(&progress, "loss %.3f", recent);
    free(ids);
    return failed ? -1 : 0;
}

double trial_perplexity(Context *ctx, const Decoder *model, const TrialText *text,
                        const Position *position, int length, int longest, int windows) {
    enum { CHARACTERS = 8192 }; /* in one pass: enough for two cores, and little memory */
    int64_t first_end = text->train + longest, room = text->count - 1 - first_end;
    CHECK(length >= TRIAL_LAST && length <= longest && room >= 0 && windows > 0,
          "trial_perplexity: %d of %d in %lld characters", length, longest,
          (long long)(text->count - text->train));
    int batch = CHARACTERS / length > 0 ? CHARACTERS / length : 1;
    int32_t *ids = must_alloc(2 * (size_t)(batch * length), sizeof *ids),
            *next = ids + (int64_t)batch * length;
    double sum = 0;
    for (int done = 0; done < windows;) {
        int B = windows - done < batch ? windows - done : batch;
        for (int b = 0; b < B; b++) {
            int64_t end = first_end + room * (done + b) / windows; /* the last input is before it */
            int32_t *row = ids + (int64_t)b * length, *target = next + (int64_t)b * length;
            memcpy(row, text->ids + end - length, (size_t)length * sizeof *row);
            memcpy(target, text->ids + end - length + 1, (size_t)length * sizeof *row);
            for (int t = 0; t < length - TRIAL_LAST; t++) target[t] = IGNORE_TARGET;
        }
        float loss;
        tensor_download(
            ctx, &loss,
            decoder_loss(ctx, model, tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, length)),
                         tensor_copy_in(ctx, "targets", I32, next, SHAPE(B, length)), position));
        sum += (double)loss * B; /* each window has the same number of targets */
        context_reset(ctx);
        done += B;
    }
    free(ids);
    return exp(sum / windows);
}
