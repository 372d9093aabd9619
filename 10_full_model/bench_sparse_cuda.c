/*
 * What sparse attention costs on a GPU.
 *
 *   1. one new token after 4K to 128K others: dense attention; scores, the k largest, and attention
 *      to them. For a batch and for a single sequence.
 *   2. attention to k, rung by rung, in BF16 and in eight bits, for one query and for two.
 *   3. an indexer's scores of a prompt: against the product of matrices in the same run.
 *   4. the k largest of long rows: of random numbers, and of what ReLU leaves.
 *
 * The pools are made once, as large as the longest text of the largest batch needs. What lies in
 * them repeats: latents after 8192 tokens, keys after 65,536, so that equal scores are few.
 */
#include "10_full_model/bench_sparse.h"

#include "04_mla/selection.h"
#include "08_quant/fp8.h"
#include "10_full_model/sparse/index_kernels.h"

#include "common/core/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef WITH_CUDA

enum {
    HEADS = 128,
    RANK = 512,
    ROPE = 64,
    INDEX_HEADS = 64,
    INDEX_DIM = 128,
    BATCH = 128,
    LATENTS = 8192, /* that repeat */
    KEYS = 65536
};

typedef struct Pools {
    Tensor *bf16, *e4m3, *keys; /* of `tokens` rows */
    int64_t tokens;
} Pools;

/* One token of each sequence, or a prompt's: what the kernels get. */
typedef struct Work {
    MlaDecodeShape shape;
    IndexShape index;
    int k, rung;
    Tensor *q, *o, *latent, *table, *lengths, *scratch, *selected;
    Tensor *iq, *iw, *keys, *scores;
} Work;

/* Bytes that repeat. */
static Tensor *repeated(Context *ctx, const char *name, const void *host, size_t bytes,
                        size_t times) {
    Tensor *t = tensor_new(ctx, name, F8_E4M3, SHAPE((int64_t)(bytes * times)));
    device_put(ctx->gpu, t->data, host, bytes);
    for (size_t done = 1, some; done < times; done += some) {
        some = done < times - done ? done : times - done;
        gpu_copy(ctx->gpu, (char *)t->data + done * bytes, t->data, some * bytes);
    }
    return t;
}

static float *normal_floats(Context *ctx, int64_t n, uint64_t stream) {
    float *x = must_alloc((size_t)n, sizeof *x);
    Tensor *t = bench_tensor(ctx, "numbers", F32, stream, SHAPE(n));
    tensor_download(ctx, x, t);
    return x;
}

static Pools pools_new(Context *ctx, int batch, int most) {
    Pools p = {.tokens = (int64_t)batch * most};
    size_t row = (size_t)latent_row_bytes(RANK, ROPE), key = (size_t)latent_row_bytes(INDEX_DIM, 0);
    ArenaMark mark = arena_mark(&ctx->data);
    float *x = normal_floats(ctx, (int64_t)LATENTS * (RANK + ROPE), 1);
    float *k = normal_floats(ctx, (int64_t)KEYS * INDEX_DIM, 2);
    char *rows = must_alloc(LATENTS, row), *keys = must_alloc(KEYS, key);
    arena_release(&ctx->data, mark);
    for (int i = 0; i < LATENTS; i++) {
        const float *from = x + (int64_t)i * (RANK + ROPE);
        latent_row_write_cpu(rows + (size_t)i * row, from, from + RANK, RANK, ROPE);
    }
    int32_t *table = must_alloc(KEYS / PAGE_TOKENS, sizeof *table), length = KEYS;
    for (int i = 0; i < KEYS / PAGE_TOKENS; i++) table[i] = i;
    index_append_e4m3_cpu(keys, table, &length, k, 1, KEYS, INDEX_DIM, KEYS / PAGE_TOKENS);
    size_t tokens = (size_t)p.tokens;
    p.bf16 = bench_tensor(ctx, "latents", BF16, 3, SHAPE(p.tokens, RANK + ROPE));
    p.e4m3 = repeated(ctx, "rows", rows, row * LATENTS, (tokens + LATENTS - 1) / LATENTS);
    p.keys = repeated(ctx, "keys", keys, key * KEYS, (tokens + KEYS - 1) / KEYS);
    free(x), free(k), free(rows), free(keys), free(table);
    return p;
}

/* Pages in no order, as in a pool that has been in use for a while. */
static Tensor *pages_in_no_order(Context *ctx, int batch, int pages) {
    int count = batch * pages;
    int32_t *table = must_alloc((size_t)count, sizeof *table);
    for (int i = 0; i < count; i++) table[i] = i;
    for (int i = count - 1; i > 0; i--) {
        int j = (int)(rng_uniform(ctx->rng.seed, 3, (uint64_t)i) * (float)i);
        int32_t page = table[i];
        table[i] = table[j], table[j] = page;
    }
    Tensor *t = tensor_copy_in(ctx, "table", I32, table, SHAPE(batch, pages));
    free(table);
    return t;
}

