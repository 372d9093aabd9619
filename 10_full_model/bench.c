/*
 * The model timed as a whole: a training step, and decoding from the cache, as shares of what the
 * machine can do. With --weights decoding alone, on quantised weights of random codes.
 */
#include "05_moe/decoder/decode_graph.h"
#include "08_quant/fp8.h"
#include "08_quant/quantised.h"
#include "10_full_model/model/sizes.h"
#include "10_full_model/train/train.h"

#include "common/program/bench.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct ModelBenchOptions {
    const char *config;
    int batch, context, vocab, mtp, profile, weights, group;
    bool head;
} ModelBenchOptions;

/* What --profile may name. */
enum { ALL, FORWARD, TRAIN, DECODE, BATCH };
static const char *const works[] = {"all", "forward", "train", "decode", "batch", NULL};

/* What --weights may name. */
enum { PLAIN, INT8, INT4, FP8 };
static const char *const weight_kinds[] = {"plain", "int8", "int4", "fp8", NULL};

typedef struct Work {
    Model model;
    AdamW adamw;
    int32_t *ids;
    int batch, context;
    bool fp8; /* the training step's products */
} Work;

/* Sequences that are continued greedily, `steps` tokens at a time. */
typedef struct Decoding {
    Work *work;
    DecoderCache cache;
    DecodeGraph graph;
    int prompt, steps; /* tokens in each sequence before, and new ones */
    int32_t *tokens;   /* [steps, batch] */
} Decoding;

static void step(Context *ctx, void *user) {
    Work *w = user;
    Tensor *loss[1 + MTP_MAX_DEPTH];
    params_zero_grad(&w->model.params);
    ctx->recording = true;
    ctx->products = w->fp8 ? &fp8_products : NULL;
    Tensor *ids = tensor_copy_in(ctx, "ids", I32, w->ids, SHAPE(w->batch, w->context));
    Tensor *targets = tensor_copy_in(ctx, "targets", I32, w->ids + 1, SHAPE(w->batch, w->context));
    const DecoderRun run = {.position = model_position(&w->model)};
    const MtpTraining training = {.lambda = 0.3f, .end = -1};
    tape_backward(ctx, mtp_training_loss(ctx, &w->model.mtp, ids, targets, &run, &training, loss));
    adamw_step(&w->adamw, &w->model.params, 1e-4f, 1);
    decoder_rebalance(ctx, &w->model.decoder, 1e-3f);
    mtp_rebalance(ctx, &w->model.mtp, 1e-3f);
    ctx->products = NULL;
    context_reset(ctx);
}

static void forward(Context *ctx, void *user) {
    Work *w = user;
    model_forward(&w->model, tensor_copy_in(ctx, "ids", I32, w->ids, SHAPE(w->batch, w->context)),
                  NULL);
    context_reset(ctx);
}

/* The same `steps` tokens behind the same prompt, again and again. */
static void decode(Context *ctx, void *user) {
    (void)ctx;
    Decoding *d = user;
    decoder_cache_truncate(&d->cache, -1, d->prompt);
    decode_greedy(&d->graph, d->work->ids, d->steps, d->tokens);
}

/* `batch` sequences that hold all of the context but the steps, which are to be decoded. */
static void decoding_init(Decoding *d, Work *w, int batch) {
    Error err;
    Context *ctx = w->model.ctx;
    int steps = w->context / 2 < DECODE_STEPS ? w->context / 2 : DECODE_STEPS;
    *d = (Decoding){.work = w, .prompt = w->context - steps, .steps = steps};
    d->tokens = must_alloc((size_t)steps * (size_t)batch, sizeof *d->tokens);
    if (model_cache_init(&w->model, &d->cache, batch, w->context, &err) ||
        decode_graph_init(&d->graph, ctx, &w->model.decoder, model_position(&w->model), &d->cache,
                          &err) ||
        model_cache_reserve(&w->model, &d->cache, d->prompt, &err))
        fatal("%s", err.text);
    Tensor *prompt = tensor_copy_in(ctx, "ids", I32, w->ids, SHAPE(batch, d->prompt));
    model_forward(&w->model, prompt, &d->cache);
    context_reset(ctx);
}

static void decoding_free(Decoding *d) {
    decode_graph_free(&d->graph);
    decoder_cache_free(&d->cache);
    free(d->tokens);
}

