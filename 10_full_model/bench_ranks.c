/*
 * What several GPUs, or processes, are worth: a training step shared in every way there is, beside
 * the same step on one of them.
 *
 *     deepseek launch -n 2 -- or mpirun -n 2 ./10_full_model/bench_ranks --device cuda --dtype bf16
 *
 * Every step is train_step()'s own, on text of random tokens, and is as long as its slowest rank's.
 * Beside the steps stand the collectives they rest on, and a layer of V3's experts, spread and not.
 */
#include "05_moe/experts.h"
#include "10_full_model/commands/training.h"
#include "10_full_model/train/train_step.h"

#include "common/core/ops.h"
#include "common/files/csv.h"
#include "common/program/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct RanksBench {
    CommonOptions common;
    const char *config;
    int batch, context, vocab, steps, large, small, kind;
    int layer[4]; /* hidden, inner, experts, tokens of a rank */
    Comm *comm;
    Context ctx;   /* one for all that is timed */
    int32_t *pool; /* [POOL + 1] */
    Csv csv;
} RanksBench;

/* How a step is shared. */
typedef struct Way {
    const char *name;
    bool alone;
    RankOptions how;
} Way;
static const Way ways[] = {
    {"one alone", true, {.expert_parallel = 1}},
    {"data parallel, in turn", false, {.expert_parallel = 1, .in_turn = true}},
    {"data parallel, beside", false, {.expert_parallel = 1}},
    {"ZeRO-1", false, {.expert_parallel = 1, .zero = true}},
    {"experts spread", false, {.expert_parallel = 0}}, /* over all */
};
enum { WAYS = sizeof ways / sizeof ways[0] };

/* The context's place among the ranks, for what is timed next; and back. */
static void share(RanksBench *o, Comm *comm, const RankOptions *how) {
    Context *ctx = &o->ctx;
    ctx->comm = comm, ctx->rank = comm_rank(comm), ctx->size = ctx->ways = comm_size(comm);
    ctx->zero = how->zero;
    ctx->experts =
        how->expert_parallel > 1 ? comm_split(comm, ctx->rank / how->expert_parallel) : NULL;
    ctx->spread = how->expert_parallel;
}

static void unshare(RanksBench *o) {
    Context *ctx = &o->ctx;
    comm_close(ctx->experts);
    arena_free(&ctx->data), arena_free(&ctx->host);
    ctx->data.peak = ctx->host.peak = 0;
    ctx->experts = NULL, ctx->zero = false, ctx->comm = NULL;
}

/* ---- times ---- */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the slowest rank. */
static double slowest(Comm *comm, double seconds) {
    double *all = must_alloc((size_t)comm_size(comm), sizeof *all), most = 0;
    comm_gather_host(comm, all, &seconds, sizeof seconds);
    for (int r = 0; r < comm_size(comm); r++) most = all[r] > most ? all[r] : most;
    free(all);
    return most;
}

typedef struct Times {
    double min, median;
} Times;

typedef void Work(Context *ctx, void *user);

/* Two to warm up, then `steps`; each ends when the device has done it. */
static Times time_work(Context *ctx, Work *work, void *user, int steps) {
    double *seconds = must_alloc((size_t)steps, sizeof *seconds);
    float *end = arena_alloc(&ctx->host, sizeof *end);
    void *place = device_alloc(ctx->gpu, sizeof *end);
    for (int i = -2; i < steps; i++) {
        comm_barrier(ctx->comm);
        double begin = seconds_now();
        work(ctx, user);
        float last;
        device_set(ctx->gpu, place, 0, sizeof last);
        device_get(ctx->gpu, &last, place, sizeof last); /* waits */
        double took = slowest(ctx->comm, seconds_now() - begin);
        if (i >= 0) seconds[i] = took;
    }
    device_free(ctx->gpu, place);
    qsort(seconds, (size_t)steps, sizeof *seconds, ascending);
    Times t = {seconds[0], seconds[steps / 2]};
    free(seconds);
    return t;
}

/* ---- training steps ---- */

enum { POOL = 1 << 20 }; /* random tokens, made once: windows are pieces of them */

