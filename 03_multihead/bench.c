/*
 * Chapter 03's benchmark: what sharing keys and values saves, in bytes and in time.
 *
 * Decoding reads the whole cache for each token and does next to nothing with it, so its
 * yardstick is the copy bandwidth; prefill is matrix products, so its yardstick is the matrix
 * peak. Both are measured in the same run. (A copy writes as much as it reads, and reading alone
 * can be faster: more than 100 % of it is no mistake.)
 */
#include "03_multihead/decode.h"
#include "03_multihead/multihead.h"

#include "02_causal/causal.h"
#include "common/program/bench.h"
#include "common/program/plot.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- one decoding step, the attention alone ---- */

typedef struct Decode {
    DecodeShape shape;
    Tensor *o, *q, *k, *v, *scratch, *lse;
} Decode;

static void run_grouped(Context *ctx, void *user) {
    Decode *d = user;
    (void)ctx;
    ON(ctx, decode_attention, d->o->data, d->scratch->data, d->q->data, d->k->data, d->v->data,
       d->shape);
}

/* Chapter 02's kernel with one query: every query head reads its keys for itself. */
static void run_causal(Context *ctx, void *user) {
    Decode *d = user;
    (void)ctx;
    const DecodeShape *s = &d->shape;
    AttentionShape shape =
        attention_shape(s->batch, s->heads, s->kv_heads, 1, s->length, s->head_dim, s->head_dim, 1);
    ON(ctx, causal_forward, d->o->data, d->lse->data, d->q->data, d->k->data, d->v->data, shape);
}

#ifdef WITH_CUDA
static void run_plain(Context *ctx, void *user) {
    Decode *d = user;
    decode_plain_cuda(ctx->gpu, ctx->dtype, d->o->data, d->scratch->data, d->q->data, d->k->data,
                      d->v->data, d->shape);
}
#endif

static const char *variant_name(int heads, int kv_heads) {
    return kv_heads == heads ? "MHA" : kv_heads == 1 ? "MQA" : "GQA";
}

typedef struct Rung {
    const char *name;
    BenchFunction run;
} Rung;

/* All rungs on one cache; a row in the table and in the CSV for each. */
static void bench_decode(Bench *bench, int B, int H, int H_kv, int D, int length) {
    Context *ctx = bench->ctx;
    Decode d = {.shape = decode_shape(B, H, H_kv, D, length, length)};
    d.q = tensor_new(ctx, "q", ctx->dtype, SHAPE(B, H, D));
    d.o = tensor_new(ctx, "o", ctx->dtype, SHAPE(B, H, D));
    d.k = tensor_new(ctx, "k", ctx->dtype, SHAPE(B, length, H_kv, D));
    d.v = tensor_new(ctx, "v", ctx->dtype, SHAPE(B, length, H_kv, D));
    d.scratch = tensor_new(ctx, "scratch", F32, SHAPE(decode_scratch_floats(d.shape)));
    d.lse = tensor_new(ctx, "lse", F32, SHAPE(B, H));
    bench_fill(ctx, d.q, 1);
    bench_fill(ctx, d.k, 2);
    bench_fill(ctx, d.v, 3);
    double bytes = (double)(tensor_bytes(d.k) + tensor_bytes(d.v));
    double flop = 4.0 * B * H * D * length;

    Rung rungs[3] = {{"chapter 02", run_causal}};
    int count = 1;
#ifdef WITH_CUDA
    if (ctx->device == CUDA) rungs[count++] = (Rung){"plain", run_plain};
#endif
    rungs[count++] = (Rung){"grouped", run_grouped};
    for (int i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s %d:%d  %d tokens  %s", variant_name(H, H_kv), H, H_kv,
                 length, rungs[i].name);
        BenchTime t = bench_row(bench, name, ctx->dtype, flop, bytes, rungs[i].run, &d);
        bench_save(bench, "%s,%s,%d,%d,%d,%d,%s,%s,%.0f,%.2f,%.2f,%.1f", device_name(ctx->device),
                   dtype_name(ctx->dtype), B, H, H_kv, length, variant_name(H, H_kv), rungs[i].name,
                   bytes, 1e6 * t.min, 1e6 * t.median, 100 * bytes / t.min / bench->copy_bytes);
    }
    context_reset(ctx);
}

/* ---- the whole module: projections, cache, attention ---- */

typedef struct Layer {
    MultiheadConfig cfg;
    Multihead w;
    Params params; /* x is in it, so that the arena can be emptied after each call */
    Tensor *x;
    KVCache cache;
    int length; /* of the cache before a decoding step */
} Layer;

static void run_prefill(Context *ctx, void *user) {
    Layer *l = user;
    multihead_forward(ctx, l->x, &l->w, &l->cfg, NULL, (Residual){0});
    context_reset(ctx);
}

static void run_step(Context *ctx, void *user) {
    Layer *l = user;
    kv_cache_truncate(&l->cache, l->length);
    multihead_forward(ctx, l->x, &l->w, &l->cfg, &l->cache, (Residual){0});
    context_reset(ctx);
}

