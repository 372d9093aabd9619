/*
 * The model timed as a whole: a training step, and decoding from the cache, as shares of what the
 * machine can do.
 */
#include "10_full_model/generate/decode_graph.h"
#include "10_full_model/train/train.h"

#include "common/core/ops.h"
#include "common/files/csv.h"
#include "common/program/bench.h"
#include "common/program/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct ModelBenchOptions {
    CommonOptions common;
    const char *config, *profile;
    int batch, context, vocab;
    double seconds;
} ModelBenchOptions;

/* What --profile may name. */
static const char *const works[] = {"forward", "train", "decode", "batch"};
enum { WORKS = sizeof works / sizeof *works };

static error_t parse(int key, char *text, struct argp_state *state) {
    ModelBenchOptions *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->common;
        return 0;
    case 'c':
        o->config = text;
        return 0;
    case 'b':
        o->batch = (int)option_integer(state, "--batch", text, 1, 65536);
        return 0;
    case 't':
        o->context = (int)option_integer(state, "--context", text, 2, 1 << 20);
        return 0;
    case 'v':
        o->vocab = (int)option_integer(state, "--vocab", text, 2, 1 << 20);
        return 0;
    case 'p':
        o->profile = text;
        for (int i = 0; i < WORKS; i++)
            if (!strcmp(text, works[i])) return 0;
        argp_error(state, "--profile '%s': it must be forward, train, decode or batch", text);
        return EINVAL;
    case 's':
        o->seconds = option_number(state, "--seconds", text, 0.01, 1000);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option flags[] = {
    {"config", 'c', "NAME", 0, "Size of the model (default nano)", 0},
    {"batch", 'b', "N", 0, "Windows in a step (default 16)", 0},
    {"context", 't', "N", 0, "Tokens in a window (default 64)", 0},
    {"vocab", 'v', "N", 0, "Size of the vocabulary (default 2048)", 0},
    {"profile", 'p', "WORK", 0,
     "Only this, for a profiler: forward, train, decode or batch, once between cudaProfilerStart "
     "and "
     "cudaProfilerStop (see tools/kernels.py)",
     0},
    {"seconds", 's', "X", 0, "Time for each row (default 3)", 0},
    {0}};

enum { MOST_ROWS = 4 };

typedef struct Work {
    Model model;
    AdamW adamw;
    int32_t *ids;
    int batch, context;
    MoeRecord *records;
} Work;

/* Sequences that are continued greedily, `steps` tokens at a time. */
typedef struct Decoding {
    Work *work;
    BlockCache *caches;
    DecodeGraph graph;
    int prompt, steps; /* tokens in each sequence before, and new ones */
    int32_t *tokens;   /* [steps, batch] */
} Decoding;

static void step(Context *ctx, void *user) {
    Work *w = user;
    Tensor *loss;
    params_zero_grad(&w->model.params);
    ctx->recording = true;
    Tensor *ids = tensor_copy_in(ctx, "ids", I32, w->ids, SHAPE(w->batch, w->context));
    Tensor *targets = tensor_copy_in(ctx, "targets", I32, w->ids + 1, SHAPE(w->batch, w->context));
    tape_backward(ctx, model_training_loss(&w->model, ids, targets, w->records, &loss));
    ctx->recording = false;
    adamw_step(&w->adamw, &w->model.params, 1e-4f, 1);
    model_rebalance(&w->model, 1e-3f);
    context_reset(ctx);
}

static void forward(Context *ctx, void *user) {
    Work *w = user;
    model_forward(&w->model, tensor_copy_in(ctx, "ids", I32, w->ids, SHAPE(w->batch, w->context)),
                  NULL, NULL);
    context_reset(ctx);
}

/* The same `steps` tokens behind the same prompt, again and again. */
static void decode(Context *ctx, void *user) {
    (void)ctx;
    Decoding *d = user;
    Model *model = &d->work->model;
    for (int b = 0; b < d->graph.batch; b++) model_caches_truncate(model, d->caches, b, d->prompt);
    decode_greedy(&d->graph, d->work->ids, d->steps, d->tokens);
}

/* `batch` sequences that hold all of the context but the steps, which are to be decoded. */
static void decoding_init(Decoding *d, Work *w, int batch) {
    Error err;
    Context *ctx = w->model.ctx;
    int steps = w->context / 2 < DECODE_STEPS ? w->context / 2 : DECODE_STEPS;
    *d = (Decoding){.work = w, .prompt = w->context - steps, .steps = steps};
    d->tokens = must_alloc((size_t)steps * (size_t)batch, sizeof *d->tokens);
    if (!(d->caches = model_caches_new(&w->model, batch, w->context, &err)) ||
        decode_graph_init(&d->graph, &w->model, d->caches, batch, &err) ||
        model_caches_reserve(&w->model, d->caches, d->prompt, &err))
        fatal("%s", err.text);
    Tensor *prompt = tensor_copy_in(ctx, "ids", I32, w->ids, SHAPE(batch, d->prompt));
    model_forward(&w->model, prompt, d->caches, NULL);
    context_reset(ctx);
}

static void decoding_free(Decoding *d) {
    decode_graph_free(&d->graph);
    model_caches_free(&d->work->model, d->caches);
    free(d->tokens);
}

/* A model with random weights, and random text for it. */
static void prepare(Work *w, Context *ctx, const ModelBenchOptions *o) {
    Error err;
    ModelConfig cfg;
    if (config_preset(&cfg, o->config, &err)) fatal("%s", err.text);
    if (o->context > cfg.max_position_embeddings)
        fatal("--context %d is longer than the %d positions of configuration %s", o->context,
              cfg.max_position_embeddings, o->config);
    cfg.vocab_size = o->vocab;
    *w = (Work){.adamw = adamw_defaults(), .batch = o->batch, .context = o->context};
    size_t tokens = (size_t)o->batch * (size_t)o->context;
    w->ids = must_alloc(tokens + 1, sizeof *w->ids);
    for (size_t i = 0; i <= tokens; i++)
        w->ids[i] = (int32_t)(philox(o->common.seed, 1, i).word[0] % (uint32_t)o->vocab);
    if (model_init(&w->model, ctx, &cfg, true, &err)) fatal("%s", err.text);
    model_randomize(&w->model);
    w->records = must_alloc((size_t)cfg.num_hidden_layers, sizeof *w->records);
}

/* The third run of it is the profiler's: by then all plans are made and all memory is there. */
static void profile(Context *ctx, BenchFunction function, void *user) {
    for (int i = 0; i < 3; i++) {
        if (i == 2) gpu_profile_start(ctx->gpu);
        function(ctx, user);
    }
    gpu_profile_stop(ctx->gpu);
}

static void profile_work(Context *ctx, Work *w, const ModelBenchOptions *o) {
    if (!ctx->gpu) fatal("--profile is for the GPU: add --device cuda");
    if (!strcmp(o->profile, "forward")) {
        profile(ctx, forward, w);
    } else if (!strcmp(o->profile, "train")) {
        profile(ctx, step, w);
    } else {
        Decoding d;
        decoding_init(&d, w, !strcmp(o->profile, "decode") ? 1 : o->batch);
        profile(ctx, decode, &d);
        decoding_free(&d);
    }
}

static void work_free(Context *ctx, Work *w) {
    model_free(&w->model);
    free(w->ids);
    free(w->records);
    context_free(ctx);
}

static void save_rows(const ModelBenchOptions *o, Context *ctx, char (*names)[48],
                      const BenchTime *times, int count) {
    Error err;
    Csv csv;
    if (csv_open(&csv, o->common.csv, "work,min_ms,median_ms",
                 ctx->gpu ? gpu_describe(ctx->gpu).text : "cpu", o->common.seed, &err))
        fatal("%s", err.text);
    for (int i = 0; i < count; i++)
        csv_row(&csv, "%s,%.5f,%.5f", names[i], 1e3 * times[i].min, 1e3 * times[i].median);
    if (csv_close(&csv, &err)) fatal("%s", err.text);
}

int main(int argc, char **argv) {
    ModelBenchOptions o = {
        .config = "nano", .batch = 16, .context = 64, .vocab = 2048, .seconds = 3};
    const struct argp argp = {flags,       parse, NULL, "Times training and decoding.",
                              common_argp, NULL,  NULL};
    options_parse(&argp, argc, argv, &o.common, &o);
    Context ctx;
    options_open(&o.common, &ctx);
    Work w;
    prepare(&w, &ctx, &o);
    const ModelConfig *cfg = &w.model.cfg;
    if (o.profile) {
        profile_work(&ctx, &w, &o);
        work_free(&ctx, &w);
        return 0;
    }

    Bench bench;
    bench_init(&bench, &ctx, o.seconds);
    bench_print_machine(&bench);
    printf("model %s: %lld parameters, batch %d, context %d, vocabulary %d\n", o.config,
           (long long)config_parameters(cfg), o.batch, o.context, o.vocab);
    bench_head("the whole model");
    double flop = metrics_flop_per_token(&w.model, o.context), tokens = (double)o.batch * o.context;
    double cache =
        (double)mla_cache_bytes_per_token(&w.model.block.mla, cfg->num_hidden_layers, ctx.dtype);
    double bytes =
        (double)(config_active_parameters(cfg)) * dtype_size(ctx.dtype) + cache * o.context;
    BenchTime times[MOST_ROWS];
    char names[MOST_ROWS][48] = {"forward", "training step"};
    int rows = 2;
    times[0] = bench_row(&bench, names[0], ctx.dtype, flop * tokens, 0, forward, &w);
    times[1] = bench_row(&bench, names[1], ctx.dtype, 3 * flop * tokens, 0, step, &w);
    double decoded[2] = {0}; /* tokens per second: one sequence, the whole batch */
    for (int batch = 1; rows < MOST_ROWS; batch = o.batch) {
        Decoding d;
        decoding_init(&d, &w, batch);
        snprintf(names[rows], sizeof names[rows], "decode, %d steps of %d sequence%s", d.steps,
                 batch, batch == 1 ? "" : "s");
        /* How many experts a batch reads is its own affair: bytes only for one sequence. */
        times[rows] = bench_row(&bench, names[rows], ctx.dtype, flop * batch * d.steps,
                                batch == 1 ? bytes * d.steps : 0, decode, &d);
        decoded[rows - 2] = (double)batch * d.steps / times[rows].median;
        decoding_free(&d);
        rows++;
    }
    printf("\ntraining %.0f tokens/s (median %.0f), %.0f MiB of activations and gradients\n"
           "greedy decoding %.0f tokens/s one at a time, %.0f in %d sequences (medians)\n",
           tokens / times[1].min, tokens / times[1].median, context_peak_bytes(&ctx) / 1048576.0,
           decoded[0], decoded[1], o.batch);
    if (o.common.csv) save_rows(&o, &ctx, names, times, rows);
    work_free(&ctx, &w);
    return 0;
}