/* The linears of attention and FFN that the format allows, as a quantised folder has them. */
static void hold_codes(Model *model, const ModelBenchOptions *o) {
    const DType dtypes[] = {[INT8] = U8, [INT4] = I4, [FP8] = F8_E4M3};
    for (int i = 0; i < model->params.count; i++) {
        Tensor *t = model->params.list[i];
        bool head = o->head && t == model->decoder.lm_head && t != model->decoder.embed_tokens;
        if (!size_quantisable(t) && !head) continue;
        int in = (int)tensor_dim(t, -1), rows = o->weights == FP8 ? 128 : 1, columns = in;
        if (o->weights == FP8) columns = 128;
        if (o->weights == INT4) columns = o->group;
        if (in % columns == 0 || o->weights == FP8)
            params_set_quantised(&model->params, t, dtypes[o->weights], rows, columns,
                                 &quantised_products);
    }
}

/* Random codes, with scales that make numbers of the size of model_randomize()'s. */
static void fill_codes(Params *params, Tensor *t) {
    size_t bytes = tensor_bytes(t), scales = (size_t)tensor_count(&t->quantised->scale);
    uint8_t *codes = must_alloc(bytes, 1);
    float *scale = must_alloc(scales, sizeof *scale);
    for (size_t i = 0; i < bytes; i++) {
        codes[i] = (uint8_t)philox(7, 2, i).word[0];
        if (t->dtype == F8_E4M3) codes[i] &= 0xbf; /* below 2, and no NaN */
    }
    float largest = t->dtype == U8 ? 127 : t->dtype == I4 ? 7 : 2;
    for (size_t i = 0; i < scales; i++) scale[i] = 0.04f / largest;
    params_set_codes(params, t, codes, scale);
    free(codes), free(scale);
}

static void fill(Model *model) {
    Params *params = &model->params;
    for (int i = 0; i < params->count; i++) {
        Tensor *t = params->list[i];
        if (t->quantised)
            fill_codes(params, t);
        else if (t->ndim == 1)
            params_fill(params, t, 1);
        else
            params_normal(params, t, model->cfg.initializer_range);
    }
}

/* A model with random weights, and random text for it. */
static void prepare(Work *w, Context *ctx, const ModelBenchOptions *o) {
    Error err;
    ModelConfig cfg;
    if (config_preset(&cfg, o->config, &err)) fatal("%s", err.text);
    if (o->context > cfg.max_position_embeddings)
        fatal("--context %d is longer than the %d positions of configuration %s", o->context,
              cfg.max_position_embeddings, o->config);
    const MtpTraining training = {.end = -1};
    if (mtp_training_check(&training, o->mtp, o->context, &err)) fatal("--mtp: %s", err.text);
    cfg.vocab_size = o->vocab;
    cfg.num_nextn_predict_layers = o->mtp;
    *w = (Work){.adamw = adamw_defaults(), .batch = o->batch, .context = o->context};
    size_t tokens = (size_t)o->batch * (size_t)o->context;
    w->ids = must_alloc(tokens + 1, sizeof *w->ids);
    for (size_t i = 0; i <= tokens; i++)
        w->ids[i] = (int32_t)(philox(ctx->rng.seed, 1, i).word[0] % (uint32_t)o->vocab);
    if (o->weights == PLAIN) {
        if (model_init(&w->model, ctx, &cfg, true, &err)) fatal("%s", err.text);
        model_randomize(&w->model);
        return;
    }
    if (model_register(&w->model, ctx, &cfg, &err)) fatal("%s", err.text);
    hold_codes(&w->model, o);
    if (model_allocate(&w->model, false, &err)) fatal("%s", err.text);
    fill(&w->model);
}

/* Operations per token of the decoder alone: the modules have a part in training only. */
static double decoder_flop(const Work *w) {
    Model decoder = w->model;
    if (w->model.mtp.depth) { /* their weights are the last */
        decoder.params.count = 0;
        while (decoder.params.list[decoder.params.count] != w->model.mtp.modules[0].enorm)
            decoder.params.count++;
    }
    decoder.mtp.depth = 0;
    return metrics_flop_per_token(&decoder, w->context);
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
    if (o->weights != PLAIN && (o->profile == FORWARD || o->profile == TRAIN))
        fatal("--profile %s is for plain weights; with --weights %s: decode or batch",
              works[o->profile], weight_kinds[o->weights]);
    if (o->profile == FORWARD) {
        profile(ctx, forward, w);
    } else if (o->profile == TRAIN) {
        profile(ctx, step, w);
    } else {
        Decoding d;
        decoding_init(&d, w, o->profile == DECODE ? 1 : o->batch);
        profile(ctx, decode, &d);
        decoding_free(&d);
    }
}

static void work_free(Work *w) {
    model_free(&w->model);
    free(w->ids);
}

/* A row of the table and of the CSV. */
static BenchTime row(Bench *bench, const char *name, double flop, double bytes,
                     BenchFunction function, void *user) {
    BenchTime t = bench_row(bench, flop, bytes, function, user, "%s", name);
    bench_save(bench, "\"%s\"", name);
    return t;
}

