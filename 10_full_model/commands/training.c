/*
 * Defaults that depend on other flags are -1 until all flags are read.
 */
#include "10_full_model/commands/training.h"

#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/model/sizes.h"
#include "10_full_model/train/whole.h"

#include "05_moe/experts.h"
#include "common/files/csv.h"
#include "common/files/files.h"
#include "common/program/plot.h"

#include <stdio.h>
#include <sys/stat.h>

StartFlags training_start_flags(bool *resume, double *minutes, bool *overwrite) {
    return (StartFlags){
        {OPT_FLAG("resume", 0, resume,
                  "Go on with the run in DIR: repeat its other flags, but --steps may change while "
                  "the learning rate has not begun to fall. Begins if there is none"),
         OPT_FLOAT("minutes", 0, "X", minutes, 0, 1e6,
                   "Stop after X minutes and save, as after Ctrl-C (default: do all steps)"),
         OPT_FLAG("overwrite", 0, overwrite, "Begin anew although DIR has a run, or a model"),
         OPT_END}};
}

RunStart training_start(bool resume, bool overwrite, char **argv) {
    if (resume && overwrite)
        options_error(argv, "--resume goes on and --overwrite begins anew; give one");
    return resume ? RUN_RESUME : overwrite ? RUN_OVERWRITE : RUN_NEW;
}

int64_t training_schedule_not_given(Schedule *s) {
    int64_t usual = s->warmup;
    s->warmup = -1, s->floor = -1;
    return usual;
}

void training_schedule_usual(Schedule *s, int64_t warmup) {
    if (s->floor < 0) s->floor = s->peak / 10;
    if (s->warmup < 0) s->warmup = warmup < s->steps / 4 ? warmup : s->steps / 4;
}

void training_check_schedule(const Schedule *s, char **argv) {
    if (!(s->peak > 0))
        options_error(argv, "--learning-rate 0 would leave every weight as it is; `deepseek eval` "
                            "measures a model without training it");
    if (s->floor > s->peak)
        options_error(argv, "--lowest-rate %g is above --learning-rate %g, which is the highest",
                      s->floor, s->peak);
    if (s->warmup + s->constant > s->steps)
        options_error(argv, "--warmup %lld and --constant %lld are more than all %lld steps",
                      (long long)s->warmup, (long long)s->constant, (long long)s->steps);
}

