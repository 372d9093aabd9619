/*
 * Chapter 05's benchmark: what a layer of experts costs.
 *
 * The layer's work is that of the experts a token chooses, so its yardstick is the matrix peak; and
 * with the number of experts growing at constant top-k, its time should not. Moving tokens to their
 * experts and back is copying: its yardstick is the copy bandwidth.
 *
 * Rungs of the grouped product: every expert multiplies every token, as if there were no router
 * ("all tokens"); a loop over experts, each product shared among the threads (or, on CUDA, by
 * cuBLAS after a look at the counts on the host); one kernel for all experts.
 */
#include "dispatch.h"
#include "grouped.h"
#include "grouped_rungs.h"
#include "moe.h"

#include "../common/bench.h"
#include "../common/csv.h"
#include "../common/ops.h"
#include "../common/options.h"
#include "../common/plot.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the layer, forward and backward ---- */

typedef struct Layer {
    MoeConfig cfg;
    Moe w;
    Params params; /* x is in it, so that the arena can be emptied after each call */
    Tensor *x, *c;
} Layer;

/* Forward, and the gradients of x and of every weight. */
static void run_layer(Context *ctx, void *user) {
    Layer *l = user;
    params_zero_grad(&l->params);
    ctx->recording = true;
    Tensor *y = moe_forward(ctx, l->x, &l->w, &l->cfg, NULL);
    tape_backward(ctx, weighted_sum(ctx, y, l->c));
    ctx->recording = false;
    context_reset(ctx);
}

static void layer_init(Layer *l, Context *ctx, int tokens, MoeConfig cfg) {
    Error err = {0};
    *l = (Layer){.cfg = cfg};
    if (moe_check(&cfg, &err)) fatal("%s", err.text);
    int64_t hidden = cfg.router.hidden_size;
    params_init(&l->params, ctx);
    l->w = moe_init(&l->params, "mlp", &cfg);
    l->x = params_new(&l->params, "x", SHAPE(1, tokens, hidden));
    l->c = params_buffer(&l->params, "c", F32, SHAPE(1, tokens, hidden));
    if (params_allocate(&l->params, true, &err)) fatal("%s", err.text);
    moe_randomize(&l->params, &l->w, 0.02f, 0.02f);
    params_normal(&l->params, l->x, 1.0f);
    params_normal(&l->params, l->c, 1.0f);
}

/* Three products a row and expert, and twice as many backward; the router's are not counted. */
static double layer_flop(const MoeConfig *cfg, int tokens) {
    double experts = cfg->router.num_experts_per_tok + cfg->n_shared_experts;
    return 3.0 * 2 * 3 * tokens * experts * cfg->router.hidden_size * cfg->moe_intermediate_size;
}

static void bench_layer(Bench *bench, Csv *csv, const char *table, int tokens, MoeConfig cfg) {
    Layer l;
    Context *ctx = bench->ctx;
    char name[64];
    int experts = cfg.router.n_routed_experts, k = cfg.router.num_experts_per_tok;
    int hidden = cfg.router.hidden_size, inner = cfg.moe_intermediate_size;
    layer_init(&l, ctx, tokens, cfg);
    snprintf(name, sizeof name, "%d x %d, %d experts, %d tokens each", hidden, inner, experts,
             tokens * k / experts);
    BenchTime t = bench_row(bench, name, ctx->dtype, layer_flop(&cfg, tokens), 0, run_layer, &l);
    csv_row(csv, "%s,%s,%s,%d,%d,%d,%d,%d,%d,%.4f,%.4f", device_name(ctx->device),
            dtype_name(ctx->dtype), table, tokens, hidden, inner, experts, k, cfg.n_shared_experts,
            1e3 * t.min, 1e3 * t.median);
    params_free(&l.params);
}

/* ---- the grouped product's rungs, and the ways there and back ---- */

typedef struct Group {
    Tensor *x, *w, *y, *all, *offsets, *tokens_in, *weights;
    int32_t *host_offsets;
    Dispatch plan;
    GroupedShape shape;
    int top_k;
} Group;

/* Every expert multiplies every token: what a mixture costs without dispatch. */
static void run_all_tokens(Context *ctx, void *user) {
    Group *g = user;
    (void)ctx;
    GroupedShape s = g->shape;
    int64_t tokens = s.rows / g->top_k;
    char *w = g->w->data, *y = g->all->data;
    size_t size = dtype_size(ctx->dtype);
    for (int e = 0; e < s.experts; e++)
        ON(ctx, linear_forward, (void *)(y + (size_t)e * tokens * s.out * size), g->tokens_in->data,
           (void *)(w + (size_t)e * s.out * s.in * size), NULL, tokens, s.in, s.out);
}

