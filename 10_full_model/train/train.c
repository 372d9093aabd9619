/*
 * The loop: a step, its row of metrics, and where they are due a validation and a save. Ctrl-C
 * sets a flag that is looked at between two steps. What is saved goes in an order that leaves a
 * whole run behind at every moment: the models first, and last the state, which says what they
 * are.
 */
#include "10_full_model/train/train.h"

#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/train/interrupt.h"
#include "10_full_model/train/train_flags.h"

#include "08_quant/fp8.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

TrainOptions train_defaults(void) {
    return (TrainOptions){.schedule = {.steps = 1000, .warmup = 50, .peak = 3e-3f, .floor = 3e-4f},
                          .batch_size = 16,
                          .context_length = 64,
                          .accumulation = 1,
                          .adamw = adamw_defaults(),
                          .balance_alpha = 1e-4f,
                          .mtp_lambda = 0.3f,
                          .bias_speed = 1e-3f,
                          .index_loss = 1,
                          .index_rate = 1,
                          .eval_interval = 100,
                          .eval_batches = 8};
}

int train_stage(IndexerStage *stage, const TrainOptions *o, const ModelConfig *cfg, Error *err) {
    static const IndexerStage stages[] = {INDEXER_LEARNS, INDEXER_SELECTS, INDEXER_WARMS_UP,
                                          INDEXER_LEARNS};
    *stage = INDEXER_SELECTS;
    if (config_is_sparse(cfg)) *stage = stages[o->dsa];
    if (config_is_sparse(cfg) || o->dsa == DSA_AUTO) return 0;
    return error_set(err, "--dsa is about indexers, and a %s model has none%s",
                     config_type_names[cfg->model_type],
                     cfg->model_type != DEEPSEEK_V3 || !cfg->q_lora_rank
                         ? ", nor can it get any: they need a deepseek_v3 model with q_lora_rank"
                         : ": `deepseek convert --add-indexer` gives it some");
}

/* ---- loss ---- */

static Tensor *ids_tensor(Context *ctx, const char *name, const int32_t *ids, int batch,
                          int length) {
    return tensor_copy_in(ctx, name, I32, ids, SHAPE(batch, length));
}

static float scalar(Context *ctx, const Tensor *t) {
    float value;
    tensor_download(ctx, &value, t);
    return value;
}

/* Of the next token alone, or of the modules' too. */
static void validate(Model *model, const TokenSource *source, int windows, int batch_size,
                     int context_length, const MtpTraining *mtp, float *losses) {
    Context *ctx = model->ctx;
    const DecoderRun run = {.position = model_position(model)};
    size_t tokens = (size_t)batch_size * (size_t)context_length;
    int32_t *inputs = must_alloc(2 * tokens, sizeof *inputs), *targets = inputs + tokens;
    double total[OBJECTIVE_SHOWN] = {0};
    int shown = mtp ? 1 + model->mtp.depth : 1;
    for (int first = 0; first < windows; first += batch_size) {
        int batch = windows - first < batch_size ? windows - first : batch_size;
        for (int b = 0; b < batch; b++)
            source_validation(source, first + b, windows, context_length,
                              inputs + (size_t)b * context_length,
                              targets + (size_t)b * context_length);
        Tensor *ids = ids_tensor(ctx, "ids", inputs, batch, context_length);
        Tensor *next = ids_tensor(ctx, "targets", targets, batch, context_length);
        Tensor *parts[OBJECTIVE_SHOWN];
        if (mtp)
            mtp_training_loss(ctx, &model->mtp, ids, next, &run, mtp, parts);
        else
            parts[0] = model_loss(model, ids, next);
        for (int i = 0; i < shown; i++) total[i] += (double)scalar(ctx, parts[i]) * batch;
        context_reset(ctx);
    }
    free(inputs);
    for (int i = 0; i < shown; i++) losses[i] = (float)(total[i] / windows);
}

float train_validation_loss(Model *model, const TokenSource *source, int windows, int batch_size,
                            int context_length) {
    float loss;
    validate(model, source, windows, batch_size, context_length, NULL, &loss);
    return loss;
}

void train_validation_losses(Model *model, const TokenSource *source, int windows, int batch_size,
                             int context_length, int32_t end, float losses[OBJECTIVE_SHOWN]) {
    validate(model, source, windows, batch_size, context_length, &(MtpTraining){.end = end},
             losses);
}

/* ---- a run ---- */

typedef struct Run {
    Trainer trainer;
    LanguageModelObjective objective;
    Model *model;
    const TokenSource *source;
    const TrainOptions *options;
    TrainingState state;
    Settings settings; /* that a resumed run must share */
    RunFolder folder;
    Metrics metrics;
    double step_tokens;
    int64_t saved; /* the last step that was; -1: none */
} Run;

static int not_finite(const Run *run, int64_t step, float loss, float norm, Error *err) {
    char kept[700] = "";
    if (run->options->out && run->saved >= 0)
        snprintf(kept, sizeof kept, " What was saved at step %lld is safe in %s.",
                 (long long)run->saved, run->options->out);
    return error_set(
        err,
        "step %lld: the loss is %g and the gradient's norm %g; training cannot go on.%s "
        "Try a smaller --learning-rate or a longer --warmup",
        (long long)step, fabsf(loss), fabsf(norm), kept);
}