/* Decoding `batch` sequences; returns the tokens per second of the median. */
static double decode_row(Bench *bench, Work *w, int batch) {
    Decoding d;
    char name[48];
    DType dtype = bench->ctx->dtype;
    const ModelConfig *cfg = &w->model.cfg;
    decoding_init(&d, w, batch);
    double cache = (double)size_cache_per_token(cfg, dtype);
    double bytes = (double)config_active_parameters(cfg) * dtype_size(dtype) + cache * w->context;
    snprintf(name, sizeof name, "decode, %d steps of %d sequence%s", d.steps, batch,
             batch == 1 ? "" : "s");
    /* How many experts a batch reads is its own affair: bytes only for one sequence. */
    bool bytes_known = batch == 1 && w->model.params.grads; /* not of codes */
    BenchTime t = row(bench, name, decoder_flop(w) * batch * d.steps,
                      bytes_known ? bytes * d.steps : 0, decode, &d);
    double tokens = (double)batch * d.steps;
    decoding_free(&d);
    return tokens / t.median;
}

int main(int argc, char **argv) {
    Bench bench = {.seconds = 3};
    bool fp8 = false;
    ModelBenchOptions o = {
        .config = "nano", .batch = 16, .context = 64, .vocab = 2048, .group = 128};
    const Option flags[] = {
        OPT_STRING("config", 'c', "NAME", &o.config, "Size of the model"),
        OPT_INT("batch", 'b', "N", &o.batch, 1, 65536, "Windows in a step"),
        OPT_INT("context", 't', "N", &o.context, 2, 1 << 20, "Tokens in a window"),
        OPT_INT("vocab", 'v', "N", &o.vocab, 2, 1 << 20, "Size of the vocabulary"),
        OPT_INT("mtp", 0, "D", &o.mtp, 0, MTP_MAX_DEPTH,
                "Modules for multi-token prediction, trained too (whatever the configuration has)"),
        OPT_FLAG("fp8", 0, &fp8,
                 "Train in FP8 (08_quant/fp8.h); forward alone and decoding do not"),
        OPT_CHOICE("weights", 'w', "KIND", &o.weights, weight_kinds,
                   "Decode on quantised weights: int8, int4 or fp8 (default: plain)"),
        OPT_INT("group", 0, "N", &o.group, 32, 128, "Numbers of int4 that share a scale"),
        OPT_FLAG("head", 0, &o.head, "Quantise the head, too"),
        OPT_CHOICE("profile", 'p', "WORK", &o.profile, works,
                   "Only this, for a profiler: forward, train, decode or batch (default: all), "
                   "once between cudaProfilerStart and cudaProfilerStop (see tools/kernels.py)"),
        OPT_END};
    bench_open(&bench, argc, argv, "Times training and decoding.", flags, NULL, "work");
    Error err;
    if (fp8 && fp8_check(bench.ctx, &err)) fatal("%s", err.text);
    Work w;
    prepare(&w, bench.ctx, &o);
    w.fp8 = fp8;
    if (o.profile) {
        profile_work(bench.ctx, &w, &o);
    } else {
        bench_ceilings(&bench);
        printf("model %s: %lld parameters, batch %d, context %d, vocabulary %d", o.config,
               (long long)config_parameters(&w.model.cfg), o.batch, o.context, o.vocab);
        if (o.mtp)
            printf("\nand %d module%s: %lld parameters more, in the training step alone", o.mtp,
                   o.mtp == 1 ? "" : "s", (long long)config_module_parameters(&w.model.cfg));
        printf("\n");
        bench_head("the whole model");
        double tokens = (double)o.batch * o.context;
        double flop = metrics_flop_per_token(&w.model, o.context) * tokens;
        BenchTime t = {0};
        if (o.weights == PLAIN) {
            row(&bench, "forward", decoder_flop(&w) * tokens, 0, forward, &w);
            t = row(&bench, fp8 ? "training step, FP8" : "training step", 3 * flop, 0, step, &w);
        }
        double one = decode_row(&bench, &w, 1), many = decode_row(&bench, &w, o.batch);
        printf("\n");
        if (o.weights == PLAIN)
            printf("training %.0f tokens/s (median %.0f), %.0f MiB of activations and gradients\n",
                   tokens / t.min, tokens / t.median, context_peak_bytes(bench.ctx) / 1048576.0);
        printf("greedy decoding %.0f tokens/s one at a time, %.0f in %d sequences (medians)\n", one,
               many, o.batch);
    }
    work_free(&w);
    bench_close(&bench);
    return 0;
}