static Work work_new(Context *ctx, const Pools *p, int batch, int T, int length, int k, bool e4m3) {
    int pages = (length + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int32_t *lengths = must_alloc((size_t)batch, sizeof *lengths);
    for (int b = 0; b < batch; b++) lengths[b] = length;
    Work w = {.k = k, .latent = e4m3 ? p->e4m3 : p->bf16, .keys = p->keys};
    w.table = pages_in_no_order(ctx, batch, pages);
    w.lengths = tensor_copy_in(ctx, "lengths", I32, lengths, SHAPE(batch));
    w.shape = (MlaDecodeShape){.batch = batch,
                               .q_len = T,
                               .heads = HEADS,
                               .kv_lora_rank = RANK,
                               .rope_dim = ROPE,
                               .pages = batch * pages,
                               .max_pages = pages,
                               .max_length = length,
                               .e4m3 = e4m3,
                               .scale = 1 / sqrtf(192)};
    w.index = (IndexShape){.batch = batch,
                           .q_len = T,
                           .count = T,
                           .heads = INDEX_HEADS,
                           .dim = INDEX_DIM,
                           .scale = 1 / sqrtf(INDEX_HEADS * INDEX_DIM),
                           .kv_len = length,
                           .block_table = w.table->data,
                           .lengths = w.lengths->data,
                           .max_pages = pages,
                           .e4m3 = true};
    w.iq = bench_tensor(ctx, "index q", BF16, 6, SHAPE(batch, T, INDEX_HEADS, INDEX_DIM));
    index_round_cuda(ctx->gpu, BF16, w.iq->data, (int64_t)batch * T * INDEX_HEADS, INDEX_DIM);
    w.iw = bench_tensor(ctx, "index w", F32, 7, SHAPE(batch, T, INDEX_HEADS));
    w.scores = tensor_new(ctx, "scores", F32, SHAPE(batch, T, length));
    free(lengths);
    return w;
}

/* What attention needs beside. */
static void add_attention(Context *ctx, Work *w) {
    MlaDecodeShape s = w->shape;
    w->q = bench_tensor(ctx, "q", BF16, 4, SHAPE(s.batch, s.q_len, HEADS, RANK + ROPE));
    w->o = tensor_new(ctx, "o", BF16, SHAPE(s.batch, s.q_len, HEADS, RANK));
    w->selected = tensor_new(ctx, "selected", I32, SHAPE(s.batch, s.q_len, w->k));
    size_t sizes[] = {mla_decode_scratch_cuda(ctx->gpu, BF16, s),
                      selected_decode_work_cuda(ctx->gpu, BF16, w->k, s),
                      selected_decode_gathered_work_cuda(ctx->gpu, BF16, w->k, s)},
           most = 0;
    for (int i = 0; i < 3; i++) most = sizes[i] > most ? sizes[i] : most;
    w->scratch = tensor_new(ctx, "scratch", F32, SHAPE((int64_t)(most / sizeof(float)) + 1));
}

static void run_dense(Context *ctx, void *user) {
    Work *w = user;
    mla_decode_cuda(ctx->gpu, BF16, w->o->data, w->scratch->data, w->q->data, w->latent->data,
                    w->table->data, w->lengths->data, w->shape);
}

static void run_scores(Context *ctx, void *user) {
    static __typeof__(&index_scores_cuda)
        const rungs[] = {index_scores_cuda, index_scores_mma_cuda, index_scores_plain_cuda};
    Work *w = user;
    rungs[w->rung](ctx->gpu, BF16, w->scores->data, w->iq->data, w->iw->data, w->keys->data,
                   w->index);
}

static void run_top_k(Context *ctx, void *user) {
    static __typeof__(&top_k_cuda) const rungs[] = {top_k_cuda, top_k_plain_cuda};
    Work *w = user;
    rungs[w->rung](ctx->gpu, BF16, w->selected->data, w->scores->data, w->k, w->index);
}

/* As a model decodes (mla.c): by the kernel for prompts, which has a block for 64 heads of a query,
 * where there are enough of them. */
static void selected_in_use(Gpu *gpu, DType dtype, float *o, void *work, const float *q,
                            const void *latent, const int32_t *block_table, const int32_t *lengths,
                            const int32_t *selected, int count, MlaDecodeShape s) {
    if (selected_prompt_fits(gpu, dtype, count, s))
        selected_forward_cuda(gpu, dtype, o, NULL, q, latent, latent, selected, work,
                              selected_pages_shape(block_table, lengths, count, s));
    else
        selected_decode_cuda(gpu, dtype, o, work, q, latent, block_table, lengths, selected, count,
                             s);
}

static void run_attention(Context *ctx, void *user) {
    static __typeof__(&selected_decode_cuda)
        const rungs[] = {selected_in_use, selected_decode_gathered_cuda, selected_decode_plain_cuda,
                         selected_decode_cuda};
    Work *w = user;
    rungs[w->rung](ctx->gpu, BF16, w->o->data, w->scratch->data, w->q->data, w->latent->data,
                   w->table->data, w->lengths->data, w->selected->data, w->k, w->shape);
}

/* ---- 1. a token after ever more others ---- */

static void bench_lengths(Bench *bench, const Pools *p, int batch, int k, int most, bool e4m3) {
    static const BenchFunction parts[] = {run_dense, run_scores, run_top_k, run_attention};
    Context *ctx = bench->ctx;
    printf("\nbatch %d, latents in %s, us: the fastest (median)\n", batch, e4m3 ? "FP8" : "BF16");
    printf("   tokens            dense         scores       the k      attention    dense / "
           "sparse\n");
    for (int length = 4096; length <= most; length *= 2) {
        ArenaMark mark = arena_mark(&ctx->data);
        Work w = work_new(ctx, p, batch, 1, length, k, e4m3);
        double min[4], median[4];
        add_attention(ctx, &w);
        for (int i = 0; i < 4; i++) {
            BenchTime t = bench_time(ctx, parts[i], &w, bench->seconds);
            min[i] = 1e6 * t.min, median[i] = 1e6 * t.median;
        }
        double sparse = min[1] + min[2] + min[3], usual = median[1] + median[2] + median[3];
        bench->row.time = (BenchTime){1e-6 * sparse, 1e-6 * usual, 0};
        bench_save(bench, "%d,%s,%d,%.2f,%.2f,%.2f,%.2f", batch, e4m3 ? "fp8" : "bf16", length,
                   min[0], min[1], min[2], min[3]);
        printf("%9d %8.1f (%6.1f) %6.1f (%5.1f) %5.1f (%5.1f) %6.1f (%5.1f)   %.2f (%.2f)\n",
               length, min[0], median[0], min[1], median[1], min[2], median[2], min[3], median[3],
               min[0] / sparse, median[0] / usual);
        fflush(stdout);
        arena_release(&ctx->data, mark);
    }
}

/* ---- 2. attention to k ---- */

static void bench_attention(Bench *bench, const Pools *p, int T, int k, int length, bool e4m3) {
    static const char *const names[] = {"in use", "gathered", "plain", "by pages"};
    Context *ctx = bench->ctx;
    ArenaMark mark = arena_mark(&ctx->data);
    Work w = work_new(ctx, p, BATCH, T, length, k, e4m3);
    add_attention(ctx, &w);
    run_scores(ctx, &w);
    run_top_k(ctx, &w);
    double flop = 2.0 * BATCH * T * HEADS * k * (2 * RANK + ROPE);
    for (w.rung = 0; w.rung < 4; w.rung++) {
        if (w.rung == 2 && (T > 1 || length > 8192)) continue; /* plain: slow enough once */
        if (w.rung == 3 && e4m3) continue;
        bench_row(bench, flop, 0, run_attention, &w, "B %d, q %d, of %d, %s  %s", BATCH, T, length,
                  e4m3 ? "FP8" : "BF16", names[w.rung]);
    }
    arena_release(&ctx->data, mark);
}

/* ---- 3. scores of a prompt ---- */

typedef struct Product {
    Tensor *d, *a, *b, *a_scale, *b_scale;
    int64_t n;
} Product;

static void run_product(Context *ctx, void *user) {
    Product *m = user;
    fp8_product_cuda(ctx->gpu, BF16, m->d->data, NULL, m->a->data, m->a_scale->data, m->b->data,
                     m->b_scale->data, m->n, m->n, m->n);
}

/* The product of matrices in FP8, 8192^3: operations per second. */
static double product_peak(Bench *bench) {
    enum { N = 8192 };
    Context *ctx = bench->ctx;
    ArenaMark mark = arena_mark(&ctx->data);
    Product m = {.n = N};
    Tensor *x = bench_tensor(ctx, "x", BF16, 8, SHAPE(N, N));
    m.a = tensor_new(ctx, "a", F8_E4M3, SHAPE(N, N));
    m.b = tensor_new(ctx, "b", F8_E4M3, SHAPE(N, N));
    m.d = tensor_new(ctx, "d", BF16, SHAPE(N, N));
    m.a_scale = tensor_new(ctx, "a's scales", F32, SHAPE(N, N / 64)); /* more than they are */
    m.b_scale = tensor_new(ctx, "b's scales", F32, SHAPE(N, N / 64));
    fp8_quantise_rows_cuda(ctx->gpu, BF16, m.a->data, m.a_scale->data, x->data, N, N, 0);
    fp8_quantise_blocks_cuda(ctx->gpu, BF16, m.b->data, m.b_scale->data, NULL, NULL, x->data, 1, N,
                             N, 0);
    double flop = 2.0 * N * N * N;
    BenchTime t = bench_row(bench, flop, 0, run_product, &m, "product in FP8, 8192^3");
    arena_release(&ctx->data, mark);
    return flop / t.min;
}

static void bench_scores(Bench *bench, const Pools *p, double peak, int T, int length, int heads) {
    static const char *const names[] = {"in use", "mma", "plain"};
    Context *ctx = bench->ctx;
    for (int kind = 0; kind < 2; kind++) { /* eight bits, then BF16 */
        ArenaMark mark = arena_mark(&ctx->data);
        Work w = work_new(ctx, p, 1, T, length, 0, true);
        w.index.heads = heads;
        if (kind) w.keys = p->bf16, w.index.e4m3 = false; /* any numbers */
        double pairs = (double)T * length - 0.5 * T * (T - 1.0);
        double flop = 2 * pairs * heads * INDEX_DIM;
        for (w.rung = 0; w.rung < (T > 64 ? 2 : 3); w.rung++) {
            BenchTime t =
                bench_row(bench, flop, 0, run_scores, &w, "%d of %d keys, %d heads, %s  %s", T,
                          length, heads, kind ? "BF16" : "FP8", names[w.rung]);
            if (!kind) printf("%60.1f %% of the product in FP8\n", 100 * flop / t.min / peak);
        }
        arena_release(&ctx->data, mark);
    }
}

/* ---- 4. the k largest ---- */

static void bench_top_k(Bench *bench, const Pools *p, int rows, int length, int k, bool sparse) {
    static const char *const names[] = {"in use", "plain"};
    Context *ctx = bench->ctx;
    ArenaMark mark = arena_mark(&ctx->data);
    Work w = work_new(ctx, p, rows, 1, length, k, true);
    w.selected = tensor_new(ctx, "selected", I32, SHAPE(rows, k));
    bench_fill(ctx, w.scores, 9);
    if (sparse) { /* half of them zero */
        float *x = must_alloc((size_t)tensor_count(w.scores), sizeof *x);
        tensor_download(ctx, x, w.scores);
        for (int64_t i = 0; i < tensor_count(w.scores); i++) x[i] = fmaxf(x[i], 0);
        tensor_upload(ctx, w.scores, x);
        free(x);
    }
    for (w.rung = 0; w.rung < 2; w.rung++)
        bench_row(bench, 0, 4.0 * rows * length, run_top_k, &w, "%d of %d, %d rows%s  %s", k,
                  length, rows, sparse ? ", half zeros" : "", names[w.rung]);
    arena_release(&ctx->data, mark);
}

void bench_sparse_cuda(Bench *bench, int k, int most) {
    Context *ctx = bench->ctx;
    ctx->dtype = BF16;
    bench_ceilings(bench);
    Pools pools = pools_new(ctx, BATCH, most);
    bench_head("attention to %d tokens, %d heads", k, HEADS);
    for (int T = 1; T <= 2; T++)
        for (int e4m3 = 1; e4m3 >= 0; e4m3--) {
            if (most > 8192) bench_attention(bench, &pools, T, k, 8192, e4m3);
            bench_attention(bench, &pools, T, k, most, e4m3);
        }
    bench_head("the %d largest", k);
    static const int rows[] = {1, 8, 64, 128};
    for (int i = 0; i < 4; i++) bench_top_k(bench, &pools, rows[i], most, k, false);
    bench_top_k(bench, &pools, 64, most, k, true);
    bench_head("an indexer's scores, %d numbers a head", INDEX_DIM);
    double peak = product_peak(bench);
    bench_scores(bench, &pools, peak, most < 65536 ? 64 : 4096, most < 65536 ? most : 65536, 64);
    bench_scores(bench, &pools, peak, 1, most, 64);
    for (int e4m3 = 0; e4m3 < 2; e4m3++)
        for (int batch = BATCH; batch >= 1; batch /= BATCH)
            bench_lengths(bench, &pools, batch, k, most, e4m3);
}

#else

void bench_sparse_cuda(Bench *bench, int k, int most) {
    (void)bench, (void)k, (void)most;
    fatal("this program was built without nvcc");
}

#endif
