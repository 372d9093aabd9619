/*
 * What one new token costs in one layer's attention, when there are more and more before it: dense,
 * and with an indexer that picks k of them (SPARSE.md).
 *
 *     dense      mla_decode over all latents
 *     sparse     scores of the indexer against all of its keys, the k largest, and mla_decode over
 *                the k rows that they name, gathered
 *
 * Projections are the same for both and not in it. The sizes are those of a preset (`small`, or
 * V3's); the indexer has half as many heads as attention, of twice the rotated part, as V3.2's. On
 * a GPU they are V3.2's, and every kernel has a table of its own (bench_sparse_cuda.c).
 */
#include "10_full_model/bench_sparse.h"

#include "04_mla/selection.h"
#include "10_full_model/model/config.h"
#include "10_full_model/sparse/index_kernels.h"

#include "common/files/csv.h"
#include "common/program/plot.h"

#include <math.h>
#include <stdio.h>

/* One layer with a cache of `length` tokens, its pages one behind the other. */
typedef struct Layer {
    MlaDecodeShape dense;
    IndexShape index;
    int k;
    float *q, *o, *latent, *scratch, *iq, *iw, *ik, *scores;
    int32_t *table, *selected, length;
    void *work;
} Layer;

static void run_dense(Context *ctx, void *user) {
    Layer *l = user;
    (void)ctx;
    mla_decode_cpu(l->o, l->scratch, l->q, l->latent, l->table, &l->length, l->dense);
}

static void run_scores(Context *ctx, void *user) {
    Layer *l = user;
    (void)ctx;
    index_scores_cpu(l->scores, l->iq, l->iw, l->ik, l->index);
}

static void run_top_k(Context *ctx, void *user) {
    Layer *l = user;
    (void)ctx;
    top_k_cpu(l->selected, l->scores, l->k, l->index);
}

static void run_attention(Context *ctx, void *user) {
    Layer *l = user;
    (void)ctx;
    selected_decode_cpu(l->o, l->work, l->q, l->latent, l->table, &l->length, l->selected, l->k,
                        l->dense);
}

static float *numbers(Context *ctx, int64_t n, uint64_t stream) {
    return bench_tensor(ctx, "numbers", F32, stream, SHAPE(n))->data;
}

static Layer layer_of(Context *ctx, const ModelConfig *cfg, int length, int k) {
    int H = cfg->num_attention_heads, rank = cfg->kv_lora_rank, rope = cfg->qk_rope_head_dim;
    int heads = cfg->index_n_heads ? cfg->index_n_heads : H / 2;
    int dim = cfg->index_head_dim ? cfg->index_head_dim : 2 * rope;
    int pages = (length + PAGE_TOKENS - 1) / PAGE_TOKENS, rows = pages * PAGE_TOKENS;
    Layer l = {.k = k, .length = length};
    l.dense = (MlaDecodeShape){.batch = 1,
                               .q_len = 1,
                               .heads = H,
                               .kv_lora_rank = rank,
                               .rope_dim = rope,
                               .pages = pages,
                               .max_pages = pages,
                               .max_length = length,
                               .scale = 1 / sqrtf((float)(cfg->qk_nope_head_dim + rope))};
    l.q = numbers(ctx, (int64_t)H * (rank + rope), 1);
    l.o = numbers(ctx, (int64_t)H * rank, 2);
    l.latent = numbers(ctx, (int64_t)rows * (rank + rope), 3);
    l.iq = numbers(ctx, (int64_t)heads * dim, 4), l.iw = numbers(ctx, heads, 5);
    l.ik = numbers(ctx, (int64_t)rows * dim, 6), l.scores = numbers(ctx, length, 7);
    l.scratch = arena_alloc(&ctx->data, mla_decode_scratch_cpu(l.dense));
    l.work = arena_alloc(&ctx->data, selected_decode_work_cpu(k, l.dense));
    l.table = arena_alloc(&ctx->data, sizeof(int32_t) * (size_t)pages);
    l.selected = arena_alloc(&ctx->data, sizeof(int32_t) * (size_t)k);
    for (int i = 0; i < pages; i++) l.table[i] = i;
    l.index = (IndexShape){.batch = 1,
                           .q_len = 1,
                           .count = 1,
                           .heads = heads,
                           .dim = dim,
                           .scale = 1 / sqrtf((float)(heads * dim)),
                           .kv_len = length,
                           .block_table = l.table,
                           .max_pages = pages};
    return l;
}

int main(int argc, char **argv) {
    Bench bench = {
        .seconds = 0.2, .microseconds = true, .common.csv = "10_full_model/figures/out/sparse.csv"};
    const char *config = "small";
    int k = 0, most = 0;
    const Option flags[] = {
        OPT_STRING("config", 0, "NAME", &config, "Sizes of a layer, by name"),
        OPT_INT("k", 'k', "N", &k, 0, 1 << 20,
                "Tokens that the indexer picks; 0: 512, on a GPU 2048"),
        OPT_INT("most", 0, "N", &most, 0, 1 << 22, "Longest text; 0: 32768, on a GPU 131072"),
        OPT_END};
    bench_open(&bench, argc, argv, "Times a token's attention, dense and sparse.", flags,
               "10_full_model/figures/out/sparse.csv",
               "batch,latents,tokens,dense_us,scores_us,top_k_us,attention_us");
    Context *ctx = bench.ctx;
    ModelConfig cfg;
    Error err;
    if (ctx->device == CUDA) {
        bench_sparse_cuda(&bench, k > 0 ? k : 2048, most > 0 ? most : 131072);
        bench_close(&bench);
        return 0;
    }
    if (!k) k = 512;
    if (!most) most = 32768;
    if (config_preset(&cfg, config, &err)) fatal("%s", err.text);
    printf("%s: %d heads, latent %d + %d; k = %d\n\n", config, cfg.num_attention_heads,
           cfg.kv_lora_rank, cfg.qk_rope_head_dim, k);
    printf("   tokens      dense     scores      top-k  attention     sparse   dense / sparse\n");
    for (int length = 1024; length <= most; length *= 2) {
        static const BenchFunction parts[] = {run_dense, run_scores, run_top_k, run_attention};
        Layer l = layer_of(ctx, &cfg, length, k);
        l.index.lengths = &l.length;
        double us[4], sparse = 0, median = 0; /* of the fastest repeats, and of the usual */
        for (int i = 0; i < 4; i++) {
            bench.row.time = bench_time(ctx, parts[i], &l, bench.seconds);
            us[i] = 1e6 * bench.row.time.min;
            if (i) sparse += us[i], median += 1e6 * bench.row.time.median;
        }
        bench.row.time = (BenchTime){1e-6 * sparse, 1e-6 * median, 0};
        bench_save(&bench, "1,f32,%d,%.2f,%.2f,%.2f,%.2f", length, us[0], us[1], us[2], us[3]);
        printf("%9d %7.1f us %7.1f us %7.1f us %7.1f us %7.1f us   %.1f\n", length, us[0], us[1],
               us[2], us[3], sparse, us[0] / sparse);
        context_reset(ctx);
    }
    bench_close(&bench);
    if (bench.common.csv) plot_or_explain("10_full_model/figures/sparse", bench.common.csv, NULL);
    return 0;
}