static void random_batch(void *self, uint64_t seed, uint64_t first, int batch, int length,
                         int32_t *inputs, int32_t *targets) {
    (void)seed;
    const int32_t *pool = self;
    for (int64_t b = 0; b < batch; b++) {
        const int32_t *at = pool + (first + (uint64_t)b) * 7919 % (uint64_t)(POOL - length);
        memcpy(inputs + b * length, at, (size_t)length * sizeof *at);
        memcpy(targets + b * length, at + 1, (size_t)length * sizeof *at);
    }
}

typedef struct Steps {
    Trainer trainer;
    AdamW adamw;
} Steps;

static void step(Context *ctx, void *user) {
    (void)ctx;
    Steps *s = user;
    StepReport report;
    train_step(&s->trainer, &s->adamw, &report);
}

/* Bytes of weights and gradients; of masters and moments. */
static void model_bytes(const Params *p, double *weights, double *optimizer) {
    *weights = 4.0 * (double)p->size, *optimizer = 0;
    for (int i = 0; i < p->count; i++) *weights += (double)tensor_bytes(p->list[i]);
    for (int i = 0; i < p->span_count; i++)
        *optimizer += (double)p->spans[i].size *
                      (2.0 * (double)dtype_size(p->moments) + (p->spans[i].dtype == F32 ? 0 : 4));
}

static void say(RanksBench *o, const char *name, int ranks, int64_t tokens, Times t, double one,
                double weights, double optimizer, double activations) {
    const double mib = 1048576;
    double rate = (double)tokens / t.median;
    char times[16] = "";
    if (one > 0) snprintf(times, sizeof times, "%.2f x", one / t.median);
    printf("%-24s %8lld %9.1f %9.1f %11.0f %8s %8.0f %8.0f %8.0f\n", name, (long long)tokens,
           1e3 * t.min, 1e3 * t.median, rate, times, weights / mib, optimizer / mib,
           activations / mib);
    fflush(stdout);
    if (o->csv.stream)
        csv_row(&o->csv, "\"%s\",%d,%lld,%.3f,%.3f,%.0f,%.3f,%.1f,%.1f,%.1f", name, ranks,
                (long long)tokens, 1e3 * t.min, 1e3 * t.median, rate, one > 0 ? one / t.median : 1,
                weights / mib, optimizer / mib, activations / mib);
}

/* Both sizes of step, one way; one[]: medians of a rank alone. */
static void time_way(RanksBench *o, const Way *way, double one[2]) {
    Context *ctx = &o->ctx;
    Error err;
    Model model;
    ModelConfig cfg;
    TrainOptions t = train_defaults();
    RankOptions how = way->how;
    if (!how.expert_parallel) how.expert_parallel = comm_size(o->comm);
    Comm *comm = way->alone ? NULL : o->comm;
    if (config_preset(&cfg, o->config, &err)) fatal("%s", err.text);
    cfg.vocab_size = o->vocab;
    share(o, comm, &how);
    if (training_model(&model, ctx, NULL, &cfg, &t, &err)) fatal("%s", err.text);
    const RanksOptions options = {.in_turn = how.in_turn};
    LanguageModelObjective objective = {.model = &model,
                                        .training = {.losses = {1e-4f, .seq_aux = true}},
                                        .mtp = {.end = -1},
                                        .bias_speed = 1e-3f};
    const TokenSource source = {.batch = random_batch, .self = o->pool};
    Steps s = {.trainer = {.params = &model.params,
                           .objective = objective_language_model(&objective),
                           .source = &source,
                           .schedule = {.steps = 1000, .peak = 1e-4f, .floor = 1e-5f},
                           .context_length = o->context,
                           .ranks = ranks_open(&model.params, &options)},
               .adamw = adamw_defaults()};
    for (int size = 0; size < 2; size++) {
        int64_t tokens = size ? o->small : o->large;
        int accumulation = (int)(tokens / o->batch / o->context);
        if (step_cut(&s.trainer.cut, ctx, o->batch, accumulation ? accumulation : 1, false, &err))
            fatal("%s", err.text);
        Times times = time_work(ctx, step, &s, o->steps);
        if (way->alone) one[size] = times.median;
        double weights, optimizer;
        model_bytes(&model.params, &weights, &optimizer);
        tokens = (int64_t)s.trainer.cut.all * s.trainer.cut.windows * o->context;
        say(o, way->name, comm_size(comm), tokens, times, way->alone ? 0 : one[size], weights,
            optimizer, (double)context_peak_bytes(ctx));
    }
    ranks_close(s.trainer.ranks);
    model_free(&model);
    unshare(o);
}