static void layer_init(Layer *l, Context *ctx, int B, int T, int H, int H_kv, int D) {
    Error err = {0};
    l->cfg = (MultiheadConfig){H * D, H, H_kv, D, false};
    params_init(&l->params, ctx);
    l->w = multihead_init(&l->params, "self_attn", &l->cfg);
    l->x = params_new(&l->params, NULL, "x", SHAPE(B, T, H * D));
    if (params_allocate(&l->params, false, &err)) fatal("%s", err.text);
    multihead_randomize(&l->params, &l->w, 0.02f, 0.02f);
    params_normal(&l->params, l->x, 1.0f);
}

/* Numbers in the four matrices. */
static double weights(const Layer *l) {
    return (double)tensor_count(l->w.q_proj) + tensor_count(l->w.k_proj) +
           tensor_count(l->w.v_proj) + tensor_count(l->w.o_proj);
}

static void bench_prefill(Bench *bench, int B, int T, int H, int H_kv, int D) {
    Layer l = {0};
    char name[64];
    layer_init(&l, bench->ctx, B, T, H, H_kv, D);
    /* The projections, and the half of the T x T square that the mask leaves. */
    double flop = 2.0 * B * T * weights(&l) + 2.0 * B * H * D * (double)T * (T + 1);
    snprintf(name, sizeof name, "%s %d:%d  B %d, T %d", variant_name(H, H_kv), H, H_kv, B, T);
    bench_row(bench, name, bench->ctx->dtype, flop, 0, run_prefill, &l);
    params_free(&l.params);
}

static void bench_step(Bench *bench, int B, int H, int H_kv, int D, int length) {
    Layer l = {.length = length};
    Error err = {0};
    char name[64];
    Context *ctx = bench->ctx;
    layer_init(&l, ctx, B, 1, H, H_kv, D);
    if (kv_cache_init(&l.cache, ctx, B, length + 1, H_kv, D, &err)) fatal("%s", err.text);
    bench_fill(ctx, &l.cache.k, 2);
    bench_fill(ctx, &l.cache.v, 3);
    l.cache.length = length;
    double size = (double)dtype_size(ctx->dtype);
    double bytes =
        size * weights(&l) + (double)(tensor_bytes(&l.cache.k) + tensor_bytes(&l.cache.v));
    double flop = 2.0 * B * weights(&l) + 4.0 * B * H * D * length;
    snprintf(name, sizeof name, "%s %d:%d  B %d, %d tokens", variant_name(H, H_kv), H, H_kv, B,
             length);
    bench_row(bench, name, ctx->dtype, flop, bytes, run_step, &l);
    kv_cache_free(&l.cache);
    params_free(&l.params);
}

/* ---- the tables ---- */

typedef struct Sizes {
    int B, H, D;
    int kv_heads[3], lengths[6];
    int prefill_B, prefill_T;
} Sizes;

static const Sizes cpu_sizes = {1, 16, 64, {16, 4, 1}, {512, 1024, 2048, 4096, 8192, 0}, 1, 512};
static const Sizes cuda_sizes = {16, 32, 128, {32, 8, 1}, {1024, 2048, 4096, 8192, 0}, 2, 2048};

static void all_tables(Bench *bench, DType dtype) {
    char title[160];
    Context *ctx = bench->ctx;
    Sizes s = ctx->device == CUDA ? cuda_sizes : cpu_sizes;
    ctx->dtype = dtype;
    snprintf(title, sizeof title, "decoding, attention alone: %s, B %d, %d query heads of %d",
             dtype_name(dtype), s.B, s.H, s.D);
    bench_head(title);
    for (int i = 0; i < 3; i++)
        for (int j = 0; s.lengths[j]; j++)
            bench_decode(bench, s.B, s.H, s.kv_heads[i], s.D, s.lengths[j]);
    snprintf(title, sizeof title, "decoding, the whole module: %s, hidden size %d",
             dtype_name(dtype), s.H * s.D);
    bench_head(title);
    for (int i = 0; i < 3; i++) bench_step(bench, s.B, s.H, s.kv_heads[i], s.D, s.lengths[2]);
    snprintf(title, sizeof title, "prefill, the whole module: %s, hidden size %d",
             dtype_name(dtype), s.H * s.D);
    bench_head(title);
    for (int i = 0; i < 3; i++)
        bench_prefill(bench, s.prefill_B, s.prefill_T, s.H, s.kv_heads[i], s.D);
}

int main(int argc, char **argv) {
    Bench bench = {0};
    bench_open(&bench, argc, argv,
               "Decoding and prefill with MHA, GQA and MQA: time against the bytes of the cache.",
               NULL, "03_multihead/figures/out/decode.csv",
               "device,dtype,B,H,H_kv,tokens,variant,rung,cache_bytes,min_us,median_us,"
               "percent_of_copy");
    bench_ceilings(&bench);
    if (bench.ctx->device == CUDA) all_tables(&bench, BF16);
    all_tables(&bench, F32);
    bench_close(&bench);
    plot_or_explain("03_multihead/figures/decode.gp", bench.common.csv,
                    "03_multihead/figures/out/decode");
    return 0;
}
