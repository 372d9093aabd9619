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

#include <math.h>

/* ---- one decoding step, the attention alone ---- */

typedef struct Decode {
    DecodeShape shape;
    Tensor *o, *q, *k, *v, *scratch, *lse;
} Decode;

static void run_grouped(Context *ctx, void *user) {
    Decode *d = user;
    ON(ctx, decode_attention, d->o->data, d->scratch->data, d->q->data, d->k->data, d->v->data,
       d->shape);
}

/* Chapter 02's kernel with one query: every query head reads its keys for itself. */
static void run_causal(Context *ctx, void *user) {
    Decode *d = user;
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

static const BenchRung rungs[] = {{"chapter 02", CPU, INFINITY, run_causal, NULL},
                                  {"grouped", CPU, INFINITY, run_grouped, NULL},
#ifdef WITH_CUDA
                                  {"chapter 02", CUDA, INFINITY, run_causal, NULL},
                                  {"plain", CUDA, INFINITY, run_plain, NULL},
                                  {"grouped", CUDA, INFINITY, run_grouped, NULL},
#endif
                                  {0}};

/* All rungs on one cache; a row in the table and in the CSV for each. */
static void bench_decode(Bench *bench, int B, int H, int H_kv, int D, int length) {
    Context *ctx = bench->ctx;
    Decode d = {.shape = decode_shape(B, H, H_kv, D, length, length)};
    d.q = bench_tensor(ctx, "q", ctx->dtype, 1, SHAPE(B, H, D));
    d.o = tensor_new(ctx, "o", ctx->dtype, SHAPE(B, H, D));
    d.k = bench_tensor(ctx, "k", ctx->dtype, 2, SHAPE(B, length, H_kv, D));
    d.v = bench_tensor(ctx, "v", ctx->dtype, 3, SHAPE(B, length, H_kv, D));
    d.scratch = tensor_new(ctx, "scratch", F32, SHAPE(decode_scratch_floats(d.shape)));
    d.lse = tensor_new(ctx, "lse", F32, SHAPE(B, H));
    double bytes = (double)(tensor_bytes(d.k) + tensor_bytes(d.v));
    double flop = 4.0 * B * H * D * length;

    const char *variant = variant_name(H, H_kv);
    for (const BenchRung *r = rungs; (r = bench_rung(bench, r, flop, &d)); r++) {
        bench_row(bench, flop, bytes, r->run, &d, "%s %d:%d  %d tokens  %s", variant, H, H_kv,
                  length, r->name);
        bench_save(bench, "%d,%d,%d,%d,%s,%s,%.0f", B, H, H_kv, length, variant, r->name, bytes);
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
    layer_init(&l, bench->ctx, B, T, H, H_kv, D);
    /* The projections, and the half of the T x T square that the mask leaves. */
    double flop = 2.0 * B * T * weights(&l) + 2.0 * B * H * D * (double)T * (T + 1);
    bench_row(bench, flop, 0, run_prefill, &l, "%s %d:%d  B %d, T %d", variant_name(H, H_kv), H,
              H_kv, B, T);
    params_free(&l.params);
}

static void bench_step(Bench *bench, int B, int H, int H_kv, int D, int length) {
    Layer l = {.length = length};
    Error err = {0};
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
    bench_row(bench, flop, bytes, run_step, &l, "%s %d:%d  B %d, %d tokens", variant_name(H, H_kv),
              H, H_kv, B, length);
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
    Context *ctx = bench->ctx;
    Sizes s = ctx->device == CUDA ? cuda_sizes : cpu_sizes;
    ctx->dtype = dtype;
    bench_head("decoding, attention alone: %s, B %d, %d query heads of %d", dtype_name(dtype), s.B,
               s.H, s.D);
    for (int i = 0; i < 3; i++)
        for (int j = 0; s.lengths[j]; j++)
            bench_decode(bench, s.B, s.H, s.kv_heads[i], s.D, s.lengths[j]);
    bench_head("decoding, the whole module: %s, hidden size %d", dtype_name(dtype), s.H * s.D);
    for (int i = 0; i < 3; i++) bench_step(bench, s.B, s.H, s.kv_heads[i], s.D, s.lengths[2]);
    bench_head("prefill, the whole module: %s, hidden size %d", dtype_name(dtype), s.H * s.D);
    for (int i = 0; i < 3; i++)
        bench_prefill(bench, s.prefill_B, s.prefill_T, s.H, s.kv_heads[i], s.D);
}

int main(int argc, char **argv) {
    Bench bench = {.microseconds = true};
    bench_open(&bench, argc, argv,
               "Decoding and prefill with MHA, GQA and MQA: time against the bytes of the cache.",
               NULL, "03_multihead/figures/out/decode.csv",
               "B,H,H_kv,tokens,variant,rung,cache_bytes");
    bench_ceilings(&bench);
    if (bench.ctx->device == CUDA) all_tables(&bench, BF16);
    all_tables(&bench, F32);
    bench_close(&bench);
    plot_or_explain("03_multihead/figures/decode", bench.common.csv, NULL);
    return 0;
}
