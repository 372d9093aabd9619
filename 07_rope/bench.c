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

#include <math.h>

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

#define PLACES(back)                                                                    \
    w->positions, w->shape->tokens, w->shape->dim, w->rope.cfg.max_position_embeddings, \
        w->rope.cfg.layout, back

/* What the module calls, forwards. */
static void run_used(Context *ctx, void *user) {
    Work *w = user;
    ON(ctx, rope_rotate, w->q, w->k, w->rope.cos, w->rope.sin, PLACES(0));
}

static void run_backward(Context *ctx, void *user) {
    Work *w = user;
    ON(ctx, rope_rotate, w->q, w->k, w->rope.cos, w->rope.sin, PLACES(1));
}

#ifdef WITH_CUDA
static void run_sincos(Context *ctx, void *user) {
    Work *w = user;
    rope_sincos_cuda(ctx->gpu, ctx->dtype, w->q, w->k, w->rope.cfg.rope_theta, PLACES(0));
}

static void run_table(Context *ctx, void *user) {
    Work *w = user;
    rope_table_cuda(ctx->gpu, ctx->dtype, w->q, w->k, w->rope.cos, w->rope.sin, PLACES(0));
}

static void run_vector(Context *ctx, void *user) {
    Work *w = user;
    rope_vector_cuda(ctx->gpu, ctx->dtype, w->q, w->k, w->rope.cos, w->rope.sin, PLACES(0));
}
#endif

static const BenchRung rungs[] = {{"forward", CPU, INFINITY, run_used, NULL},
                                  {"backward", CPU, INFINITY, run_backward, NULL},
#ifdef WITH_CUDA
                                  {"sincos", CUDA, INFINITY, run_sincos, NULL},
                                  {"table", CUDA, INFINITY, run_table, NULL},
                                  {"vector", CUDA, INFINITY, run_vector, NULL},
                                  {"heads", CUDA, INFINITY, run_used, NULL},
                                  {"heads, back", CUDA, INFINITY, run_backward, NULL},
#endif
                                  {0}};

static void bench_shape(Bench *bench, const Shape *s, RopeLayout layout) {
    Context *ctx = bench->ctx;
    Work w = {.shape = s};
    Error err;
    RopeConfig cfg = rope_config(s->dim, s->tokens);
    cfg.layout = layout;
    if (rope_init(&w.rope, ctx, &cfg, &err)) fatal("%s", err.text);
    Tensor *q = bench_tensor(ctx, "q", ctx->dtype, 1, SHAPE(1, s->tokens, s->heads, s->head_dim));
    Tensor *k =
        bench_tensor(ctx, "k", ctx->dtype, 2, SHAPE(1, s->tokens, s->kv_heads, s->kv_head_dim));
    w.q = (RopePart){q->data, s->heads, s->head_dim, s->head_dim - s->dim};
    w.k = (RopePart){k->data, s->kv_heads, s->kv_head_dim, s->kv_head_dim - s->dim};
    w.positions = positions_from(ctx, 1, s->tokens, 0)->data;

    double numbers = (double)s->tokens * (s->heads + s->kv_heads) * s->dim;
    double bytes = 2 * numbers * (double)dtype_size(ctx->dtype);
    const char *how = layout == ROPE_HALVES ? "halves" : "interleaved";
    for (const BenchRung *r = rungs; (r = bench_rung(bench, r, bytes, &w)); r++) {
        bench_row(bench, 0, bytes, r->run, &w, "%s  %s  %s", s->name, how, r->name);
        bench_save(bench, "\"%s\",%d,%s,\"%s\",%.0f", s->name, s->tokens, how, r->name, bytes);
    }
    rope_free(&w.rope);
    context_reset(ctx);
}

static void all_shapes(Bench *bench, DType dtype) {
    Context *ctx = bench->ctx;
    ctx->dtype = dtype;
    for (const Shape *s = ctx->device == CUDA ? cuda_shapes : cpu_shapes; s->name; s++) {
        bench_head("%s: %s, %d tokens, %d query heads of %d and %d of %d, %d numbers rotated",
                   s->name, dtype_name(dtype), s->tokens, s->heads, s->head_dim, s->kv_heads,
                   s->kv_head_dim, s->dim);
        bench_shape(bench, s, ROPE_INTERLEAVED);
        bench_shape(bench, s, ROPE_HALVES);
    }
}

int main(int argc, char **argv) {
    Bench bench = {.microseconds = true};
    bench_open(&bench, argc, argv, "Rotating queries and keys: time against the bytes that move.",
               NULL, "07_rope/figures/out/bandwidth.csv", "shape,tokens,layout,rung,bytes");
    bench_ceilings(&bench);
    if (bench.ctx->device == CUDA) all_shapes(&bench, BF16);
    all_shapes(&bench, F32);
    bench_close(&bench);
    return 0;
}
