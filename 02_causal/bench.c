/*
 * Chapter 02's benchmark: every rung of the ladder, forward and backward, against the matrix peak
 * of the same run.
 *
 * Operations are those that a causal mask leaves: T (T + 1) / 2 scores a head, each 2 (qk_dim +
 * v_dim) of them forward and 2.5 times as many backward. What a kernel computes beyond (tiles cut
 * by the diagonal, the whole square when materialised) is its own affair and lowers its share.
 */
#include "common/program/bench.h"
#include "02_causal/causal.h"

typedef struct Work {
    AttentionShape shape;
    DType dtype;
    void *q, *k, *v, *d_o, *o, *dq, *dk, *dv;
    float *lse, *scratch, *p; /* p: the materialised probabilities (CPU) */
} Work;

/* ---- the CPU's rungs ---- */

#define CPU_RUNG(name, kernel, ...)              \
    static void name(Context *ctx, void *user) { \
        Work *w = user;                          \
        (void)ctx;                               \
        kernel(__VA_ARGS__, w->shape);           \
    }
#define GRADIENTS w->dq, 0, w->dk, 0, w->dv, 0
CPU_RUNG(reference, causal_reference_cpu, w->o, w->lse, w->q, w->k, w->v)
CPU_RUNG(materialised, causal_materialised_cpu, w->o, w->p, w->q, w->k, w->v)
CPU_RUNG(reference_backward, causal_reference_backward_cpu, GRADIENTS, w->d_o, w->q, w->k, w->v,
         w->o, w->lse)
CPU_RUNG(materialised_backward, causal_materialised_backward_cpu, GRADIENTS, w->scratch, w->d_o,
         w->q, w->k, w->v, w->p)

/* ---- in use, on either device ---- */

static void in_use(Context *ctx, void *user) {
    Work *w = user;
    ON(ctx, causal_forward, w->o, w->lse, w->q, w->k, w->v, w->shape);
}
static void in_use_backward(Context *ctx, void *user) {
    Work *w = user;
    ON(ctx, causal_backward, GRADIENTS, w->scratch, w->d_o, w->q, w->k, w->v, w->o, w->lse,
       w->shape);
}

/* ---- CUDA's rungs ---- */

#ifdef WITH_CUDA
#define FORWARD_RUNG(rung)                                                               \
    static void rung(Context *ctx, void *user) {                                         \
        Work *w = user;                                                                  \
        causal_forward_##rung##_cuda(ctx->gpu, w->dtype, w->o, w->lse, w->q, w->k, w->v, \
                                     w->shape);                                          \
    }
#define BACKWARD_RUNG(rung)                                                               \
    static void rung##_backward(Context *ctx, void *user) {                               \
        Work *w = user;                                                                   \
        causal_backward_##rung##_cuda(ctx->gpu, w->dtype, w->dq, 0, w->dk, 0, w->dv, 0,   \
                                      w->scratch, w->d_o, w->q, w->k, w->v, w->o, w->lse, \
                                      w->shape);                                          \
    }
static void materialised_on_gpu(Context *ctx, void *user) {
    Work *w = user;
    causal_forward_materialised_cuda(ctx->gpu, w->dtype, w->o, w->lse, w->q, w->k, w->v, w->shape);
}
FORWARD_RUNG(online)
FORWARD_RUNG(mma)
FORWARD_RUNG(hopper)
BACKWARD_RUNG(tiled)
BACKWARD_RUNG(mma)
BACKWARD_RUNG(hopper)

static int mma_takes(Context *ctx, const void *work) {
    const Work *w = work;
    return causal_mma_supports(ctx->gpu, w->dtype, w->o, w->q, w->k, w->v, w->shape);
}
static int hopper_takes(Context *ctx, const void *work) {
    const Work *w = work;
    return causal_hopper_supports(ctx->gpu, w->dtype, w->o, w->q, w->k, w->v, w->shape);
}
static int mma_backward_takes(Context *ctx, const void *work) {
    const Work *w = work;
    return causal_backward_mma_supports(ctx->gpu, w->dtype, w->dq, w->dk, w->dv, w->d_o, w->q, w->k,
                                        w->v, w->shape);
}
static int hopper_backward_takes(Context *ctx, const void *work) {
    const Work *w = work;
    return causal_backward_hopper_supports(ctx->gpu, w->dtype, w->dq, w->dk, w->dv, w->d_o, w->q,
                                           w->k, w->v, w->o, w->shape);
}
#endif