static void run_loop(Context *ctx, void *user) {
    Group *g = user;
    GroupedShape s = g->shape;
#ifdef WITH_CUDA
    if (ctx->device == CUDA) {
        grouped_forward_blas_cuda(ctx->gpu, ctx->dtype, g->y->data, g->x->data, g->w->data,
                                  g->host_offsets, s);
        return;
    }
#endif
    (void)ctx;
    float *y = g->y->data, *x = g->x->data, *w = g->w->data;
    for (int e = 0; e < s.experts; e++) {
        int64_t from = g->host_offsets[e], rows = g->host_offsets[e + 1] - from;
        if (rows)
            linear_forward_cpu(y + from * s.out, x + from * s.in, w + e * s.out * s.in, NULL, rows,
                               s.in, s.out);
    }
}

static void run_grouped(Context *ctx, void *user) {
    Group *g = user;
    (void)ctx;
    ON(ctx, grouped_forward, g->y->data, g->x->data, g->w->data, g->offsets->data, g->shape);
}

static void run_permute(Context *ctx, void *user) {
    Group *g = user;
    (void)ctx;
    ON(ctx, dispatch_permute, g->x->data, g->tokens_in->data, g->plan.row_of_slot->data,
       g->plan.tokens, g->top_k, g->shape.in);
}

static void run_combine(Context *ctx, void *user) {
    Group *g = user;
    (void)ctx;
    ON(ctx, dispatch_combine, g->tokens_in->data, g->x->data, g->weights->data,
       g->plan.row_of_slot->data, g->plan.tokens, g->top_k, g->shape.in);
}

#ifdef WITH_CUDA
/* grouped_rungs.h's kernels that take offsets on the device */
typedef void (*GroupedKernel)(Gpu *, DType, void *, const void *, const void *, const int32_t *,
                              GroupedShape);
typedef struct CudaRung {
    Group *g;
    GroupedKernel kernel;
} CudaRung;

static void run_cuda_rung(Context *ctx, void *user) {
    CudaRung *r = user;
    r->kernel(ctx->gpu, ctx->dtype, r->g->y->data, r->g->x->data, r->g->w->data,
              r->g->offsets->data, r->g->shape);
}

static void bench_cuda_rungs(Bench *bench, Group *g, double flop) {
    Context *ctx = bench->ctx;
    CudaRung plain = {g, grouped_forward_plain_cuda}, mma = {g, grouped_forward_mma_cuda};
    CudaRung hopper = {g, grouped_forward_hopper_cuda};
    bench_row(bench, "  plain", ctx->dtype, flop, 0, run_cuda_rung, &plain);
    if (grouped_mma_available(ctx->gpu, ctx->dtype, g->shape))
        bench_row(bench, "  mma", ctx->dtype, flop, 0, run_cuda_rung, &mma);
    if (grouped_hopper_available(ctx->gpu, ctx->dtype, g->shape))
        bench_row(bench, "  hopper", ctx->dtype, flop, 0, run_cuda_rung, &hopper);
}
#endif

/* Choices at random, as from a balanced router. */
static Tensor *random_choices(Context *ctx, int tokens, int k, int experts) {
    int32_t *chosen = malloc((size_t)tokens * (size_t)k * sizeof *chosen);
    if (!chosen) fatal("out of memory");
    for (int n = 0; n < tokens; n++)
        for (int j = 0; j < k; j++) {
            int e = (int)(rng_uniform(5, (uint64_t)j, (uint64_t)n) * (float)experts);
            for (int i = 0; i < j; i++)
                if (chosen[n * k + i] == e) e = (e + 1) % experts, i = -1;
            chosen[n * k + j] = e;
        }
    Tensor *t = tensor_from(ctx, "choices", I32, chosen, SHAPE(tokens, k));
    free(chosen);
    return t;
}

