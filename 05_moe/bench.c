/*
 * Chapter 05's benchmark: what a layer of experts costs.
 *
 * The layer's work is that of the experts a token chooses, so its yardstick is the matrix peak; and
 * with the number of experts growing at constant top-k, its time should not. Moving tokens to their
 * experts and back is copying: its yardstick is the copy bandwidth.
 *
 * Rungs of the grouped product on the CPU: every expert multiplies every token, as if there were no
 * router ("all tokens"); a loop over experts, each product shared among the threads; one list of
 * pieces for all experts. Those on CUDA have a benchmark of their own, bench_grouped.
 */
#include "05_moe/bench_choices.h"
#include "05_moe/dispatch.h"
#include "05_moe/grouped.h"
#include "05_moe/moe.h"

#include "common/core/ops_kernels.h"
#include "common/program/bench.h"
#include "common/program/plot.h"

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
    Tensor *y = moe_forward(ctx, l->x, &l->w, &l->cfg, NULL, NULL, (Residual){0});
    tape_backward(ctx, weighted_sum(ctx, y, l->c));
    context_reset(ctx);
}

static void layer_init(Layer *l, Context *ctx, int tokens, MoeConfig cfg) {
    Error err = {0};
    *l = (Layer){.cfg = cfg};
    if (moe_check(&cfg, &err)) fatal("%s", err.text);
    int64_t hidden = cfg.router.hidden_size;
    params_init(&l->params, ctx);
    l->w = moe_init(&l->params, "mlp", &cfg);
    l->x = params_new(&l->params, NULL, "x", SHAPE(1, tokens, hidden));
    l->c = params_buffer(&l->params, NULL, "c", F32, SHAPE(1, tokens, hidden));
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

static void bench_layer(Bench *bench, const char *table, int tokens, MoeConfig cfg) {
    Layer l;
    int experts = cfg.router.n_routed_experts, k = cfg.router.num_experts_per_tok;
    int hidden = cfg.router.hidden_size, inner = cfg.moe_intermediate_size;
    layer_init(&l, bench->ctx, tokens, cfg);
    bench_row(bench, layer_flop(&cfg, tokens), 0, run_layer, &l,
              "%d x %d, %d experts, %d tokens each", hidden, inner, experts, tokens * k / experts);
    bench_save(bench, "%s,%d,%d,%d,%d,%d,%d", table, tokens, hidden, inner, experts, k,
               cfg.n_shared_experts);
    params_free(&l.params);
}

/* ---- the grouped product's rungs ---- */

typedef struct Group {
    Tensor *x, *w, *y, *all, *tokens_in;
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
    float *w = g->w->data, *y = g->all->data;
    for (int e = 0; e < s.experts; e++)
        linear_forward_cpu(y + e * tokens * s.out, g->tokens_in->data, w + e * s.out * s.in, NULL,
                           tokens, s.in, s.out);
}

static void run_loop(Context *ctx, void *user) {
    Group *g = user;
    (void)ctx;
    GroupedShape s = g->shape;
    const int32_t *offsets = g->plan.offsets->data;
    float *y = g->y->data, *x = g->x->data, *w = g->w->data;
    for (int e = 0; e < s.experts; e++) {
        int64_t from = offsets[e], rows = offsets[e + 1] - from;
        if (rows)
            linear_forward_cpu(y + from * s.out, x + from * s.in, w + e * s.out * s.in, NULL, rows,
                               s.in, s.out);
    }
}

static void run_grouped(Context *ctx, void *user) {
    Group *g = user;
    (void)ctx;
    grouped_forward_cpu(g->y->data, g->x->data, g->w->data, g->plan.offsets->data, g->shape);
}

static void bench_rungs(Bench *bench, int tokens, int hidden, int inner, int experts, int k) {
    Context *ctx = bench->ctx;
    int64_t rows = (int64_t)tokens * k;
    Group g = {.shape = {rows, hidden, inner, experts}, .top_k = k};
    g.plan = dispatch_plan(ctx, random_choices(ctx, tokens, k, experts), experts, 0);
    g.tokens_in = bench_tensor(ctx, "tokens", F32, 1, SHAPE(tokens, hidden));
    g.x = bench_tensor(ctx, "x", F32, 2, SHAPE(rows, hidden));
    g.w = bench_tensor(ctx, "w", F32, 3, SHAPE(experts, inner, hidden));
    g.y = tensor_new(ctx, "y", F32, SHAPE(rows, inner));
    bench_head("grouped product: %d tokens, top %d of %d, %d -> %d", tokens, k, experts, hidden,
               inner);
    double flop = 2.0 * (double)rows * hidden * inner;
    if (experts <= 16) { /* operations that count are those of the chosen: the others are waste */
        g.all = tensor_new(ctx, "all", F32, SHAPE(experts, tokens, inner));
        bench_row(bench, flop, 0, run_all_tokens, &g, "  all tokens");
    }
    bench_row(bench, flop, 0, run_loop, &g, "  loop over experts");
    bench_row(bench, flop, 0, run_grouped, &g, "  in use");
    context_reset(ctx);
}

/* ---- the router, and the ways there and back ---- */

typedef struct Ways {
    Tensor *tokens, *rows, *rows2, *weights, *dweights; /* [N, d], twice [N K, d], twice [N, K] */
    Dispatch plan;
    int64_t d;
} Ways;

static void run_permute(Context *ctx, void *user) {
    Ways *w = user;
    ON(ctx, dispatch_permute, w->rows->data, w->tokens->data, w->plan.row_of_slot->data,
       w->plan.tokens, w->plan.top_k, w->d);
}

static void run_permute_backward(Context *ctx, void *user) {
    Ways *w = user;
    ON(ctx, dispatch_permute_backward, w->tokens->data, 0, w->rows->data, w->plan.row_of_slot->data,
       w->plan.tokens, w->plan.top_k, w->d);
}

static void run_combine(Context *ctx, void *user) {
    Ways *w = user;
    ON(ctx, dispatch_combine, w->tokens->data, NULL, w->rows->data, w->weights->data,
       w->plan.row_of_slot->data, w->plan.tokens, w->plan.top_k, w->d);
}

static void run_combine_backward(Context *ctx, void *user) {
    Ways *w = user;
    ON(ctx, dispatch_combine_backward, w->rows2->data, 0, w->dweights->data, 0, w->tokens->data,
       w->rows->data, w->weights->data, w->plan.row_of_slot->data, w->plan.tokens, w->plan.top_k,
       w->d);
}

static void bench_ways(Bench *bench, int tokens, int hidden, int experts, int k) {
    Context *ctx = bench->ctx;
    DType dtype = ctx->dtype;
    Ways w = {.d = hidden};
    w.plan = dispatch_plan(ctx, random_choices(ctx, tokens, k, experts), experts, 0);
    w.tokens = bench_tensor(ctx, "tokens", dtype, 1, SHAPE(tokens, hidden));
    w.rows = bench_tensor(ctx, "rows", dtype, 2, SHAPE(w.plan.rows, hidden));
    w.rows2 = tensor_new(ctx, "gradients of rows", dtype, SHAPE(w.plan.rows, hidden));
    w.weights = bench_tensor(ctx, "weights", F32, 3, SHAPE(tokens, k));
    w.dweights = tensor_new(ctx, "gradients of weights", F32, SHAPE(tokens, k));
    bench_head("to the experts and back: %s, %d tokens, top %d of %d, %d wide", dtype_name(dtype),
               tokens, k, experts, hidden);
    double number = (double)dtype_size(dtype) * hidden, rows = (double)w.plan.rows;
    double once = number * (tokens + rows), twice = number * (tokens + 2 * rows);
    bench_row(bench, 0, once, run_permute, &w, "  permute");
    bench_row(bench, 0, once, run_permute_backward, &w, "  permute, backward");
    bench_row(bench, 0, once, run_combine, &w, "  combine");
    bench_row(bench, 0, twice, run_combine_backward, &w, "  combine, backward");
    context_reset(ctx);
}

typedef struct Choice {
    Tensor *logits, *bias, *scores, *indices, *weights;
    RouteShape shape;
} Choice;

static void run_router(Context *ctx, void *user) {
    Choice *c = user;
    ON(ctx, route_forward, c->scores->data, c->indices->data, c->weights->data, NULL,
       c->logits->data, c->bias->data, c->shape);
}

/* DeepSeek-V3's router after the gate: 256 experts in 8 groups, and the same without groups. */
static void bench_router(Bench *bench, int tokens) {
    enum { EXPERTS = 256, TOP_K = 8 };
    Context *ctx = bench->ctx;
    Choice c = {.shape = {tokens, EXPERTS, TOP_K, 8, 4, 2, true, true, 2.5f}};
    c.logits = bench_tensor(ctx, "logits", F32, 1, SHAPE(tokens, EXPERTS));
    c.bias = bench_tensor(ctx, "bias", F32, 2, SHAPE(EXPERTS));
    c.scores = tensor_new(ctx, "scores", F32, SHAPE(tokens, EXPERTS));
    c.indices = tensor_new(ctx, "indices", I32, SHAPE(tokens, TOP_K));
    c.weights = tensor_new(ctx, "weights", F32, SHAPE(tokens, TOP_K));
    bench_head("the router: %d tokens, top %d of %d", tokens, TOP_K, EXPERTS);
    double bytes = 4.0 * tokens * (2 * EXPERTS + 2 * TOP_K);
    bench_row(bench, 0, bytes, run_router, &c, "  4 of 8 groups");
    c.shape.groups = c.shape.topk_groups = 1;
    bench_row(bench, 0, bytes, run_router, &c, "  no groups");
    context_reset(ctx);
}

/* ---- the tables ---- */

static void all_tables(Bench *bench) {
    Context *ctx = bench->ctx;
    bool cuda = ctx->device == CUDA;
    int tokens = cuda ? 8192 : 1024, k = cuda ? 8 : 2, experts = cuda ? 64 : 8;
    bench_head("the layer, forward and backward: %s, %d tokens, top %d of %d, one shared expert",
               dtype_name(ctx->dtype), tokens, k, experts);
    for (int hidden = cuda ? 2048 : 256; hidden <= (cuda ? 2048 : 1024); hidden *= 2) {
        MoeConfig cfg = moe_config(hidden, cuda ? 512 : hidden, experts, k);
        cfg.n_shared_experts = 1;
        bench_layer(bench, "sizes", tokens, cfg);
    }
    tokens = cuda ? 8192 : 2048;
    bench_head("the number of experts: %s, %d tokens, top %d, no shared expert",
               dtype_name(ctx->dtype), tokens, k);
    for (int e = cuda ? 16 : 4; e <= (cuda ? 512 : 128); e *= 2)
        bench_layer(bench, "experts", tokens,
                    moe_config(cuda ? 2048 : 512, cuda ? 512 : 256, e, k));
    bench_router(bench, cuda ? 8192 : 1024);
    if (cuda) {
        bench_ways(bench, 8192, 2048, 64, 8);
        bench_ways(bench, 8192, 7168, 256, 8);
    } else {
        bench_ways(bench, 1024, 512, 8, 2);
        bench_rungs(bench, 1024, 512, 512, 8, 2);
        bench_rungs(bench, 2048, 512, 256, 64, 2);
    }
}

int main(int argc, char **argv) {
    Bench bench = {0};
    bench_open(&bench, argc, argv,
               "A layer of experts: its time, its parts, and the number of experts.", NULL,
               "05_moe/figures/out/experts.csv", "table,tokens,hidden,inner,experts,top_k,shared");
    bench_ceilings(&bench);
    all_tables(&bench);
    bench_close(&bench);
    plot_or_explain("05_moe/figures/experts", bench.common.csv, NULL);
    return 0;
}
