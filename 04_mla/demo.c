/*
 * Chapter 04's demo: one score computed in two ways, by numbers that fit on a board; then a layer
 * of DeepSeek-V2-Lite's size that decodes in both ways, what they cost, and what a cache keeps.
 */
#include "04_mla/cache_sizes.h"
#include "04_mla/mla.h"

#include "common/core/ops.h"
#include "common/program/options.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define OUT "04_mla/figures/out/"

enum { SHORTEST = 256, CHUNK = 1024 };

/* ---- command line ---- */

typedef struct DemoOptions {
    CommonOptions common;
    int context, heads, rank;
} DemoOptions;

typedef struct Demo {
    DemoOptions options;
    Context ctx;
    MlaConfig cfg;
    Params params;
    Mla w;
    Pages pages;
    LatentCache cache;
} Demo;

/* ---- 1. by hand ---- */

typedef struct Pair {
    int x, y;
} Pair;

static const Pair latents[3] = {{1, 1}, {1, -1}, {-1, 1}}; /* all that is kept of three tokens */
static const int w_uk[2][2][2] = {{{2, 1}, {-1, 0}}, {{0, 1}, {1, -2}}};
static const Pair queries[2] = {{1, 1}, {2, 1}};

static int dot(Pair a, Pair b) { return a.x * b.x + a.y * b.y; }

static Pair key_of(int head, Pair c) { /* W_uk c */
    const int(*w)[2] = w_uk[head];
    return (Pair){w[0][0] * c.x + w[0][1] * c.y, w[1][0] * c.x + w[1][1] * c.y};
}

static Pair absorbed_query(int head, Pair q) { /* W_uk^T q */
    const int(*w)[2] = w_uk[head];
    return (Pair){w[0][0] * q.x + w[1][0] * q.y, w[0][1] * q.x + w[1][1] * q.y};
}

/* "(1, 1) (1, -1)" in the caller's buffer; returns it. */
static char *pairs_text(char text[64], const Pair *pairs, int count) {
    int used = 0;
    for (int i = 0; i < count; i++)
        used += snprintf(text + used, 64 - (size_t)used, "%s(%d, %d)", i ? " " : "", pairs[i].x,
                         pairs[i].y);
    return text;
}

static void by_hand(void) {
    char text[64];
    printf("1. By hand: two heads, three tokens. The cache keeps their latents c:\n   %s.\n"
           "   A score is q . (W_uk c), or, with the brackets elsewhere, (W_uk^T q) . c\n",
           pairs_text(text, latents, 3));
    for (int h = 0; h < 2; h++) {
        Pair keys[3], query = absorbed_query(h, queries[h]);
        for (int s = 0; s < 3; s++) keys[s] = key_of(h, latents[s]);
        printf("   head %d: W_uk = (%d %d; %d %d); the third token asks with q = (%d, %d)\n", h,
               w_uk[h][0][0], w_uk[h][0][1], w_uk[h][1][0], w_uk[h][1][1], queries[h].x,
               queries[h].y);
        printf("     naive:    keys W_uk c     = %-23s  q . key   =", pairs_text(text, keys, 3));
        for (int s = 0; s < 3; s++) printf(" %2d", dot(queries[h], keys[s]));
        printf("\n     absorbed: q_c = W_uk^T q = %-23s  q_c . c   =", pairs_text(text, &query, 1));
        for (int s = 0; s < 3; s++) printf(" %2d", dot(query, latents[s]));
        printf("\n");
    }
    printf("   Turn keys and queries by a quarter for each position, and the absorbed query\n"
           "   of head 0 is another one for each distance:\n  ");
    Pair turned = queries[0];
    for (int distance = 0; distance < 3; distance++) {
        Pair query = absorbed_query(0, turned);
        printf("  %s at %d", pairs_text(text, &query, 1), distance);
        turned = (Pair){-turned.y, turned.x};
    }
    printf("\n   Nothing would be saved. So MLA gives positions a few numbers of their own.\n\n");
}

/* ---- 2. a layer ---- */

