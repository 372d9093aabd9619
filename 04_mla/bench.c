/*
 * Chapter 04's benchmark: decoding from latents.
 *
 *   1. attention alone, absorbed: every rung of the ladder, against the copy bandwidth and the
 *      matrix peak of the same run. Operations and bytes by FlashMLA's count (mla_decode.h): each
 *      latent is to be read once, whatever a rung does.
 *   2. a layer of DeepSeek-V2-Lite's size and one new token: naive, which makes the keys and values
 *      of all cached tokens again, against absorbed; the whole layer and its attention alone.
 *   3. the same with T new tokens: where naive wins.
 */
#include "04_mla/mla.h"
#include "04_mla/mla_decode.h"

#include "common/core/ops.h"
#include "common/program/bench.h"

#include <math.h>
#include <stdlib.h>

/* ---- 1. attention alone ---- */

typedef struct Decode {
    MlaDecodeShape shape;
    Tensor *q, *o, *latent, *block_table, *lengths, *scratch;
} Decode;

#define ARGUMENTS(d)                                                                           \
    (d)->o->data, (d)->scratch->data, (d)->q->data, (d)->latent->data, (d)->block_table->data, \
        (d)->lengths->data, (d)->shape

static void run_in_use(Context *ctx, void *user) {
    Decode *d = user;
    ON(ctx, mla_decode, ARGUMENTS(d));
}
static void run_reference(Context *ctx, void *user) {
    Decode *d = user;
    (void)ctx;
    mla_decode_reference_cpu(ARGUMENTS(d));
}
#ifdef WITH_CUDA
#define CUDA_RUNG(rung)                                               \
    static void run_##rung(Context *ctx, void *user) {                \
        Decode *d = user;                                             \
        mla_decode_##rung##_cuda(ctx->gpu, ctx->dtype, ARGUMENTS(d)); \
    }
CUDA_RUNG(naive)
CUDA_RUNG(online)
CUDA_RUNG(split)
CUDA_RUNG(mma)
CUDA_RUNG(hopper)
#endif

/* The rungs that use the GPU badly: above, they are left out. The naive one's scores would not fit
 * into memory, either. */
#define MOST_SLOW_FLOP 5e10

#ifdef WITH_CUDA
static int mma_takes(Context *ctx, const void *work) {
    return mla_decode_mma_supports(ctx->gpu, ctx->dtype, ((const Decode *)work)->shape);
}
static int hopper_takes(Context *ctx, const void *work) {
    return mla_decode_hopper_supports(ctx->gpu, ctx->dtype, ((const Decode *)work)->shape);
}
#endif

/* `most` is of the operations. */
static const BenchRung rungs[] = {{"reference", CPU, 5e7, run_reference, NULL},
                                  {"in use", CPU, INFINITY, run_in_use, NULL},
#ifdef WITH_CUDA
                                  {"naive", CUDA, MOST_SLOW_FLOP, run_naive, NULL},
                                  {"online", CUDA, MOST_SLOW_FLOP, run_online, NULL},
                                  {"split", CUDA, 4e11, run_split, NULL},
                                  {"mma", CUDA, INFINITY, run_mma, mma_takes},
                                  {"hopper", CUDA, INFINITY, run_hopper, hopper_takes},
                                  {"in use", CUDA, INFINITY, run_in_use, NULL},
#endif
                                  {0}};

typedef struct Shape {
    Device device;
    DType dtype;
    int batch, heads, q_len, length;
    bool varying; /* lengths from a page to `length` */
} Shape;