/* `most` is the longest T: the others are too slow, or need too much memory. */
static const BenchRung forward_rungs[] = {{"reference", CPU, 256, reference, NULL},
                                          {"materialised", CPU, 4096, materialised, NULL},
                                          {"tiled (in use)", CPU, 1 << 20, in_use, NULL},
#ifdef WITH_CUDA
                                          {"materialised", CUDA, 4096, materialised_on_gpu, NULL},
                                          {"online", CUDA, 8192, online, NULL},
                                          {"mma", CUDA, 1 << 20, mma, mma_takes},
                                          {"hopper", CUDA, 1 << 20, hopper, hopper_takes},
                                          {"in use", CUDA, 1 << 20, in_use, NULL},
#endif
                                          {0}};
static const BenchRung backward_rungs[] = {
    {"reference", CPU, 256, reference_backward, NULL},
    {"materialised", CPU, 4096, materialised_backward, NULL},
    {"tiled (in use)", CPU, 1 << 20, in_use_backward, NULL},
#ifdef WITH_CUDA
    {"tiled", CUDA, 8192, tiled_backward, NULL},
    {"mma", CUDA, 1 << 20, mma_backward, mma_backward_takes},
    {"hopper", CUDA, 1 << 20, hopper_backward, hopper_backward_takes},
    {"in use", CUDA, 1 << 20, in_use_backward, NULL},
#endif
    {0}};

/* ---- shapes ---- */

typedef struct Shape {
    Device device;
    DType dtype;
    int batch, heads, tokens, dim, v_dim;
} Shape;

static const Shape shapes[] = {
    {CPU, F32, 8, 8, 128, 32, 32},
    {CPU, F32, 1, 8, 128, 64, 64},
    {CPU, F32, 1, 8, 256, 64, 64},
    {CPU, F32, 1, 8, 512, 64, 64},
    {CPU, F32, 1, 8, 1024, 64, 64},
    {CPU, F32, 1, 8, 2048, 64, 64},
    {CUDA, BF16, 4, 16, 4096, 64, 64},
    {CUDA, BF16, 4, 16, 4096, 128, 128},
    {CUDA, BF16, 4, 16, 1024, 64, 64},
    {CUDA, F32, 4, 16, 1024, 64, 64},
    {CUDA, F32, 4, 16, 1024, 128, 128},
    {CUDA, BF16, 32, 8, 1024, 96, 64},   /* latent attention of chapter 10's 109m, in training */
    {CUDA, BF16, 32, 8, 1024, 128, 128}, /* the same, had it been padded */
};

static void *buffer(Context *ctx, DType dtype, int64_t count, uint64_t stream) {
    return bench_tensor(ctx, "work", dtype, stream, SHAPE(count))->data;
}

static Work work_new(Context *ctx, DType dtype, AttentionShape s) {
    int64_t q = (int64_t)s.batch * s.q_len * s.heads * s.qk_dim;
    int64_t k = (int64_t)s.batch * s.kv_len * s.kv_heads * s.qk_dim;
    int64_t v = (int64_t)s.batch * s.kv_len * s.kv_heads * s.v_dim;
    int64_t o = (int64_t)s.batch * s.q_len * s.heads * s.v_dim;
    Work w = {.shape = s, .dtype = dtype};
    w.q = buffer(ctx, dtype, q, 1), w.dq = buffer(ctx, dtype, q, 2);
    w.k = buffer(ctx, dtype, k, 3), w.dk = buffer(ctx, dtype, k, 4);
    w.v = buffer(ctx, dtype, v, 5), w.dv = buffer(ctx, dtype, v, 6);
    w.o = buffer(ctx, dtype, o, 7), w.d_o = buffer(ctx, dtype, o, 8);
    w.lse = arena_alloc(&ctx->data, sizeof(float) * (size_t)s.batch * (size_t)(s.heads * s.q_len));
    size_t scratch = causal_backward_scratch_cpu(s);
#ifdef WITH_CUDA
    if (ctx->device == CUDA) scratch = causal_backward_scratch_cuda(ctx->gpu, dtype, s);
#endif
    size_t matrix =
        sizeof(float) * (size_t)s.batch * (size_t)s.heads * (size_t)s.q_len * (size_t)s.kv_len;
    if (ctx->device == CPU) {
        w.p = arena_alloc(&ctx->data, matrix);
        scratch = scratch < matrix ? matrix : scratch;
    }
    w.scratch = arena_alloc(&ctx->data, scratch + 1);
    return w;
}