/* ---- saving and resuming ---- */

Settings train_settings(const Model *model, const TokenSource *source, const TrainOptions *o) {
    Settings settings = {0}, *s = &settings;
    uint64_t seed = model->ctx->rng.seed;
    settings_of_model(s, &model->cfg);
    settings_integer(s, "seed", (int64_t)seed);
    settings_text(s, "--device", device_name(model->ctx->device));
    settings_text(s, "--dtype", dtype_name(model->ctx->dtype));
    TrainOptions flags = *o;
    TrainFlags table = train_flags(&flags);
    for (const Option *row = table.rows; row->kind != OPTION_END; row++) {
        char name[40];
        snprintf(name, sizeof name, "--%s", row->name ? row->name : "");
        if (row->setting) settings_text(s, name, option_text(row).text);
    }
    settings_number(s, "beta1", o->adamw.beta1);
    settings_number(s, "beta2", o->adamw.beta2);
    settings_number(s, "eps", o->adamw.eps);
    settings_integer(s, "training tokens", source->train_tokens);
    settings_integer(s, "validation tokens", source->validation_tokens);
    /* The same text has the same first batch; another one of the same length hardly. */
    size_t tokens = (size_t)o->batch_size * (size_t)o->context_length;
    int32_t *inputs = must_alloc(2 * tokens, sizeof *inputs);
    source_batch(source, seed, 0, o->batch_size, o->context_length, inputs, inputs + tokens);
    Hash128 hash = hash128(inputs, tokens * sizeof *inputs, 0);
    settings_text(s, "hash of the first batch", hash128_text(hash).text);
    free(inputs);
    return settings;
}

static int save_model(const Run *run, const char *directory, Error *err) {
    const SaveOptions options = {.dtype = F32, .step = run->state.adamw.step};
    const Tokenizer *tokenizer = run->options->tokenizer;
    return tokenizer ? checkpoint_save(run->model, tokenizer, directory, &options, err)
                     : checkpoint_write_weights(run->model, directory, &options, err);
}

/* The state last: when it says that a model is the best so far, that model is there. */
static int save(Run *run, bool best, Error *err) {
    if (!run->options->out) return 0;
    int64_t step = run->state.adamw.step;
    if ((best && save_model(run, run->folder.best, err)) ||
        save_model(run, run->folder.last, err) ||
        training_state_save(run->model, &run->state, &run->settings, run->folder.last, err) ||
        run_folder_saved(&run->folder, err))
        return error_prefix(err, "saving at step %lld: ", (long long)step);
    run->saved = step;
    return 0;
}

static int load_state(Run *run, Error *err) {
    if (training_state_load(run->model, &run->state, &run->settings, run->folder.last, err))
        return -1;
    int64_t done = run->state.adamw.step, steps = run->options->schedule.steps;
    if (done <= steps) return 0;
    return error_set(err, "%s: by its training.safetensors %lld steps of %lld are done",
                     run->folder.last, (long long)done, (long long)steps);
}

/* Opens the folder, and loads the state in it or sees that there is none to lose. */
static int open_run(Run *run, Error *err) {
    const TrainOptions *o = run->options;
    run->state = (TrainingState){
        .adamw = o->adamw, .schedule = o->schedule, .best_validation_loss = INFINITY};
    if (o->out) {
        if (run_folder_open(&run->folder, o->out, o->start, err)) return -1;
        bool resumed = run_folder_has_state(o->out) && o->start == RUN_RESUME;
        if (resumed ? load_state(run, err) : run_folder_begin(&run->folder, err)) return -1;
    }
    run->saved = run->state.adamw.step ? run->state.adamw.step : -1;
    return metrics_open(&run->metrics, o->csv, run->model, o->context_length, run->state.adamw.step,
                        o->peak, err);
}

/* ---- the loop ---- */

/*
 * After a step: validation if it is due, and saving. stop: there will be no other step. A model
 * that is to be saved is looked at first; but where an undisturbed run would not look, a stopped
 * one tells nobody what it saw and chooses no best by it, so that all of its numbers agree.
 */
static int judge(Run *run, StepReport *report, bool stop, float *validation, Error *err) {
    const TrainOptions *o = run->options;
    report->validation_loss = NAN;
    bool due = report->step % o->eval_interval == 0 || report->step == o->schedule.steps;
    if (due || stop) {
        float loss = train_validation_loss(run->model, run->source, o->eval_batches * o->batch_size,
                                           o->batch_size, o->context_length);
        if (!isfinite(loss)) return not_finite(run, report->step, loss, report->gradient_norm, err);
        if (due) *validation = report->validation_loss = loss;
    }
    bool best = due && *validation < run->state.best_validation_loss;
    if (best) {
        run->state.best_validation_loss = *validation;
        run->state.best_step = report->step;
    }
    metrics_row(&run->metrics, report);
    return due || stop ? save(run, best, err) : 0;
}

