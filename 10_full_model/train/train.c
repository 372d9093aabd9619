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
#include "10_full_model/train/whole.h"

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
                          .ranks = {.expert_parallel = 1},
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

typedef struct Validation {
    Model *model;
    const TokenSource *source;
    int windows, batch_size, context_length;
    const MtpTraining *mtp; /* NULL: the next token alone */
} Validation;

/* Losses of batch number `at`, times its windows. */
static void validate_batch(const Validation *v, int at, int shown, double *losses) {
    Context *ctx = v->model->ctx;
    const DecoderRun run = {.position = model_position(v->model)};
    int length = v->context_length, first = at * v->batch_size;
    int batch = v->windows - first < v->batch_size ? v->windows - first : v->batch_size;
    size_t tokens = (size_t)batch * (size_t)length;
    int32_t *inputs = must_alloc(2 * tokens, sizeof *inputs), *targets = inputs + tokens;
    for (int b = 0; b < batch; b++)
        source_validation(v->source, first + b, v->windows, length, inputs + (size_t)b * length,
                          targets + (size_t)b * length);
    Tensor *ids = ids_tensor(ctx, "ids", inputs, batch, length);
    Tensor *next = ids_tensor(ctx, "targets", targets, batch, length);
    Tensor *parts[OBJECTIVE_SHOWN];
    if (v->mtp)
        mtp_training_loss(ctx, &v->model->mtp, ids, next, &run, v->mtp, parts);
    else
        parts[0] = model_loss(v->model, ids, next);
    for (int i = 0; i < shown; i++) losses[i] = (double)scalar(ctx, parts[i]) * batch;
    context_reset(ctx);
    free(inputs);
}

/* Ranks take turns, a batch each; where there are too few, the last is computed again, for its
 * experts may be spread, and counts once. */
static void validate(const Validation *v, float *losses) {
    Comm *comm = v->model->ctx->comm;
    int ranks = comm_size(comm), batches = (v->windows + v->batch_size - 1) / v->batch_size;
    int shown = v->mtp ? 1 + v->model->mtp.depth : 1;
    double total[OBJECTIVE_SHOWN] = {0}, mine[OBJECTIVE_SHOWN] = {0};
    double *all = must_alloc((size_t)ranks, sizeof mine);
    for (int first = 0; first < batches; first += ranks) {
        int at = first + comm_rank(comm);
        validate_batch(v, at < batches ? at : batches - 1, shown, mine);
        comm_gather_host(comm, all, mine, sizeof mine);
        for (int r = 0; r < ranks && first + r < batches; r++)
            for (int i = 0; i < shown; i++) total[i] += all[r * OBJECTIVE_SHOWN + i];
    }
    free(all);
    for (int i = 0; i < shown; i++) losses[i] = (float)(total[i] / v->windows);
}

float train_validation_loss(Model *model, const TokenSource *source, int windows, int batch_size,
                            int context_length) {
    float loss;
    validate(&(Validation){model, source, windows, batch_size, context_length, NULL}, &loss);
    return loss;
}