static void one_pass(Bench *bench, const char *pass, const BenchRung *rung, double flop, Work *w) {
    const AttentionShape *s = &w->shape;
    for (; (rung = bench_rung(bench, rung, s->q_len, w)); rung++) {
        bench_row(bench, flop, 0, rung->run, w, "%s: %s", pass, rung->name);
        bench_save(bench, "%d,%d,%d,%d,%d,%s,%s", s->batch, s->heads, s->q_len, s->qk_dim, s->v_dim,
                   pass, rung->name);
    }
}

static void one_shape(Bench *bench, const Shape *shape) {
    Context *ctx = bench->ctx;
    ctx->dtype = shape->dtype;
    AttentionShape s = attention_shape(shape->batch, shape->heads, shape->heads, shape->tokens,
                                       shape->tokens, shape->dim, shape->v_dim, 1);
    Work w = work_new(ctx, ctx->dtype, s);
    bench_head("B %d, H %d, T %d, D %d (values %d), %s", s.batch, s.heads, s.q_len, s.qk_dim,
               s.v_dim, dtype_name(ctx->dtype));
    in_use(ctx, &w); /* backward needs o and lse */
    if (ctx->device == CPU && s.q_len <= 4096) materialised(ctx, &w);
    double flop = (double)s.batch * s.heads * s.q_len * (s.q_len + 1.0) * (s.qk_dim + s.v_dim);
    one_pass(bench, "forward", forward_rungs, flop, &w);
    one_pass(bench, "backward", backward_rungs, 2.5 * flop, &w);
    context_reset(ctx);
}

/*
 * Decoding: one query against a cache, whose every key and value is read once, so that the bytes
 * are the limit; and, up to 2048 tokens, what it would cost to compute the whole text again for
 * each new token.
 */
static void decoding(Bench *bench) {
    Context *ctx = bench->ctx;
    const int heads = 8, dim = 64;
    bench_head("one new token: B 1, H 8, D 64");
    for (int tokens = 256; tokens <= 16384; tokens *= 8) {
        double numbers = 2.0 * heads * dim * tokens; /* in the cache */
        for (int again = 0; again <= (tokens <= 2048); again++) {
            int queries = again ? tokens : 1;
            Work w = work_new(ctx, ctx->dtype,
                              attention_shape(1, heads, heads, queries, tokens, dim, dim, 1));
            double flop = again ? numbers * (tokens + 1) : 2 * numbers;
            double bytes = again ? 0 : numbers * (double)dtype_size(ctx->dtype);
            bench_row(bench, flop, bytes, in_use, &w,
                      again ? "all %d tokens again" : "from %d cached tokens", tokens);
            context_reset(ctx);
        }
    }
}

int main(int argc, char **argv) {
    Bench bench = {0};
    bench_open(&bench, argc, argv,
               "Every rung of causal attention, forward and backward, against the matrix peak of "
               "this run.",
               NULL, "02_causal/figures/out/ladder.csv", "B,H,T,D,D_v,pass,rung");
    bench_ceilings(&bench);
    Device device = bench.ctx->device;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (shapes[i].device == device) one_shape(&bench, &shapes[i]);
    if (device == CUDA) bench.ctx->dtype = BF16;
    decoding(&bench);
    bench_close(&bench);
    return 0;
}