static int make_layer(Demo *d, Error *err) {
    const MlaConfig *cfg = &d->cfg;
    int H = cfg->num_attention_heads, rank = cfg->kv_lora_rank, rope = cfg->qk_rope_head_dim;
    int nope = cfg->qk_nope_head_dim, v = cfg->v_head_dim, width = rank + rope;
    if (mla_check(cfg, err)) return -1;
    d->w = mla_init(&d->params, "self_attn", cfg);
    if (params_allocate(&d->params, false, err)) return -1;
    mla_randomize(&d->params, &d->w, 0.04f, 0.02f); /* scores of order 1: attention that chooses */
    if (pages_init(&d->pages, &d->ctx, 1, d->options.context, 0, err) ||
        latent_cache_init(&d->cache, &d->ctx, &d->pages, width, err))
        return -1;

    char number[32];
    int hidden = cfg->hidden_size;
    printf("2. One layer%s: %s weights,\n   a new token with S in the cache\n",
           H == 16 && rank == 512 ? " of DeepSeek-V2-Lite's size" : "",
           format_count(number, sizeof number, params_count(&d->params)));
    printf("   x [1, 1, %d] -> q [1, 1, %d, %d], of each head [nope %d | rope %d]\n", hidden, H,
           nope + rope, nope, rope);
    printf("               -> latent [1, 1, %d] = [c %d | k_rope %d] -> norm of c -> cache\n",
           width, rank, rope);
    printf("   naive:    cache [S, %d] -> k [S, %d, %d], v [S, %d, %d]\n"
           "             -> %d attentions -> [1, 1, %d, %d]\n",
           width, H, nope + rope, H, v, H, H, v);
    printf("   absorbed: q -> [1, 1, %d, %d] on the cache itself\n"
           "             -> [1, 1, %d, %d] -> [1, 1, %d, %d]\n",
           H, width, H, rank, H, v);
    printf("   both:     -> o_proj -> y [1, 1, %d]\n\n", hidden);
    return 0;
}