/* V2-Lite has 16 heads; so has one of eight GPUs that share V3's 128. */
static const Shape shapes[] = {
    {CPU, F32, 1, 16, 1, 256, false},       {CPU, F32, 1, 16, 1, 1024, false},
    {CPU, F32, 1, 16, 1, 4096, false},      {CPU, F32, 1, 16, 1, 16384, false},
    {CPU, F32, 8, 16, 1, 2048, true},       {CPU, F32, 1, 16, 4, 4096, false},
    {CPU, F32, 1, 2, 1, 4096, false},       {CPU, F32, 1, 128, 1, 4096, false},
    {CUDA, BF16, 128, 16, 1, 8192, false},  {CUDA, BF16, 128, 16, 2, 8192, false},
    {CUDA, BF16, 128, 128, 1, 8192, false}, {CUDA, BF16, 128, 128, 2, 8192, false},
    {CUDA, BF16, 128, 64, 1, 8192, false},  {CUDA, BF16, 16, 128, 1, 65536, false},
    {CUDA, BF16, 128, 16, 1, 8192, true},   {CUDA, BF16, 128, 128, 1, 8192, true},
    {CUDA, BF16, 8, 16, 1, 8192, false},    {CUDA, BF16, 1, 16, 1, 8192, false},
    {CUDA, BF16, 1, 128, 1, 8192, false},   {CUDA, BF16, 1, 16, 1, 65536, false},
    {CUDA, BF16, 1, 128, 1, 65536, false},  {CUDA, F32, 16, 16, 1, 4096, false},
    {CUDA, F32, 1, 16, 1, 4096, false},
};

/* Block table and lengths; returns the tokens of all sequences. The pages lie in no order, as in a
 * pool that has been in use for a while. */
static double fill_tables(Context *ctx, Decode *d, bool varying) {
    MlaDecodeShape *s = &d->shape;
    int32_t *table = must_alloc((size_t)s->pages, sizeof(int32_t));
    int32_t *lengths = must_alloc((size_t)s->batch, sizeof(int32_t));
    for (int i = 0; i < s->pages; i++) table[i] = i;
    for (int i = s->pages - 1; i > 0; i--) {
        int j = (int)(rng_uniform(ctx->rng.seed, 3, (uint64_t)i) * (float)i);
        int32_t page = table[i];
        table[i] = table[j];
        table[j] = page;
    }
    double tokens = 0;
    for (int b = 0; b < s->batch; b++) {
        float part = rng_uniform(ctx->rng.seed, 4, (uint64_t)b);
        lengths[b] = varying ? PAGE_TOKENS + (int)(part * (float)(s->max_length - PAGE_TOKENS))
                             : s->max_length;
        tokens += lengths[b];
    }
    d->block_table = tensor_copy_in(ctx, "block_table", I32, table, SHAPE(s->batch, s->max_pages));
    d->lengths = tensor_copy_in(ctx, "lengths", I32, lengths, SHAPE(s->batch));
    free(table), free(lengths);
    return tokens;
}

static size_t scratch_bytes(Context *ctx, MlaDecodeShape s, double flop) {
#ifdef WITH_CUDA
    if (ctx->device == CUDA) {
        size_t bytes = mla_decode_scratch_cuda(ctx->gpu, ctx->dtype, s);
        size_t naive = flop <= MOST_SLOW_FLOP ? mla_decode_naive_scratch(s) : 0;
        return naive > bytes ? naive : bytes;
    }
#endif
    (void)ctx, (void)flop;
    return mla_decode_scratch_cpu(s);
}

static void bench_decode(Bench *bench, const Shape *shape) {
    Context *ctx = bench->ctx;
    DType dtype = ctx->dtype = shape->dtype;
    int width = 512 + 64, pages = (shape->length + PAGE_TOKENS - 1) / PAGE_TOKENS;
    Decode d = {.shape = {.batch = shape->batch,
                          .q_len = shape->q_len,
                          .heads = shape->heads,
                          .kv_lora_rank = 512,
                          .rope_dim = 64,
                          .pages = shape->batch * pages,
                          .max_pages = pages,
                          .max_length = shape->length,
                          .scale = 1.0f / sqrtf(192)}};
    MlaDecodeShape *s = &d.shape;
    double tokens = fill_tables(ctx, &d, shape->varying), mean = tokens / s->batch;
    double flop = mla_decode_flop(*s, 1) * mean;
    double latents = tokens * width * (double)dtype_size(dtype);
    double bytes = mla_decode_bytes(*s, 0, dtype) + latents;
    d.q = bench_tensor(ctx, "q", dtype, 1, SHAPE(s->batch, s->q_len, s->heads, width));
    d.o = tensor_new(ctx, "o", dtype, SHAPE(s->batch, s->q_len, s->heads, 512));
    d.latent = bench_tensor(ctx, "latent", dtype, 2, SHAPE(s->pages, PAGE_TOKENS, width));
    d.scratch = tensor_new(ctx, "scratch", F32,
                           SHAPE((int64_t)(scratch_bytes(ctx, *s, flop) / sizeof(float)) + 1));

    for (const BenchRung *r = rungs; (r = bench_rung(bench, r, flop, &d)); r++) {
        bench_row(bench, flop, bytes, r->run, &d, "B %d, H %d, q %d, %s%d  %s", s->batch, s->heads,
                  s->q_len, shape->varying ? "up to " : "", shape->length, r->name);
        bench_save(bench, "attention,%s,%d,%d,%d,%d,%d", r->name, s->batch, s->q_len, s->heads,
                   shape->length, shape->varying);
    }
    context_reset(ctx);
}

