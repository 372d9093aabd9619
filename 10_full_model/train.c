#include "train.h"

#include "checkpoint.h"

#include "../common/progress.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

TrainOptions train_defaults(void) {
    return (TrainOptions){.steps = 1000,
                          .batch_size = 16,
                          .context_length = 64,
                          .accumulation = 1,
                          .warmup_steps = 50,
                          .learning_rate = 3e-3f,
                          .min_learning_rate = 3e-4f,
                          .adamw = adamw_defaults(),
                          .eval_interval = 100,
                          .eval_batches = 8};
}

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t interrupted; /* a signal handler can reach nothing else */

static void on_interrupt(int signal) { (void)signal, interrupted = 1; }

static void catch_interrupts(struct sigaction *old) {
    interrupted = 0;
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, old); /* a second Ctrl-C ends the program at once */
}

/* ---- loss ---- */

static Tensor *ids_tensor(Context *ctx, const char *name, const int32_t *ids, int batch,
                          int length) {
    return tensor_from(ctx, name, I32, ids, SHAPE(batch, length));
}

static float scalar(Context *ctx, const Tensor *t) {
    float value;
    tensor_download(ctx, &value, t);
    return value;
}

float validation_loss(Model *model, const Corpus *corpus, int windows, int batch_size,
                      int context_length) {
    Context *ctx = model->ctx;
    size_t tokens = (size_t)batch_size * (size_t)context_length;
    int32_t *inputs = malloc(2 * tokens * sizeof *inputs), *targets = inputs + tokens;
    if (!inputs) fatal("out of memory");
    double total = 0;
    for (int first = 0; first < windows; first += batch_size) {
        int batch = windows - first < batch_size ? windows - first : batch_size;
        for (int b = 0; b < batch; b++)
            corpus_validation(corpus, first + b, windows, context_length,
                              inputs + (size_t)b * context_length,
                              targets + (size_t)b * context_length);
        Tensor *loss = model_loss(model, ids_tensor(ctx, "ids", inputs, batch, context_length),
                                  ids_tensor(ctx, "targets", targets, batch, context_length));
        total += (double)scalar(ctx, loss) * batch;
        context_reset(ctx);
    }
    free(inputs);
    return (float)(total / windows);
}

/* ---- one step ---- */

typedef struct Trainer {
    Model *model;
    const Corpus *corpus;
    const TrainOptions *options;
    AdamW adamw;
    int32_t *inputs, *targets;
} Trainer;

/* [train_step] */
/* Returns the mean loss of the step's micro-batches; *norm is the gradient's norm before clipping. */
static float train_step(Trainer *t, int64_t step, float learning_rate, float *norm) {
    const TrainOptions *o = t->options;
    Context *ctx = t->model->ctx;
    double total = 0;
    params_zero_grad(&t->model->params);
    for (int micro = 0; micro < o->accumulation; micro++) {
        uint64_t first = ((uint64_t)step * o->accumulation + micro) * o->batch_size;
        corpus_batch(t->corpus, ctx->rng.seed, first, o->batch_size, o->context_length, t->inputs,
                     t->targets);
        ctx->recording = true;
        Tensor *ids = ids_tensor(ctx, "ids", t->inputs, o->batch_size, o->context_length);
        Tensor *targets = ids_tensor(ctx, "targets", t->targets, o->batch_size, o->context_length);
        Tensor *loss = model_loss(t->model, ids, targets);
        tape_backward(ctx, loss);
        ctx->recording = false;
        total += scalar(ctx, loss);
        context_reset(ctx);
    }
    *norm = adamw_step(&t->adamw, &t->model->params, learning_rate, 1.0f / o->accumulation);
    return (float)(total / o->accumulation);
}
/* [/train_step] */

/* ---- the loop ---- */

/* The large file first: whatever stops this, the folder's files belong together or loading says that they do not. */
static int save(Model *model, const TrainOptions *o, int64_t step, Error *err) {
    if (!o->out) return 0;
    if (checkpoint_save_weights(model, o->out, step, err) ||
        (o->tokenizer && checkpoint_save_setup(&model->cfg, o->tokenizer, o->out, err)))
        return error_prefix(err, "saving at step %lld: ", (long long)step);
    return 0;
}

