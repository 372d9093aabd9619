/*
 * Chapter 07's benchmark: the rotation against the memory.
 *
 * Nothing is computed that takes long, so the yardstick is the copy bandwidth measured in the same
 * run: bytes are the rotated numbers of q and k, read once and written once, in place. What lies
 * between them (128 of 192 numbers of DeepSeek-V3's query heads) is not counted, for it need not
 * move. More than 100 % is no mistake: a copy has two buffers, and a CPU fetches the lines that it
 * is about to overwrite; in place there is nothing else to fetch.
 */
#include "07_rope/rope.h"

#include "common/program/bench.h"

#include <stdio.h>

typedef struct Shape {
    const char *name;
    int tokens, heads, kv_heads, head_dim, dim; /* of a query head the last dim are rotated */
    int kv_head_dim;
} Shape;

static const Shape cpu_shapes[] = {{"V3", 8192, 128, 1, 192, 64, 64},
                                   {"Llama", 16384, 32, 8, 128, 128, 128},
                                   {"V3, one token", 1, 128, 1, 192, 64, 64},
                                   {0}};
static const Shape cuda_shapes[] = {{"V3", 8192, 128, 1, 192, 64, 64},
                                    {"Llama", 32768, 32, 8, 128, 128, 128},
                                    {"V3, decoding", 64, 128, 1, 192, 64, 64},
                                    {0}};

typedef struct Work {
    Rope rope;
    RopePart q, k;
    const int32_t *positions;
    const Shape *shape;
} Work;

/* What the module calls, forwards. */
static void run_used(Context *ctx, void *user) {
    Work *w = user;
    (void)ctx;
    ON(ctx, rope_rotate, w->q, w->k, w->rope.cos, w->rope.sin, w->positions, w->shape->tokens,
       w->shape->dim, w->rope.cfg.max_position_embeddings, w->rope.cfg.layout, 0);
}

static void run_backward(Context *ctx, void *user) {
    Work *w = user;
    (void)ctx;
    ON(ctx, rope_rotate, w->q, w->k, w->rope.cos, w->rope.sin, w->positions, w->shape->tokens,
       w->shape->dim, w->rope.cfg.max_position_embeddings, w->rope.cfg.layout, 1);
}

#ifdef WITH_CUDA
static void run_sincos(Context *ctx, void *user) {
    Work *w = user;
    rope_sincos_cuda(ctx->gpu, ctx->dtype, w->q, w->k, w->rope.cfg.rope_theta, w->positions,
                     w->shape->tokens, w->shape->dim, w->rope.cfg.max_position_embeddings,
                     w->rope.cfg.layout, 0);
}

static void run_table(Context *ctx, void *user) {
    Work *w = user;
    rope_table_cuda(ctx->gpu, ctx->dtype, w->q, w->k, w->rope.cos, w->rope.sin, w->positions,
                    w->shape->tokens, w->shape->dim, w->rope.cfg.max_position_embeddings,
                    w->rope.cfg.layout, 0);
}

static void run_vector(Context *ctx, void *user) {
    Work *w = user;
    rope_vector_cuda(ctx->gpu, ctx->dtype, w->q, w->k, w->rope.cos, w->rope.sin, w->positions,
                     w->shape->tokens, w->shape->dim, w->rope.cfg.max_position_embeddings,
                     w->rope.cfg.layout, 0);
}
#endif

typedef struct Rung {
    const char *name;
    BenchFunction run;
} Rung;

static const Rung cpu_rungs[] = {{"forward", run_used}, {"backward", run_backward}, {0}};
#ifdef WITH_CUDA
static const Rung cuda_rungs[] = {{"sincos", run_sincos},        {"table", run_table},
                                  {"vector", run_vector},        {"heads", run_used},
                                  {"heads, back", run_backward}, {0}};
#else
static const Rung *const cuda_rungs = cpu_rungs; /* not reached: there is no such device */
#endif

static void bench_shape(Bench *bench, const Shape *s, RopeLayout layout) {
    Context *ctx = bench->ctx;
    Work w = {.shape = s};
    Error err;
    RopeConfig cfg = rope_config(s->dim, s->tokens);
    cfg.layout = layout;
    if (rope_init(&w.rope, ctx, &cfg, &err)) fatal("%s", err.text);
    Tensor *q = tensor_new(ctx, "q", ctx->dtype, SHAPE(1, s->tokens, s->heads, s->head_dim));
    Tensor *k = tensor_new(ctx, "k", ctx->dtype, SHAPE(1, s->tokens, s->kv_heads, s->kv_head_dim));
    bench_fill(ctx, q, 1);
    bench_fill(ctx, k, 2);
    w.q = (RopePart){q->data, s->heads, s->head_dim, s->head_dim - s->dim};
    w.k = (RopePart){k->data, s->kv_heads, s->kv_head_dim, s->kv_head_dim - s->dim};
    w.positions = positions_from(ctx, 1, s->tokens, 0)->data;

    double numbers = (double)s->tokens * (s->heads + s->kv_heads) * s->dim;
    double bytes = 2 * numbers * (double)dtype_size(ctx->dtype);
    const char *how = layout == ROPE_HALVES ? "halves" : "interleaved";
    for (const Rung *r = ctx->device == CUDA ? cuda_rungs : cpu_rungs; r->name; r++) {
        char name[64];
        snprintf(name, sizeof name, "%s  %s  %s", s->name, how, r->name);
        BenchTime t = bench_row(bench, name, ctx->dtype, 0, bytes, r->run, &w);
        bench_save(bench, "%s,%s,\"%s\",%d,%s,\"%s\",%.0f,%.2f,%.2f,%.1f", device_name(ctx->device),
                   dtype_name(ctx->dtype), s->name, s->tokens, how, r->name, bytes, 1e6 * t.min,
                   1e6 * t.median, 100 * bytes / t.min / bench->copy_bytes);
    }
    rope_free(&w.rope);
    context_reset(ctx);
}

static void all_shapes(Bench *bench, DType dtype) {
    char title[160];
    Context *ctx = bench->ctx;
    ctx->dtype = dtype;
    for (const Shape *s = ctx->device == CUDA ? cuda_shapes : cpu_shapes; s->name; s++) {
        snprintf(title, sizeof title,
                 "%s: %s, %d tokens, %d query heads of %d and %d of %d, %d numbers rotated",
                 s->name, dtype_name(dtype), s->tokens, s->heads, s->head_dim, s->kv_heads,
                 s->kv_head_dim, s->dim);
        bench_head(title);
        bench_shape(bench, s, ROPE_INTERLEAVED);
        bench_shape(bench, s, ROPE_HALVES);
    }
}

int main(int argc, char **argv) {
    Bench bench = {0};
    bench_open(&bench, argc, argv, "Rotating queries and keys: time against the bytes that move.",
               NULL, "07_rope/figures/out/bandwidth.csv",
               "device,dtype,shape,tokens,layout,rung,bytes,min_us,median_us,percent_of_copy");
    bench_ceilings(&bench);
    if (bench.ctx->device == CUDA) all_shapes(&bench, BF16);
    all_shapes(&bench, F32);
    bench_close(&bench);
    return 0;
}
