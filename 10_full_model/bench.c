/*
 * The model timed as a whole: a training step, and decoding from the cache, as shares of what the
 * machine can do.
 */
#include "generate.h"
#include "train.h"

#include "../common/bench.h"
#include "../common/csv.h"
#include "../common/ops.h"
#include "../common/options.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct ModelBenchOptions {
    CommonOptions common;
    const char *config;
    int batch, context, vocab;
    double seconds;
} ModelBenchOptions;

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
    {"seconds", 's', "X", 0, "Time for each row (default 3)", 0},
    {0}};

typedef struct Work {
    Model model;
    AdamW adamw;
    int32_t *ids;
    int batch, context;
    MoeRecord *records;
    BlockCache *caches;
    float *logits;
} Work;

static void step(Context *ctx, void *user) {
    Work *w = user;
    Tensor *loss;
    params_zero_grad(&w->model.params);
    ctx->recording = true;
    Tensor *ids = tensor_from(ctx, "ids", I32, w->ids, SHAPE(w->batch, w->context));
    Tensor *targets = tensor_from(ctx, "targets", I32, w->ids + 1, SHAPE(w->batch, w->context));
    tape_backward(ctx, model_training_loss(&w->model, ids, targets, w->records, &loss));
    ctx->recording = false;
    adamw_step(&w->adamw, &w->model.params, 1e-4f, 1);
    model_rebalance(&w->model, 1e-3f);
    context_reset(ctx);
}

static void forward(Context *ctx, void *user) {
    Work *w = user;
    model_forward(&w->model, tensor_from(ctx, "ids", I32, w->ids, SHAPE(w->batch, w->context)),
                  NULL, NULL);
    context_reset(ctx);
}

/* One token behind context - 1 others. */
static void decode(Context *ctx, void *user) {
    Work *w = user;
    for (int i = 0; i < w->model.cfg.num_hidden_layers; i++)
        block_cache_truncate(&w->caches[i], w->context - 1);
    Tensor *ids = tensor_from(ctx, "ids", I32, w->ids + w->context - 1, SHAPE(1, 1));
    tensor_download(ctx, w->logits, model_forward(&w->model, ids, w->caches, NULL));
    context_reset(ctx);
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
    w->ids = malloc((tokens + 1) * sizeof *w->ids);
    w->logits = malloc((size_t)o->vocab * sizeof *w->logits);
    if (!w->ids || !w->logits) fatal("out of memory");
    for (size_t i = 0; i <= tokens; i++)
        w->ids[i] = (int32_t)(philox(o->common.seed, 1, i).word[0] % (uint32_t)o->vocab);
    if (model_init(&w->model, ctx, &cfg, true, &err)) fatal("%s", err.text);
    model_randomize(&w->model);
    w->records = calloc((size_t)cfg.num_hidden_layers, sizeof *w->records);
    if (!w->records) fatal("out of memory");
    if (!(w->caches = model_caches_new(&w->model, 1, o->context, &err))) fatal("%s", err.text);
    Tensor *prompt = tensor_from(ctx, "ids", I32, w->ids, SHAPE(1, o->context - 1));
    tensor_download(ctx, w->logits, model_forward(&w->model, prompt, w->caches, NULL));
    context_reset(ctx);
}

static void save_rows(const ModelBenchOptions *o, Context *ctx, const char *const *names,
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

    Bench bench;
    bench_init(&bench, &ctx, o.seconds);
    bench_print_machine(&bench);
    printf("model %s: %lld parameters, batch %d, context %d, vocabulary %d\n", o.config,
           (long long)config_parameters(cfg), o.batch, o.context, o.vocab);
    bench_head("the whole model");
    double flop = flop_per_token(cfg, o.context), tokens = (double)o.batch * o.context;
    double cache =
        (double)mla_cache_bytes_per_token(&w.model.block.mla, cfg->num_hidden_layers, ctx.dtype);
    double bytes =
        (double)config_active_parameters(cfg) * dtype_size(ctx.dtype) + cache * o.context;
    const char *names[3] = {"forward", "training step", "decode, one token"};
    BenchTime times[3] = {
        bench_row(&bench, names[0], ctx.dtype, flop * tokens, 0, forward, &w),
        bench_row(&bench, names[1], ctx.dtype, 3 * flop * tokens, 0, step, &w),
        bench_row(&bench, names[2], ctx.dtype, flop, bytes, decode, &w),
    };
    printf("\ntraining %.0f tokens/s (median %.0f), decoding %.0f tokens/s; %.0f MiB of "
           "activations and gradients\n",
           tokens / times[1].min, tokens / times[1].median, 1 / times[2].min,
           context_peak_bytes(&ctx) / 1048576.0);
    if (o.common.csv) save_rows(&o, &ctx, names, times, 3);

    model_caches_free(&w.model, w.caches);
    model_free(&w.model);
    free(w.ids);
    free(w.logits);
    free(w.records);
    context_free(&ctx);
    return 0;
}