/* ---- a layer of experts ---- */

typedef struct Layer {
    MoeConfig cfg;
    Params params;
    Moe moe;
    Tensor x;
} Layer;

static void forward_and_back(Context *ctx, void *user) {
    Layer *l = user;
    params_zero_grad(&l->params);
    ctx->recording = true;
    l->x.grad = NULL, l->x.has_grad = false;
    Tensor *y = moe_forward(ctx, &l->x, &l->moe, &l->cfg, NULL, NULL, (Residual){0});
    tape_backward(ctx, mean(ctx, y));
    context_reset(ctx);
}

static void time_layer(RanksBench *o, bool alone, double *one) {
    Context *ctx = &o->ctx;
    Error err;
    Comm *comm = alone ? NULL : o->comm;
    RankOptions how = {.expert_parallel = alone ? 1 : comm_size(comm)};
    int hidden = o->layer[0], tokens = o->layer[3] * (alone ? comm_size(o->comm) : 1);
    share(o, comm, &how);
    Layer l = {.cfg = moe_config(hidden, o->layer[1], o->layer[2], 4)};
    params_init(&l.params, ctx);
    l.moe = moe_init(&l.params, "mlp", &l.cfg);
    if (params_allocate(&l.params, true, &err)) fatal("%s", err.text);
    moe_randomize(&l.params, &l.moe, 0.02f, 0.02f);
    float *numbers = must_alloc((size_t)tokens * (size_t)hidden, sizeof *numbers);
    uint64_t stream = 9 + (uint64_t)comm_rank(comm);
#pragma omp parallel for
    for (int64_t i = 0; i < (int64_t)tokens * hidden; i++)
        numbers[i] = rng_normal(3, stream, (uint64_t)i);
    l.x = tensor_view(NULL, "x", ctx->dtype, ctx->device, SHAPE(1, tokens, hidden));
    l.x.data = device_alloc(ctx->gpu, tensor_bytes(&l.x));
    tensor_upload(ctx, &l.x, numbers);
    l.x.requires_grad = true;
    Times t = time_work(ctx, forward_and_back, &l, o->steps);
    double weights, optimizer;
    model_bytes(&l.params, &weights, &optimizer);
    if (alone) *one = t.median;
    say(o, alone ? "experts, one alone" : "experts, spread", comm_size(comm),
        (int64_t)tokens * comm_size(comm), t, alone ? 0 : *one, weights, optimizer,
        (double)context_peak_bytes(ctx));
    free(numbers);
    device_free(ctx->gpu, l.x.data);
    params_free(&l.params);
    unshare(o);
}

/* ---- collectives ---- */

typedef struct Traffic {
    void *in, *out;
    int64_t count, *each; /* F32 numbers of a rank; those for each rank */
} Traffic;

static void reduce(Context *ctx, void *user) {
    Traffic *t = user;
    comm_all_reduce(ctx->comm, t->in, t->count, F32, COMM_SUM);
}

static void exchange(Context *ctx, void *user) {
    Traffic *t = user;
    comm_all_to_all(ctx->comm, t->out, t->each, t->in, t->each, F32);
}

/* As much as 109m's gradients; what crosses a rank's link in a second, one way. */
static void time_collectives(RanksBench *o) {
    Context *ctx = &o->ctx;
    int n = comm_size(o->comm);
    const RankOptions how = {.expert_parallel = 1};
    share(o, o->comm, &how);
    Traffic t = {.count = (ctx->gpu ? 104 : 4) << 20,
                 .each = must_alloc((size_t)n, sizeof *t.each)};
    size_t bytes = (size_t)t.count * sizeof(float);
    t.in = device_alloc(ctx->gpu, bytes), t.out = device_alloc(ctx->gpu, bytes);
    if (!t.in || !t.out) fatal("no memory for %zu bytes twice", bytes);
    device_set(ctx->gpu, t.in, 0, bytes);
    for (int r = 0; r < n; r++) t.each[r] = t.count / n;
    Times a = time_work(ctx, reduce, &t, o->steps), b = time_work(ctx, exchange, &t, o->steps);
    double share = (double)(n - 1) / n;
    printf("all-reduce of %zu MiB: %.2f ms, %.1f GB/s each way; all-to-all: %.2f ms, %.1f GB/s\n",
           bytes >> 20, 1e3 * a.median, 2 * share * (double)bytes / a.median / 1e9, 1e3 * b.median,
           share * (double)bytes / b.median / 1e9);
    device_free(ctx->gpu, t.in), device_free(ctx->gpu, t.out);
    free(t.each);
    unshare(o);
}