/* `tokens` random inputs; `first` tells one token of the text from another. */
static Tensor *inputs(Demo *d, int first, int tokens) {
    int64_t count = (int64_t)tokens * d->cfg.hidden_size;
    float *x = must_alloc((size_t)count, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = rng_normal(d->options.common.seed, (uint64_t)1 << 40,
                          (uint64_t)(i + (int64_t)first * d->cfg.hidden_size));
    Tensor *t = tensor_copy_in(&d->ctx, "x", d->ctx.dtype, x, SHAPE(1, tokens, d->cfg.hidden_size));
    free(x);
    return t;
}

/*
 * Fills the cache up to `length` tokens, as mla_forward does it, but without the attention of these
 * tokens: it would take most of the time, and only the latents are needed here.
 */
static int remember(Demo *d, int length, Error *err) {
    Context *ctx = &d->ctx;
    int rank = d->cfg.kv_lora_rank, rope = d->cfg.qk_rope_head_dim, there, status = 0;
    while (!status && (there = pages_longest(&d->pages)) < length) {
        int tokens = length - there < CHUNK ? length - there : CHUNK;
        Tensor *latent = linear(ctx, inputs(d, there, tokens), d->w.kv_a_proj, NULL);
        Tensor *c_kv = rmsnorm(ctx, slice(ctx, latent, 0, rank), d->w.kv_a_layernorm, MLA_NORM_EPS);
        status = pages_begin(&d->pages, tokens, err);
        if (!status) latent_cache_append(ctx, &d->cache, c_kv, slice(ctx, latent, rank, rope));
        context_reset(ctx);
    }
    return status;
}

/* The text's next token through the layer: y [hidden_size]. */
static int step(Demo *d, MlaMode mode, float *y, double *seconds, Error *err) {
    Tensor *x = inputs(d, pages_longest(&d->pages), 1);
    double started = seconds_now();
    int status = pages_begin(&d->pages, 1, err);
    if (!status) /* the copy to the host also waits for a GPU */
        tensor_download(
            &d->ctx, y,
            mla_forward(&d->ctx, x, &d->w, &d->cfg, NULL, NULL, &d->cache, mode, (Residual){0}));
    *seconds = seconds_now() - started;
    context_reset(&d->ctx);
    return status;
}

/* The fastest of a few steps with `length` tokens in the cache before; they are forgotten again. */
static int time_step(Demo *d, MlaMode mode, int length, float *y, double *best, Error *err) {
    *best = INFINITY;
    double started = seconds_now(), seconds, spent = 0;
    for (int i = 0; i < 50 && spent < 2 && (i < 3 || spent < 0.1); i++) {
        if (step(d, mode, y, &seconds, err)) return -1;
        pages_truncate(&d->pages, 0, length);
        *best = fmin(*best, seconds);
        spent = seconds_now() - started;
    }
    return 0;
}

typedef struct Row {
    int length;
    double naive, absorbed, difference; /* seconds; a part of y's largest number */
} Row;

/* y: room for the results of both. */
static int time_row(Demo *d, Row *row, float *y, Error *err) {
    int hidden = d->cfg.hidden_size, before = row->length - 1;
    float *again = y + hidden;
    if (remember(d, before, err) || time_step(d, MLA_NAIVE, before, y, &row->naive, err) ||
        time_step(d, MLA_ABSORBED, before, again, &row->absorbed, err))
        return -1;
    double difference = 0, largest = 0;
    for (int i = 0; i < hidden; i++) {
        difference = fmax(difference, fabs((double)y[i] - again[i]));
        largest = fmax(largest, fabs((double)y[i]));
    }
    row->difference = difference / largest;
    return 0;
}

static void write_rows(Demo *d, const Row *rows, int count) {
    Csv csv = figure_open(&d->ctx, d->options.common.csv,
                          "tokens,naive_ms,absorbed_ms,naive_gflop,absorbed_gflop,difference");
    printf("3. The step, timed, and attention's operations\n");
    printf("   %6s %11s %11s %7s %12s %11s %11s\n", "S", "naive", "absorbed", "ratio",
           "naive GFLOP", "absorbed", "difference");
    for (int i = 0; i < count; i++) {
        const Row *r = &rows[i];
        double naive = mla_naive_flop(&d->cfg, 1, r->length) / 1e9;
        double absorbed = mla_absorbed_flop(&d->cfg, 1, r->length) / 1e9;
        printf("   %6d %8.2f ms %8.2f ms %6.1fx %12.3f %11.3f %11.1e\n", r->length, 1e3 * r->naive,
               1e3 * r->absorbed, r->naive / r->absorbed, naive, absorbed, r->difference);
        csv_row(&csv, "%d,%.4f,%.4f,%.6f,%.6f,%.3g", r->length, 1e3 * r->naive, 1e3 * r->absorbed,
                naive, absorbed, r->difference);
    }
    printf("   difference: of the two results, as a part of the largest number in them\n");
    figure_close(&csv, "04_mla/figures/decode");
    printf("\n");
}

/* 3. The same step in both ways, as the cache fills up: at powers of two, and at --context. */
static int time_decoding(Demo *d, Error *err) {
    Row rows[32];
    int count = 0, status = 0, context = d->options.context;
    int64_t total = 0, done = 0; /* a step takes about as long as its cache */
    for (int length = SHORTEST; length < context; length *= 2) rows[count++].length = length;
    rows[count++].length = context;
    for (int i = 0; i < count; i++) total += rows[i].length;
    float *y = must_alloc(2 * (size_t)d->cfg.hidden_size, sizeof *y);
    Progress progress = progress_start("timing steps", total);
    for (int i = 0; i < count && !status; i++) {
        status = time_row(d, &rows[i], y, err);
        done += rows[i].length;
        progress_update(&progress, done, "%d tokens in the cache", rows[i].length);
    }
    progress_finish(&progress, NULL);
    free(y);
    if (!status) write_rows(d, rows, count);
    return status;
}

/* ---- 4. which of the two ---- */

/* The most new tokens, out of S with the cached ones, for which absorbed does fewer operations. */
static int crossing(const MlaConfig *cfg, int S) {
    int low = 0, high = S + 1; /* absorbed at low, naive at high */
    while (high - low > 1) {
        int T = (low + high) / 2;
        if (mla_cheaper(cfg, T, S) == MLA_ABSORBED)
            low = T;
        else
            high = T;
    }
    return low;
}

static void which_is_cheaper(Demo *d) {
    const MlaConfig *cfg = &d->cfg;
    int S = d->options.context, cross = crossing(cfg, S);
    Csv csv = figure_open(&d->ctx, OUT "operations.csv", "T,S,crossing,naive_mflop,absorbed_mflop");
    for (int T = 1; T <= S; T *= 2)
        csv_row(&csv, "%d,%d,%d,%.3f,%.3f", T, S, cross, mla_naive_flop(cfg, T, S) / T / 1e6,
                mla_absorbed_flop(cfg, T, S) / T / 1e6);
    double flop = 2.0 * (2 * cfg->kv_lora_rank + cfg->qk_rope_head_dim);
    double bytes = 2.0 * (cfg->kv_lora_rank + cfg->qk_rope_head_dim);
    printf("4. Which of the two? T new tokens at once, %d in the cache with them.\n", S);
    /* at T = S both expand the same, and at rank 128 pairs cost the same, too */
    if (cross >= S - 1)
        printf("   Absorbed does fewer operations for every T: the latent is so small.\n");
    else
        printf("   Absorbed does fewer operations up to T = %d; from %d on naive does, for\n"
               "   it makes keys only once. MLA_AUTO counts.\n",
               cross, cross + 1);
    double made = (double)cfg->qk_nope_head_dim + cfg->v_head_dim; /* numbers of a head */
    double kept = made + cfg->qk_rope_head_dim;
    char number[2][32];
    printf("   Naive, a cached token is %s bytes of keys and values in BF16, made with\n"
           "   %s operations for each head, written, and read again.\n",
           format_count(number[0], sizeof *number, (int64_t)(2 * cfg->num_attention_heads * kept)),
           format_count(number[1], sizeof *number, (int64_t)(2 * cfg->kv_lora_rank * made)));
    printf("   Absorbed, a cached token is %.0f bytes in BF16 and %.0f operations for each\n"
           "   head: %.0f for each byte with 16 heads, %.0f with 128. An H200 has time for 186.\n",
           bytes, flop, 16 * flop / bytes, 128 * flop / bytes);
    figure_close(&csv, "04_mla/figures/operations");
    printf("\n");
}

/* ---- 5. bytes ---- */

static double thousands(ModelId id, CacheKind kind) {
    return (double)cache_numbers_per_token(&model_sizes[id], kind) / 1e3;
}

static void what_the_papers_compare(void) {
    const ModelSizes *v2 = &model_sizes[MODEL_V2], *dense = &model_sizes[MODEL_DEEPSEEK_67B];
    double before = cache_bytes_per_token(dense, CACHE_GQA, 16);
    printf("   V2's paper trained pairs that differ in the attention alone: MLA kept %.1fK\n"
           "   numbers a token where MHA kept %.1fK, and %.1fK where MHA kept\n"
           "   %.1fK; and it did better on most benchmarks.\n",
           thousands(MODEL_V2_ABLATION_SMALL, CACHE_MLA),
           thousands(MODEL_V2_ABLATION_SMALL, CACHE_MHA),
           thousands(MODEL_V2_ABLATION_LARGE, CACHE_MLA),
           thousands(MODEL_V2_ABLATION_LARGE, CACHE_MHA));
    printf("   Its \"%.1f %%\" less compares %s, GQA in 16 bits, with V2 in 6 bits a\n"
           "   number; with 16 bits in both it is %.1f %%.\n",
           100 * (1 - cache_bytes_per_token(v2, CACHE_MLA, 6) / before), dense->name,
           100 * (1 - cache_bytes_per_token(v2, CACHE_MLA, 16) / before));
}

static void cache_bytes(Demo *d) {
    static const int lengths[] = {1024, 4096, 16384, 65536, 131072};
    const char *labels[CACHE_KINDS];
    double kib[CACHE_KINDS];
    char number[32];
    Csv csv = figure_open(&d->ctx, OUT "cache_bytes.csv", "tokens,mha_gib,gqa_gib,mqa_gib,mla_gib");
    printf("5. Bytes a token leaves in all layers, BF16 (* as the model is)\n");
    printf("   %-17s%6s%6s%11s%13s%10s%13s\n", "model", "layers", "heads", "MHA", "GQA-8", "MQA",
           "MLA, 512+64");
    for (int id = MODEL_V2_LITE; id <= MODEL_LLAMA_7B; id++) {
        const ModelSizes *m = &model_sizes[id];
        static const int width[CACHE_KINDS] = {10, 12, 9, 12}; /* and the star */
        printf("   %-17s%6d%6d", m->name, m->layers, m->heads);
        for (int kind = 0; kind < CACHE_KINDS; kind++) {
            double bytes = cache_bytes_per_token(m, kind, 16);
            printf("%*s%s", width[kind], format_count(number, sizeof number, (int64_t)bytes),
                   m->own == (CacheKind)kind ? "*"
                   : kind < CACHE_KINDS - 1  ? " "
                                             : "");
        }
        printf("\n");
    }
    const ModelSizes *v3 = &model_sizes[MODEL_V3];
    for (int kind = 0; kind < CACHE_KINDS; kind++) {
        labels[kind] = kind == CACHE_GQA ? "GQA-8" : cache_kind_name((CacheKind)kind);
        kib[kind] = cache_bytes_per_token(v3, kind, 16) / 1024;
    }
    what_the_papers_compare();
    printf("\n   DeepSeek-V3's sizes:\n");
    text_bars(labels, kib, CACHE_KINDS, "KiB per token");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        csv_row(&csv, "%d,%.5f,%.5f,%.5f,%.5f", lengths[i], kib[0] * lengths[i] / 0x1p20,
                kib[1] * lengths[i] / 0x1p20, kib[2] * lengths[i] / 0x1p20,
                kib[3] * lengths[i] / 0x1p20);
    figure_close(&csv, "04_mla/figures/cache_bytes");
    printf("\n");
}

int main(int argc, char **argv) {
    static Demo d = {
        .options = {.common.csv = OUT "decode.csv", .context = 4096, .heads = 16, .rank = 512}};
    DemoOptions *o = &d.options;
    const Option flags[] = {
        OPT_INT("context", 'c', "N", &o->context, SHORTEST, 65536,
                "Most tokens in the cache, 256 to 65536"),
        OPT_INT("heads", 'H', "N", &o->heads, 1, 128,
                "Heads of the layer, 1 to 128 (default 16: V2-Lite's)"),
        OPT_INT("rank", 'r', "N", &o->rank, 16, 512, "Numbers of a latent, 16 to 512"),
        OPT_CSV(&o->common),
        OPT_COMMON(&o->common),
        OPT_END};
    Error err;
    options_parse(argc, argv,
                  "Attention with a small memory: computes a score in two ways by hand, decodes "
                  "with a layer of DeepSeek-V2-Lite's size in both ways and times them, counts the "
                  "operations of each, and the bytes of every kind of cache.",
                  flags);
    d.cfg = model_sizes[MODEL_V2_LITE].mla;
    d.cfg.num_attention_heads = o->heads;
    d.cfg.kv_lora_rank = o->rank;
    options_open(&o->common, &d.ctx);
    params_init(&d.params, &d.ctx);

    printf("\nAttention must remember every token: how little can it keep?\n\n");
    by_hand();
    if (make_layer(&d, &err) || time_decoding(&d, &err)) fatal("%s", err.text);
    which_is_cheaper(&d);
    cache_bytes(&d);
    printf("Try next:  --heads 64        (four times the work; and the cache?)\n"
           "           --rank 128        (a smaller latent: when is naive cheaper now?)\n"
           "           --context 16384   (a longer memory)\n");
    latent_cache_free(&d.cache);
    pages_free(&d.pages);
    params_free(&d.params);
    context_free(&d.ctx);
    return 0;
}