/* ---- 2. and 3. a layer ---- */

static const MlaConfig v2_lite = {.hidden_size = 2048,
                                  .num_attention_heads = 16,
                                  .q_lora_rank = 0,
                                  .kv_lora_rank = 512,
                                  .qk_nope_head_dim = 128,
                                  .qk_rope_head_dim = 64,
                                  .v_head_dim = 128};

typedef struct Layer {
    Params params; /* x and q are in it, so that the arena can be emptied after each call */
    Mla w;
    Tensor *x, *q;
    Pages pages;
    LatentCache cache;
    MlaMode mode;
    int batch, T, S; /* S: with the T new tokens */
    float scale;
} Layer;

/* The cache holds S - T tokens of noise. */
static void layer_init(Layer *l, Context *ctx, int batch, int T, int S) {
    Error err = {0};
    const MlaConfig *c = &v2_lite;
    int rank = c->kv_lora_rank, rope = c->qk_rope_head_dim;
    *l = (Layer){.batch = batch, .T = T, .S = S, .scale = mla_scale(c, NULL)};
    params_init(&l->params, ctx);
    l->w = mla_init(&l->params, "self_attn", c);
    l->x = params_new(&l->params, NULL, "x", SHAPE(batch, T, c->hidden_size));
    l->q = params_new(&l->params, NULL, "q",
                      SHAPE(batch, T, c->num_attention_heads, c->qk_nope_head_dim + rope));
    if (params_allocate(&l->params, false, &err)) fatal("%s", err.text);
    mla_randomize(&l->params, &l->w, 0.02f, 0.02f);
    params_normal(&l->params, l->x, 1.0f);
    params_normal(&l->params, l->q, 1.0f);
    if (pages_init(&l->pages, ctx, batch, S, 0, &err) ||
        latent_cache_init(&l->cache, ctx, &l->pages, rank + rope, &err) ||
        pages_begin(&l->pages, S, &err))
        fatal("%s", err.text);
    Tensor *c_kv = bench_tensor(ctx, "c_kv", ctx->dtype, 5, SHAPE(batch, S, rank));
    Tensor *k_rope = bench_tensor(ctx, "k_rope", ctx->dtype, 6, SHAPE(batch, S, rope));
    latent_cache_append(ctx, &l->cache, c_kv, k_rope);
    context_reset(ctx);
}

static void layer_free(Layer *l) {
    latent_cache_free(&l->cache);
    pages_free(&l->pages);
    params_free(&l->params);
}

static void run_layer(Context *ctx, void *user) {
    Layer *l = user;
    pages_truncate(&l->pages, -1, l->S - l->T);
    if (pages_begin(&l->pages, l->T, NULL)) fatal("the cache has lost its room");
    mla_forward(ctx, l->x, &l->w, &v2_lite, NULL, NULL, &l->cache, l->mode, (Residual){0});
    context_reset(ctx);
}

/* The layer without the projections of x and of the output, as mla_forward does it. All S latents
 * are in the cache: run_layer() has been here before. */