static void bench_rungs(Bench *bench, int tokens, int hidden, int inner, int experts, int k) {
    Context *ctx = bench->ctx;
    int64_t rows = (int64_t)tokens * k;
    Group g = {.shape = {rows, hidden, inner, experts}, .top_k = k};
    g.plan = dispatch_plan(ctx, random_choices(ctx, tokens, k, experts), experts, 0);
    g.offsets = g.plan.offsets;
    g.host_offsets = malloc(((size_t)experts + 1) * sizeof *g.host_offsets);
    if (!g.host_offsets) fatal("out of memory");
    balance_download(ctx, g.host_offsets, g.offsets);
    g.tokens_in = tensor_new(ctx, "tokens", ctx->dtype, SHAPE(tokens, hidden));
    g.x = tensor_new(ctx, "x", ctx->dtype, SHAPE(rows, hidden));
    g.w = tensor_new(ctx, "w", ctx->dtype, SHAPE(experts, inner, hidden));
    g.y = tensor_new(ctx, "y", ctx->dtype, SHAPE(rows, inner));
    g.weights = tensor_new(ctx, "weights", F32, SHAPE(tokens, k));
    bench_fill(ctx, g.tokens_in, 1);
    bench_fill(ctx, g.x, 2);
    bench_fill(ctx, g.w, 3);
    bench_fill(ctx, g.weights, 4);
    char title[160];
    snprintf(title, sizeof title, "grouped product: %s, %d tokens, top %d of %d, %d -> %d",
             dtype_name(ctx->dtype), tokens, k, experts, hidden, inner);
    bench_head(title);
    double flop = 2.0 * (double)rows * hidden * inner;
    if (experts <= 16) { /* operations that count are those of the chosen: the others are waste */
        g.all = tensor_new(ctx, "all", ctx->dtype, SHAPE(experts, tokens, inner));
        bench_row(bench, "  all tokens", ctx->dtype, flop, 0, run_all_tokens, &g);
    }
    bench_row(bench, "  loop over experts", ctx->dtype, flop, 0, run_loop, &g);
#ifdef WITH_CUDA
    if (ctx->device == CUDA) bench_cuda_rungs(bench, &g, flop);
#endif
    bench_row(bench, "  in use", ctx->dtype, flop, 0, run_grouped, &g);
    double size = (double)dtype_size(ctx->dtype), moved = size * hidden * (tokens + (double)rows);
    bench_row(bench, "  permute", ctx->dtype, 0, moved, run_permute, &g);
    bench_row(bench, "  combine", ctx->dtype, 0, moved, run_combine, &g);
    free(g.host_offsets);
    context_reset(ctx);
}

/* ---- the tables ---- */

static void all_tables(Bench *bench, Csv *csv) {
    Context *ctx = bench->ctx;
    bool cuda = ctx->device == CUDA;
    int tokens = cuda ? 8192 : 1024, k = cuda ? 8 : 2, experts = cuda ? 64 : 8;
    char title[160];
    snprintf(title, sizeof title,
             "the layer, forward and backward: %s, %d tokens, top %d of %d, one shared expert",
             dtype_name(ctx->dtype), tokens, k, experts);
    bench_head(title);
    for (int hidden = cuda ? 2048 : 256; hidden <= (cuda ? 2048 : 1024); hidden *= 2) {
        MoeConfig cfg = moe_config(hidden, cuda ? 512 : hidden, experts, k);
        cfg.n_shared_experts = 1;
        bench_layer(bench, csv, "sizes", tokens, cfg);
    }
    tokens = cuda ? 8192 : 2048;
    snprintf(title, sizeof title, "the number of experts: %s, %d tokens, top %d, no shared expert",
             dtype_name(ctx->dtype), tokens, k);
    bench_head(title);
    for (int e = cuda ? 16 : 4; e <= (cuda ? 512 : 128); e *= 2)
        bench_layer(bench, csv, "experts", tokens,
                    moe_config(cuda ? 2048 : 512, cuda ? 512 : 256, e, k));
    if (cuda) {
        bench_rungs(bench, 8192, 2048, 512, 64, 8);
        bench_rungs(bench, 8192, 7168, 2048, 256, 8);
    } else {
        bench_rungs(bench, 1024, 512, 512, 8, 2);
        bench_rungs(bench, 2048, 512, 256, 64, 2);
    }
}

int main(int argc, char **argv) {
    BenchOptions options = bench_options(
        argc, argv, "A layer of experts: its time, its parts, and the number of experts.");
    Context ctx;
    options_open(&options.common, &ctx);
    Bench bench;
    bench_init(&bench, &ctx, options.seconds);
    bench_print_machine(&bench);
    Csv csv;
    Error err;
    const char *path = options.common.csv ? options.common.csv : "05_moe/figures/out/experts.csv";
    GpuText device = {"cpu"};
    if (ctx.device == CUDA) device = gpu_describe(ctx.gpu);
    if (csv_open(&csv, path,
                 "device,dtype,table,tokens,hidden,inner,experts,top_k,shared,min_ms,median_ms",
                 device.text, options.common.seed, &err))
        fatal("%s", err.text);
    all_tables(&bench, &csv);
    if (csv_close(&csv, &err)) fatal("%s", err.text);
    printf("\nrows:  %s\n", path);
    plot_or_explain("05_moe/figures/experts.gp", path, "05_moe/figures/out/experts");
    context_free(&ctx);
    return 0;
}