static bool same_folder(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

void training_check_source(const char *from, const char *out, char **argv) {
    if (same_folder(from, out) || same_folder(from, file_path(out, "last").text))
        options_error(argv,
                      "--out %s would write over %s, which is only read; choose another --out", out,
                      from);
}

/* ---- several ranks ---- */

int training_open_comm(Comm **comm, const CommonOptions *common, int kind, Error *err) {
    const CommOptions options = {.device = common->device, .kind = (CommKind)kind};
    if (comm_open(comm, &options, err)) return -1;
    if (comm_rank(*comm) > 0 && !freopen("/dev/null", "w", stdout))
        return error_set(err, "cannot open /dev/null");
    if (*comm) printf("%d ranks (%s)\n", comm_size(*comm), comm_make(*comm));
    return 0;
}

int training_open_context(Context *ctx, Comm *comm, const CommonOptions *common,
                          const RankOptions *ranks, Error *err) {
    int size = comm_size(comm), spread = ranks->expert_parallel;
    int status = comm && common->device == CUDA
                     ? context_init_gpu(ctx, comm_gpu(comm), common->dtype, common->seed, err)
                     : context_init(ctx, common->device, common->dtype, common->seed, err);
    if (status) return -1;
    ctx->comm = comm, ctx->rank = comm_rank(comm), ctx->size = size;
    if (comm && ctx->gpu) comm_use_gpu(comm, ctx->gpu);
    ctx->zero = ranks->zero && size > 1;
    ctx->ways = ranks->deterministic ? RANKS_SLOTS : size; /* one layout, one order of sums */
    if (size % spread)
        return error_set(err, "--expert-parallel %d does not divide %d rank%s", spread, size,
                         size == 1 ? "" : "s");
    if (spread > 1 && ranks->deterministic)
        return error_set(err, "--deterministic adds up each slot alone, and an expert that is "
                              "spread sees several at once: leave out one of it and "
                              "--expert-parallel");
    if (spread > 1) ctx->experts = comm_split(comm, ctx->rank / spread);
    ctx->spread = spread;
    return 0;
}

void training_close(Context *ctx, Comm *comm, int status) {
    if (status >= 0) {
        comm_close(ctx->experts);
        comm_close(comm);
    }
    context_free(ctx);
}

int training_check_folder(const char *out, RunStart start, const char *csv, Comm *comm,
                          Error *err) {
    RunFolder folder;
    int status = 0;
    if (comm_rank(comm) == 0) {
        status = run_folder_open(&folder, out, start, err);
        if (!status) run_folder_close(&folder);
        if (!status && csv) status = csv_check(csv, err);
    }
    return comm_agree(comm, status, err);
}

void training_note_quantised(const ModelConfig *cfg, const char *from) {
    if (cfg->quant_method != STORED_PLAIN)
        fprintf(stderr, "%s is quantised: training begins with the numbers its weights stand for\n",
                from);
}

int32_t training_begin(const Tokenizer *tokenizer, const ModelConfig *cfg) {
    int32_t begin = tokenizer_bos(tokenizer);
    if (begin < 0) begin = cfg->bos_token_id;
    return begin < 0 ? tokenizer_eot(tokenizer) : begin;
}

int training_check_memory(const ModelConfig *cfg, Context *ctx, int batch, int context_length,
                          const char *smaller, Error *err) {
    const double gib = 1073741824, sure = 0.8;
    TrainMemory m = size_to_train(cfg, ctx->dtype, batch, context_length);
    if (ctx->moments == BF16) m.moments /= 2;
    double model = m.weights + m.gradients + m.moments, room = (double)device_room(ctx->gpu);
    if (model + sure * m.activations <= room) return 0;
    return error_set(
        err,
        "training would need about %.1f GiB: %.1f for weights, gradients and moments "
        "(the model's size), %.1f for the activations of %d windows of %d tokens (%s). "
        "%s has %.1f GiB free",
        (model + m.activations) / gib, model / gib, m.activations / gib, batch, context_length,
        smaller, ctx->gpu ? "The GPU" : "This machine", room / gib);
}

/* ---- sparse models ---- */

int training_check_dsa(const TrainOptions *o, const ModelConfig *cfg, bool from, const char *flag,
                       Error *err) {
    IndexerStage stage;
    if (train_stage(&stage, o, cfg, err)) return -1;
    if (stage != INDEXER_WARMS_UP || from) return 0;
    return error_set(err,
                     "--dsa warmup teaches indexers what a trained model looks at; %s says "
                     "which",
                     flag);
}

/* Whose experts are spread: made whole on the host, where it has the numbers that one process would
 * give it, and each rank keeps its own. */
static int spread_model(Model *model, Context *ctx, const char *from, const ModelConfig *cfg,
                        const TrainOptions *o, IndexerStage stage, Error *err) {
    Whole whole;
    if (cfg->n_routed_experts == 0)
        return error_set(err, "--expert-parallel: this model has no experts");
    if (experts_check_spread(cfg->n_routed_experts, comm_size(ctx->experts), err)) return -1;
    if (context_init(&whole.ctx, CPU, F32, ctx->rng.seed, err)) return -1;
    whole.ctx.rng = ctx->rng, whole.ctx.moments = ctx->moments;
    int status = training_model(&whole.model, &whole.ctx, from, cfg, o, err);
    if (!status) status = model_register(model, ctx, &whole.model.cfg, err);
    if (!status) {
        indexers_train(&model->indexers, &model->params, stage, o->index_rate);
        status = model_allocate(model, true, err);
        if (!status)
            whole_distribute(&whole, NULL, model);
        else
            model_free(model);
    }
    whole_free(&whole);
    return status;
}

int training_model(Model *model, Context *ctx, const char *from, const ModelConfig *cfg,
                   const TrainOptions *o, Error *err) {
    IndexerStage stage;
    if (train_stage(&stage, o, cfg, err)) return -1;
    if (ctx->experts) return spread_model(model, ctx, from, cfg, o, stage, err);
    if (from) return checkpoint_load_to_train(model, ctx, from, cfg, stage, o->index_rate, err);
    if (model_register(model, ctx, cfg, err)) return -1;
    indexers_train(&model->indexers, &model->params, stage, o->index_rate);
    if (model_allocate(model, true, err)) {
        model_free(model);
        return -1;
    }
    model_randomize(model);
    return 0;
}

void training_say_sparse(const Model *model, const TrainOptions *o) {
    static const char *const doing[] = {
        [INDEXER_SELECTS] = "choose, and stay as they are",
        [INDEXER_WARMS_UP] = "learn what attention looks at, which sees all; nothing else moves",
        [INDEXER_LEARNS] = "choose what attention sees, and learn with the model"};
    if (!model->indexers.count) return;
    printf("The indexers %s.\n", doing[model->indexers.list[0].stage]);
    if (o->context_length <= model->cfg.index_topk)
        printf("They would pick %d tokens, and a window has %d: attention sees all, as in a dense "
               "model.\n",
               model->cfg.index_topk, o->context_length);
}

void training_report(const TrainOptions *o, const TrainResult *r, const char *from,
                     const char *resume) {
    long long steps = r->steps, all = o->schedule.steps;
    const char *stopped = r->interrupted == OUT_OF_TIME ? "The time is up" : "Stopped";
    if (r->steps == r->resumed_from)
        printf("All %lld steps of this run were done before; %s %s/last, with another --out, "
               "begins a new one from its weights\n",
               steps, from, o->out);
    else if (r->interrupted)
        printf("%s after %lld of %lld steps; all is saved.\n"
               "The same command with --resume%s goes on.\n",
               stopped, steps, all, resume);
    else
        printf("Done after %lld step%s\n", steps, steps == 1 ? "" : "s");
    if (r->best_step)
        printf("Best validation loss %.4f, at step %lld: that model is in %s\n",
               r->best_validation_loss, (long long)r->best_step, o->out);
    else
        printf("There was no validation yet (--eval-every %d), so no model is the best one\n",
               o->eval_interval);
    printf("The model of the last step is in %s/last\n", o->out);
}

void training_draw(const char *csv, const char *out, const ModelConfig *cfg,
                   const TrainOptions *o) {
    char path[1100];
    snprintf(path, sizeof path, "%s/loss", out);
    plot_or_explain("10_full_model/figures/loss", csv, path);
    snprintf(path, sizeof path, "%s/load", out);
    if (cfg->n_routed_experts) plot_or_explain("10_full_model/figures/load", csv, path);
    IndexerStage stage = INDEXER_SELECTS;
    snprintf(path, sizeof path, "%s/indexer", out);
    if (!train_stage(&stage, o, cfg, NULL) && stage != INDEXER_SELECTS)
        plot_or_explain("10_full_model/figures/indexer", csv, path);
}