static void run_attention(Context *ctx, void *user) {
    Layer *l = user;
    const LatentCache *cache = &l->cache;
    int rank = v2_lite.kv_lora_rank, rope = v2_lite.qk_rope_head_dim;
    if (l->mode == MLA_ABSORBED) {
        mla_absorbed_attention(ctx, l->q, NULL, &l->w, &v2_lite, cache, l->scale);
    } else {
        Tensor *c_kv = tensor_new(ctx, "c_kv", ctx->dtype, SHAPE(l->batch, l->S, rank));
        Tensor *k_rope = tensor_new(ctx, "k_rope", ctx->dtype, SHAPE(l->batch, l->S, rope));
        ON(ctx, latent_gather, c_kv->data, k_rope->data, cache->latent.data,
           l->pages.block_table.data, l->pages.lengths.data, l->batch, l->S, rank, rope,
           l->pages.max_pages);
        Tensor *kv = linear(ctx, c_kv, l->w.kv_b_proj, NULL);
        kv = reshape(ctx, kv,
                     SHAPE(l->batch, l->S, v2_lite.num_attention_heads,
                           v2_lite.qk_nope_head_dim + v2_lite.v_head_dim));
        mla_naive_attention(ctx, l->q, kv, k_rope, NULL, &v2_lite, l->scale);
    }
    context_reset(ctx);
}

/* Bytes that a step must read: what it multiplies by, and the cache. */
static double step_bytes(const Layer *l, DType dtype, bool whole) {
    double numbers = (double)tensor_count(l->w.kv_b_proj);
    if (whole)
        numbers += (double)tensor_count(l->w.q_proj) + (double)tensor_count(l->w.kv_a_proj) +
                   (double)tensor_count(l->w.o_proj);
    numbers += (double)l->batch * l->S * (v2_lite.kv_lora_rank + v2_lite.qk_rope_head_dim);
    return numbers * (double)dtype_size(dtype);
}

static void bench_layer(Bench *bench, int batch, int T, int S, bool attention_too) {
    Context *ctx = bench->ctx;
    Layer l;
    layer_init(&l, ctx, batch, T, S);
    double projections = 2.0 * batch * T *
                         ((double)tensor_count(l.w.q_proj) + (double)tensor_count(l.w.kv_a_proj) +
                          (double)tensor_count(l.w.o_proj));
    for (int whole = 1; whole >= !attention_too; whole--)
        for (int absorbed = 0; absorbed < 2; absorbed++) {
            const char *mode = absorbed ? "absorbed" : "naive";
            l.mode = absorbed ? MLA_ABSORBED : MLA_NAIVE;
            double flop = batch * (absorbed ? mla_absorbed_flop(&v2_lite, T, S)
                                            : mla_naive_flop(&v2_lite, T, S));
            if (whole) flop += projections;
            bench_row(bench, flop, step_bytes(&l, ctx->dtype, whole),
                      whole ? run_layer : run_attention, &l, "T %d, S %d  %s%s", T, S, mode,
                      whole ? "" : ", attention alone");
            bench_save(bench, "%s,%s,%d,%d,%d,%d,0", whole ? "layer" : "layer's attention", mode,
                       batch, T, v2_lite.num_attention_heads, S);
        }
    layer_free(&l);
}

/* ---- the tables ---- */

int main(int argc, char **argv) {
    Bench bench = {.microseconds = true};
    bench_open(&bench, argc, argv, "Decoding from latents: the ladder, and naive against absorbed.",
               NULL, "04_mla/figures/out/bench.csv", "part,rung,B,T,H,S,varying");
    bench_ceilings(&bench);
    Context *ctx = bench.ctx;
    bench_head("absorbed attention alone: kv_lora_rank 512, rope 64");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (shapes[i].device == ctx->device) bench_decode(&bench, &shapes[i]);

    int batch = ctx->device == CUDA ? 8 : 1;
    ctx->dtype = ctx->device == CUDA ? BF16 : F32;
    bench_head("a layer of V2-Lite's size, %s, B %d: one new token", dtype_name(ctx->dtype), batch);
    for (int S = 256; S <= 16384; S *= 4) bench_layer(&bench, batch, 1, S, true);
    bench_head("the same: T new tokens");
    for (int T = 1; T <= 512; T *= 2)
        if (T != 2) bench_layer(&bench, batch, T, 4096, false);
    bench_close(&bench);
    return 0;
}