static void show(Progress *progress, const StepReport *report, float validation, double rate) {
    char known[32] = "", number[32];
    if (isfinite(validation)) snprintf(known, sizeof known, "validation %.3f  ", validation);
    progress_update(progress, report->step, "loss %.3f  %s%s tokens/s", report->loss, known,
                    format_count(number, sizeof number, (int64_t)rate));
}

static int run_steps(Run *run, TrainResult *result, Error *err) {
    const TrainOptions *o = run->options;
    int64_t first = run->state.adamw.step, steps = o->schedule.steps, tail_count = 0;
    double training = 0, tail_loss = 0; /* seconds in steps; losses of the run's last tenth */
    int status = 0;
    if (first == steps) return 0; /* a finished run was resumed */
    if (first && !o->quiet)
        fprintf(stderr, "going on behind step %lld of %lld\n", (long long)first, (long long)steps);
    Progress progress = progress_start("training", steps);
    progress_skip(&progress, first);
    for (int stop = 0; run->state.adamw.step < steps && !stop;) {
        StepReport report;
        double begin = seconds_now();
        train_step(&run->trainer, &run->state.adamw, &report);
        double seconds = seconds_now() - begin;
        if (!isfinite(report.loss) || !isfinite(report.gradient_norm)) {
            status = not_finite(run, report.step, report.loss, report.gradient_norm, err);
            break;
        }
        training += seconds;
        report.tokens_per_second = run->step_tokens / seconds;
        result->steps = report.step;
        result->tokens_per_second = (double)(report.step - first) * run->step_tokens / training;
        if (report.step > steps - (steps + 9) / 10) tail_loss += report.loss, tail_count++;

        bool late = o->minutes > 0 && seconds_now() - progress.started >= 60 * o->minutes;
        if (report.step < steps)
            stop = interrupt_signal() ? interrupt_signal() : late ? OUT_OF_TIME : 0;
        status = judge(run, &report, stop, &result->validation_loss, err);
        if (status) break;
        result->interrupted = stop;
        if (!o->quiet) show(&progress, &report, result->validation_loss, result->tokens_per_second);
    }
    if (tail_count) result->loss = (float)(tail_loss / tail_count);
    char rate[32];
    format_count(rate, sizeof rate, (int64_t)result->tokens_per_second);
    if (!o->quiet && (status || result->interrupted)) /* the message has a line of its own */
        progress_stop(&progress, "%s tokens/s", rate);
    else if (!o->quiet)
        progress_finish(&progress, "validation loss %.3f, %s tokens/s", result->validation_loss,
                        rate);
    return status;
}

int train_run(Model *model, const TokenSource *source, const TrainOptions *o, TrainResult *result,
              Error *err) {
    Run run = {
        .model = model,
        .source = source,
        .options = o,
        .objective = {.model = model,
                      .training = {.dropout = o->dropout,
                                   .losses = {.aux_loss_alpha = o->balance_alpha, .seq_aux = true}},
                      .mtp = {o->mtp_lambda, o->tokenizer ? tokenizer_eot(o->tokenizer) : -1},
                      .bias_speed = o->bias_speed,
                      .stage =
                          model->indexers.count ? model->indexers.list[0].stage : INDEXER_SELECTS,
                      .index_loss = o->index_loss},
        .settings = train_settings(model, source, o),
        .step_tokens = (double)o->batch_size * o->context_length * o->accumulation};
    run.trainer = (Trainer){.params = &model->params,
                            .objective = objective_language_model(&run.objective),
                            .source = source,
                            .schedule = o->schedule,
                            .batch_size = o->batch_size,
                            .context_length = o->context_length,
                            .accumulation = o->accumulation};
    if (model->cfg.trained_context_length < o->context_length)
        model->cfg.trained_context_length = o->context_length;
    *result = (TrainResult){.validation_loss = NAN, .loss = NAN};
    double started = seconds_now();

    CHECK(o->bf16_moments == (model->params.moments == BF16), "train: moments in %s",
          dtype_name(model->params.moments));
    int status = o->fp8 ? fp8_check(model->ctx, err) : 0;
    if (!status)
        status = block_training_check(&run.objective.training, &model->decoder.cfg.block, err);
    if (!status)
        status = mtp_training_check(&run.objective.mtp, model->mtp.depth, o->context_length, err);
    if (!status) status = open_run(&run, err);
    if (!status) {
        result->steps = result->resumed_from = run.state.adamw.step;
        model->ctx->products = o->fp8 ? &fp8_products : NULL;
        interrupt_catch();
        status = run_steps(&run, result, err);
        interrupt_release();
        model->ctx->products = NULL;
        Error csv_error;
        if (metrics_close(&run.metrics, &csv_error) && !status)
            status = error_set(err, "%s", csv_error.text);
    }
    result->best_validation_loss = run.state.best_validation_loss;
    result->best_step = run.state.best_step;
    result->seconds = seconds_now() - started;
    result->peak_bytes = context_peak_bytes(model->ctx);
    run_folder_close(&run.folder);
    return status;
}