static void run_bench(RanksBench *o) {
    o->pool = must_alloc(POOL + 1, sizeof *o->pool);
    for (uint64_t i = 0; i <= POOL; i++)
        o->pool[i] = (int32_t)(philox(1, 1, i).word[0] % (uint32_t)o->vocab);
    double one[2] = {0}, layer = 0;
    bool first = comm_rank(o->comm) == 0;
    printf("%s, %d x %d tokens at once\n\n", o->config, o->batch, o->context);
    printf("%-24s %8s %9s %9s %11s %8s %8s %8s %8s\n", "", "tokens", "min ms", "median", "tokens/s",
           "", "weights", "moments", "activ.");
    for (int i = 0; i < WAYS; i++) {
        if (ways[i].alone && first) time_way(o, &ways[i], one);
        comm_barrier(o->comm);
        if (!ways[i].alone && o->comm) time_way(o, &ways[i], one);
    }
    if (first) time_layer(o, true, &layer);
    comm_barrier(o->comm);
    if (!o->comm) return;
    time_layer(o, false, &layer);
    printf("\n");
    time_collectives(o);
}

static const char *const kinds[] = {"auto", "host", "nccl", NULL};

int main(int argc, char **argv) {
    RanksBench o = {.config = "109m",
                    .batch = 32,
                    .context = 1024,
                    .vocab = 50257,
                    .steps = 8,
                    .large = 1 << 19,
                    .small = 1 << 16,
                    .layer = {7168, 2048, 16, 8192}};
    Error err;
    const Option flags[] = {
        OPT_STRING("config", 'c', "NAME", &o.config, "Size of the model"),
        OPT_INT("batch", 'b', "N", &o.batch, 1, 65536, "Windows that a rank computes at once"),
        OPT_INT("context", 't', "N", &o.context, 2, 1 << 20, "Tokens in a window"),
        OPT_INT("vocab", 'v', "N", &o.vocab, 2, 1 << 20, "Size of the vocabulary"),
        OPT_INT("large", 0, "N", &o.large, 1, 1 << 30, "Tokens of a large step"),
        OPT_INT("small", 0, "N", &o.small, 1, 1 << 30, "Tokens of a small step"),
        OPT_INT("steps", 'n', "N", &o.steps, 1, 1000, "Steps that are timed"),
        OPT_INT("hidden", 0, "N", &o.layer[0], 8, 1 << 16, "Of the layer of experts"),
        OPT_INT("inner", 0, "N", &o.layer[1], 8, 1 << 16, "Of one expert"),
        OPT_INT("experts", 0, "N", &o.layer[2], 4, 1 << 12, "In the layer; a token has four"),
        OPT_INT("tokens", 0, "N", &o.layer[3], 1, 1 << 20, "In the layer, of each rank"),
        OPT_CHOICE("comm", 0, "WAY", &o.kind, kinds, "As train's: auto, host or nccl"),
        OPT_CSV(&o.common),
        OPT_COMMON(&o.common),
        OPT_END};
    options_parse(argc, argv, "Times training steps that ranks share, beside one rank's.", flags);
    const RankOptions plain = {.expert_parallel = 1};
    if (training_open_comm(&o.comm, &o.common, o.kind, &err) ||
        training_open_context(&o.ctx, o.comm, &o.common, &plain, &err))
        fatal("%s", err.text);
    const char *device = o.common.device == CUDA ? "cuda" : "cpu";
    if (o.common.csv && comm_rank(o.comm) == 0 &&
        csv_open(&o.csv, o.common.csv,
                 "name,ranks,tokens,min_ms,median_ms,tokens_per_second,times_one,weights_mib,"
                 "optimizer_mib,activations_mib",
                 device, o.common.seed, &err))
        fatal("%s", err.text);
    run_bench(&o);
    if (o.csv.stream && csv_close(&o.csv, &err)) fatal("%s", err.text);
    comm_close(o.comm);
    free(o.pool);
    context_free(&o.ctx);
    return 0;
}