void train_validation_losses(Model *model, const TokenSource *source, int windows, int batch_size,
                             int context_length, int32_t end, float losses[OBJECTIVE_SHOWN]) {
    const MtpTraining mtp = {.end = end};
    validate(&(Validation){model, source, windows, batch_size, context_length, &mtp}, losses);
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
    error_set(err,
              "step %lld: the loss is %g and the gradient's norm %g; training cannot go on.%s "
              "Try a smaller --learning-rate or a longer --warmup",
              (long long)step, fabsf(loss), fabsf(norm), kept);
    return comm_agree(run->model->ctx->comm, -1, err); /* all see it, and one says it */
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
    settings_text(s, "--deterministic", o->ranks.deterministic ? "yes" : "no");
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

static int save_model(const Run *run, Model *model, const char *directory, const char *same_as,
                      Error *err) {
    const SaveOptions options = {.dtype = F32, .step = run->state.adamw.step, .same_as = same_as};
    const Tokenizer *tokenizer = run->options->tokenizer;
    return tokenizer ? checkpoint_save(model, tokenizer, directory, &options, err)
                     : checkpoint_write_weights(model, directory, &options, err);
}

/* The state last: when it says that a model is the best so far, that model is there. */
static int write(Run *run, Model *model, bool best, Error *err) {
    const char *same_as = best ? run->folder.best : NULL;
    if ((best && save_model(run, model, run->folder.best, NULL, err)) ||
        save_model(run, model, run->folder.last, same_as, err) ||
        training_state_save(model, &run->state, &run->settings, run->folder.last, err) ||
        run_folder_saved(&run->folder, err))
        return error_prefix(err, "saving at step %lld: ", (long long)run->state.adamw.step);
    return 0;
}

/* By rank 0; the others hear how it went, and give what they alone have. */
static int save(Run *run, bool best, Error *err) {
    Model *model = run->model;
    Whole whole = {0};
    if (!run->options->out) return 0;
    int status = whole_collect(&whole, run->trainer.ranks, model, err);
    if (!status && comm_rank(model->ctx->comm) == 0)
        status = write(run, whole.model.ctx ? &whole.model : model, best, err);
    whole_free(&whole);
    if (comm_agree(model->ctx->comm, status, err)) return -1;
    run->saved = run->state.adamw.step;
    return 0;
}

static int load_state(Run *run, Error *err) {
    Model *model = run->model;
    const char *last = run->folder.last;
    Whole whole = {0};
    int status = whole_open(&whole, model, err);
    if (!status)
        status = training_state_load(whole.model.ctx ? &whole.model : model, &run->state,
                                     &run->settings, last, err);
    if (!status) whole_distribute(&whole, run->trainer.ranks, model);
    whole_free(&whole);
    if (status) return -1;
    int64_t done = run->state.adamw.step, steps = run->options->schedule.steps;
    if (done <= steps) return 0;
    return error_set(err, "%s: by its training.safetensors %lld steps of %lld are done", last,
                     (long long)done, (long long)steps);
}

/* All load the state that is in the folder, or none does. */
static int open_folder(Run *run, Error *err) {
    const TrainOptions *o = run->options;
    Comm *comm = run->model->ctx->comm;
    bool resumed;
    if (run_folder_open_shared(&run->folder, o->out, o->start, comm, &resumed, err)) return -1;
    return comm_agree(comm, resumed ? load_state(run, err) : 0, err);
}

/* Loads the state in the folder or sees that there is none to lose. */
static int open_run(Run *run, Error *err) {
    const TrainOptions *o = run->options;
    bool first = comm_rank(run->model->ctx->comm) == 0;
    run->state = (TrainingState){
        .adamw = o->adamw, .schedule = o->schedule, .best_validation_loss = INFINITY};
    if (o->out && open_folder(run, err)) return -1;
    run->saved = run->state.adamw.step ? run->state.adamw.step : -1;
    int status = metrics_open(&run->metrics, first ? o->csv : NULL, run->model, o->context_length,
                              run->state.adamw.step, o->peak, err);
    return comm_agree(run->model->ctx->comm, status, err);
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
    Comm *comm = run->model->ctx->comm;
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
        comm_step(comm, run->state.adamw.step + 1);
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
            stop = run_folder_stop(comm, interrupt_signal() ? interrupt_signal()
                                         : late             ? OUT_OF_TIME
                                                            : 0);
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

/* Before the first step: all ranks are about to do the same. */
static int ranks_agree(const Run *run, Error *err) {
    const RankOptions *r = &run->options->ranks;
    char how[200];
    snprintf(how, sizeof how, "%s--expert-parallel %d%s", r->zero ? "--zero " : "",
             r->expert_parallel, r->in_turn ? " --no-overlap" : "");
    return settings_agree(run->model->ctx->comm, &run->settings, &run->options->schedule, how, err);
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
                            .context_length = o->context_length};
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
    if (!status)
        status = step_cut(&run.trainer.cut, model->ctx, o->batch_size, o->accumulation,
                          o->ranks.deterministic, err);
    if (!status) status = ranks_agree(&run, err);
    const RanksOptions ranks = {
        .in_turn = o->ranks.in_turn, .slots = o->ranks.deterministic, .bucket = o->ranks.bucket};
    if (!status) run.trainer.ranks = ranks_open(&model->params, &ranks);
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
    ranks_close(run.trainer.ranks);
    return status;
}