static int not_finite(const TrainOptions *o, int64_t step, float loss, float norm, int64_t saved,
                      Error *err) {
    char kept[600] = "";
    if (o->out && saved >= 0)
        snprintf(kept, sizeof kept, " The weights of step %lld are safe in %s.", (long long)saved,
                 o->out);
    return error_set(
        err,
        "step %lld: the loss is %g and the gradient's norm %g; training cannot go on.%s "
        "Try a smaller --learning-rate or a longer --warmup",
        (long long)step, fabsf(loss), fabsf(norm), kept);
}

int train(Model *model, const Corpus *corpus, const TrainOptions *o, TrainResult *result,
          Error *err) {
    size_t tokens = (size_t)o->batch_size * (size_t)o->context_length;
    Trainer trainer = {.model = model, .corpus = corpus, .options = o, .adamw = o->adamw};
    trainer.inputs = malloc(2 * tokens * sizeof(int32_t));
    if (!trainer.inputs) fatal("out of memory");
    trainer.targets = trainer.inputs + tokens;
    *result = (TrainResult){.best_validation_loss = INFINITY, .validation_loss = NAN};
    struct sigaction old;
    catch_interrupts(&old);

    char rate[32] = "0";
    bool stop = false; /* Ctrl-C as it was seen when this step was judged */
    Progress progress = progress_start("training", o->steps);
    double started = seconds_now(), evaluating = 0, tail_loss = 0;
    int64_t saved = -1, tail_count = 0;
    int status = 0;
    for (int64_t step = 0; step < o->steps && !stop && !status; step++) {
        float lr = lr_warmup_cosine(step, o->warmup_steps, o->steps, o->learning_rate,
                                    o->min_learning_rate);
        float norm, loss = train_step(&trainer, step, lr, &norm);
        if (!isfinite(loss) || !isfinite(norm)) {
            status = not_finite(o, step + 1, loss, norm, saved, err);
            break;
        }
        result->steps = step + 1;
        double seconds = seconds_now() - started - evaluating;
        result->tokens_per_second = (double)(step + 1) * tokens * o->accumulation / seconds;
        if (step >= o->steps - (o->steps + 9) / 10) tail_loss += loss, tail_count++;

        stop = interrupted;
        bool last = step + 1 == o->steps || stop;
        bool evaluate = last || (step + 1) % o->eval_interval == 0;
        if (evaluate) {
            double before = seconds_now();
            result->validation_loss = validation_loss(
                model, corpus, o->eval_batches * o->batch_size, o->batch_size, o->context_length);
            if (!isfinite(result->validation_loss)) {
                status = not_finite(o, step + 1, result->validation_loss, norm, saved, err);
            } else if (result->validation_loss < result->best_validation_loss) {
                result->best_validation_loss = result->validation_loss;
                status = save(model, o, step + 1, err);
                if (!status) saved = step + 1;
            }
            evaluating += seconds_now() - before;
        }
        if (o->csv) {
            char validation[32] = "";
            if (evaluate) snprintf(validation, sizeof validation, "%.5f", result->validation_loss);
            csv_row(o->csv, "%lld,%.5f,%s,%.6g,%.4f,%.0f", (long long)step + 1, loss, validation,
                    lr, norm, result->tokens_per_second);
        }
        format_count(rate, sizeof rate, (int64_t)result->tokens_per_second);
        if (o->quiet) continue;
        char validation[32] = "";
        if (isfinite(result->validation_loss))
            snprintf(validation, sizeof validation, "validation %.3f  ", result->validation_loss);
        progress_update(&progress, step + 1, "loss %.3f  %s%s tokens/s", loss, validation, rate);
    }
    if (!status && !o->quiet)
        progress_finish(&progress, "validation loss %.3f, %s tokens/s", result->validation_loss,
                        rate);
    sigaction(SIGINT, &old, NULL);
    result->interrupted = stop;
    result->seconds = seconds_now() - started;
    result->loss = tail_count ? (float)(tail_loss / tail_count) : NAN;
    result->peak_bytes = context_peak_bytes(model->ctx);
    free(trainer.inputs);
    return status;
}
