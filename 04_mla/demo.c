/*
 * Chapter 04's demo: one score computed in two ways, by numbers that fit on a board; then a layer
 * of DeepSeek-V2-Lite's size that decodes in both ways, what they cost, and what a cache keeps.
 */
#include "cache_sizes.h"
#include "mla.h"

#include "../common/csv.h"
#include "../common/options.h"
#include "../common/plot.h"
#include "../common/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUT "04_mla/figures/out/"

enum { SHORTEST = 256 };

/* ---- command line ---- */

typedef struct DemoOptions {
    CommonOptions common;
    int context, heads, rank;
} DemoOptions;

static const struct argp_option flags[] = {
    {"context", 'c', "N", 0, "Most tokens in the cache, 256 to 65536 (default 4096)", 0},
    {"heads", 'H', "N", 0, "Heads of the layer, 1 to 128 (default 16: V2-Lite's)", 0},
    {"rank", 'r', "N", 0, "Numbers of a latent, 16 to 512 (default 512)", 0},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state) {
    DemoOptions *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->common;
        return 0;
    case 'c':
        o->context = (int)option_integer(state, "--context", text, SHORTEST, 65536);
        return 0;
    case 'H':
        o->heads = (int)option_integer(state, "--heads", text, 1, 128);
        return 0;
    case 'r':
        o->rank = (int)option_integer(state, "--rank", text, 16, 512);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

typedef struct Demo {
    DemoOptions options;
    Context ctx;
    MlaConfig cfg;
    Params params;
    Mla w;
    LatentCache cache;
    char device[160];
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
    printf("1. By hand: two heads, three tokens. The cache keeps their latents c: %s\n"
           "   A score is q . (W_uk c), or, with the brackets elsewhere, (W_uk^T q) . c\n",
           pairs_text(text, latents, 3));
    for (int h = 0; h < 2; h++) {
        Pair keys[3], query = absorbed_query(h, queries[h]);
        for (int s = 0; s < 3; s++) keys[s] = key_of(h, latents[s]);
        printf("   head %d: W_uk = (%d %d; %d %d); the third token asks with q = (%d, %d)\n", h,
               w_uk[h][0][0], w_uk[h][0][1], w_uk[h][1][0], w_uk[h][1][1], queries[h].x,
               queries[h].y);
        printf("     naive:    keys  W_uk c    = %-23s   scores  q . key    =",
               pairs_text(text, keys, 3));
        for (int s = 0; s < 3; s++) printf(" %2d", dot(queries[h], keys[s]));
        printf("\n     absorbed: query W_uk^T q  = %-23s   scores  query . c  =",
               pairs_text(text, &query, 1));
        for (int s = 0; s < 3; s++) printf(" %2d", dot(query, latents[s]));
        printf("\n");
    }
    printf("   Turn keys and queries by a quarter for each position, and the absorbed query of "
           "head 0\n"
           "   is another one for each distance:");
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
    if (latent_cache_init(&d->cache, &d->ctx, 1, d->options.context, 0, width, err)) return -1;

    char number[32];
    int hidden = cfg->hidden_size;
    printf("2. One layer%s: %s weights, a new token with S in the cache\n",
           H == 16 && rank == 512 ? " of DeepSeek-V2-Lite's size" : "",
           format_count(number, sizeof number, params_count(&d->params)));
    printf("   x [1, 1, %d] -> q [1, 1, %d, %d], of each head [nope %d | rope %d]\n", hidden, H,
           nope + rope, nope, rope);
    printf(
        "                  -> latent [1, 1, %d] = [c %d | k_rope %d] -> norm of c -> the cache\n",
        width, rank, rope);
    printf("   naive:    cache [S, %d] -> k [S, %d, %d], v [S, %d, %d] -> %d attentions -> "
           "[1, 1, %d, %d]\n",
           width, H, nope + rope, H, v, H, H, v);
    printf("   absorbed: q -> [1, 1, %d, %d] on the cache itself -> [1, 1, %d, %d] -> "
           "[1, 1, %d, %d]\n",
           H, width, H, rank, H, v);
    printf("   both:     -> o_proj -> y [1, 1, %d]\n\n", hidden);
    return 0;
}

/* `tokens` random inputs; `first` tells one token of the text from another. */
static Tensor *inputs(Demo *d, int first, int tokens) {
    int64_t count = (int64_t)tokens * d->cfg.hidden_size;
    float *x = malloc(sizeof *x * (size_t)count);
    if (!x) fatal("out of memory");
    for (int64_t i = 0; i < count; i++)
        x[i] = rng_normal(d->options.common.seed, (uint64_t)1 << 40,
                          (uint64_t)(i + (int64_t)first * d->cfg.hidden_size));
    Tensor *t = tensor_from(&d->ctx, "x", d->ctx.dtype, x, SHAPE(1, tokens, d->cfg.hidden_size));
    free(x);
    return t;
}

/* The next `tokens` of the text through the layer; y (or NULL) [tokens, hidden_size]. */
static int forward(Demo *d, int tokens, MlaMode mode, float *y, double *seconds, Error *err) {
    Tensor *x = inputs(d, latent_cache_longest(&d->cache), tokens);
    float *out = y ? y : malloc(sizeof *out * (size_t)tensor_count(x));
    if (!out) fatal("out of memory");
    double started = seconds_now();
    int status = latent_cache_reserve(&d->cache, tokens, err);
    if (!status) /* the copy to the host also waits for a GPU */
        tensor_download(&d->ctx, out,
                        mla_forward(&d->ctx, x, &d->w, &d->cfg, NULL, &d->cache, mode));
    *seconds = seconds_now() - started;
    if (!y) free(out);
    context_reset(&d->ctx);
    return status;
}

/* The fastest of a few steps with `length` tokens in the cache before; they are forgotten again. */
static int time_step(Demo *d, MlaMode mode, int length, float *y, double *best, Error *err) {
    *best = INFINITY;
    double started = seconds_now(), seconds;
    for (int i = 0; i < 50 && (i < 3 || seconds_now() - started < 0.1); i++) {
        if (forward(d, 1, mode, y, &seconds, err)) return -1;
        latent_cache_truncate(&d->cache, 0, length);
        *best = fmin(*best, seconds);
    }
    return 0;
}

/* 3. The same step in both ways, as the cache fills up. */
static int time_decoding(Demo *d, Error *err) {
    int hidden = d->cfg.hidden_size, status = 0;
    const char *path = d->options.common.csv ? d->options.common.csv : OUT "decode.csv";
    float *y = malloc(2 * sizeof *y * (size_t)hidden), *again = y + hidden;
    if (!y) fatal("out of memory");
    Csv csv;
    if (csv_open(&csv, path, "tokens,naive_ms,absorbed_ms,naive_gflop,absorbed_gflop,difference",
                 d->device, d->options.common.seed, err)) {
        free(y);
        return -1;
    }
    printf("3. The step, timed; attention's operations by mla_naive_flop and mla_absorbed_flop\n");
    printf("   %8s %11s %11s %8s %15s %15s %12s\n", "S", "naive", "absorbed", "ratio",
           "naive GFLOP", "absorbed GFLOP", "difference");
    for (int length = SHORTEST; length <= d->options.context && !status; length *= 2) {
        int more = length - 1 - latent_cache_longest(&d->cache);
        double naive = 0, absorbed = 0, seconds;
        status = forward(d, more, MLA_AUTO, NULL, &seconds, err) ||
                 time_step(d, MLA_NAIVE, length - 1, y, &naive, err) ||
                 time_step(d, MLA_ABSORBED, length - 1, again, &absorbed, err);
        if (status) break;
        double difference = 0, largest = 0;
        for (int i = 0; i < hidden; i++) {
            difference = fmax(difference, fabs((double)y[i] - again[i]));
            largest = fmax(largest, fabs((double)y[i]));
        }
        double flop[2] = {mla_naive_flop(&d->cfg, 1, length),
                          mla_absorbed_flop(&d->cfg, 1, length)};
        printf("   %8d %8.2f ms %8.2f ms %7.1fx %15.3f %15.3f %12.1e\n", length, 1e3 * naive,
               1e3 * absorbed, naive / absorbed, flop[0] / 1e9, flop[1] / 1e9,
               difference / largest);
        fflush(stdout);
        csv_row(&csv, "%d,%.4f,%.4f,%.6f,%.6f,%.3g", length, 1e3 * naive, 1e3 * absorbed,
                flop[0] / 1e9, flop[1] / 1e9, difference / largest);
    }
    printf("   difference: the largest of y's numbers, as a part of the largest number of y\n");
    free(y);
    if (csv_close(&csv, status ? NULL : err) || status) return -1;
    plot_or_explain("04_mla/figures/decode.gp", path, OUT "decode");
    printf("\n");
    return 0;
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

static int which_is_cheaper(Demo *d, Error *err) {
    const MlaConfig *cfg = &d->cfg;
    int S = d->options.context, cross = crossing(cfg, S);
    Csv csv;
    if (csv_open(&csv, OUT "operations.csv", "T,S,crossing,naive_mflop,absorbed_mflop", d->device,
                 d->options.common.seed, err))
        return -1;
    for (int T = 1; T <= S; T *= 2)
        csv_row(&csv, "%d,%d,%d,%.3f,%.3f", T, S, cross, mla_naive_flop(cfg, T, S) / T / 1e6,
                mla_absorbed_flop(cfg, T, S) / T / 1e6);
    double flop = 2.0 * (2 * cfg->kv_lora_rank + cfg->qk_rope_head_dim);
    double bytes = 2.0 * (cfg->kv_lora_rank + cfg->qk_rope_head_dim);
    printf("4. Which of the two? T new tokens at once, %d in the cache with them. ", S);
    if (cross >=
        S - 1) /* at T = S both expand the same, and at rank 128 pairs cost the same, too */
        printf("Absorbed does fewer\n   operations for every T: the latent is so small.\n");
    else
        printf("Absorbed does fewer\n   operations up to T = %d; from %d on naive does, for it "
               "makes keys only once. MLA_AUTO counts.\n",
               cross, cross + 1);
    printf("   Absorbed, a cached token is %.0f bytes in BF16 and %.0f operations for each head:\n"
           "   %.0f for each byte with 16 heads, %.0f with 128. An H200 has time for 186.\n",
           bytes, flop, 16 * flop / bytes, 128 * flop / bytes);
    if (csv_close(&csv, err)) return -1;
    plot_or_explain("04_mla/figures/operations.gp", OUT "operations.csv", OUT "operations");
    printf("\n");
    return 0;
}

/* ---- 5. bytes ---- */

static int cache_bytes(Demo *d, Error *err) {
    static const int lengths[] = {1024, 4096, 16384, 65536, 131072};
    const char *labels[CACHE_KINDS];
    double kib[CACHE_KINDS];
    Csv csv;
    char number[32];
    if (csv_open(&csv, OUT "cache_bytes.csv", "tokens,mha_gib,gqa_gib,mqa_gib,mla_gib", d->device,
                 d->options.common.seed, err))
        return -1;
    printf(
        "5. Bytes a token leaves in all layers, BF16 (* as the model is; the rest: were it so)\n");
    printf("   %-17s %6s %5s %13s %13s %13s %13s\n", "model", "layers", "heads", "MHA",
           "GQA, 8 groups", "MQA", "MLA, 512 + 64");
    for (int id = MODEL_V2_LITE; id <= MODEL_LLAMA_7B; id++) {
        const ModelSizes *m = &model_sizes[id];
        printf("   %-17s %6d %5d", m->name, m->layers, m->heads);
        for (int kind = 0; kind < CACHE_KINDS; kind++) {
            double bytes = cache_bytes_per_token(m, kind, 16);
            printf(" %12s%s", format_count(number, sizeof number, (int64_t)bytes),
                   m->own == (CacheKind)kind ? "*" : " ");
        }
        printf("\n");
    }
    const ModelSizes *v3 = &model_sizes[MODEL_V3];
    for (int kind = 0; kind < CACHE_KINDS; kind++) {
        labels[kind] = kind == CACHE_GQA ? "GQA-8" : cache_kind_name((CacheKind)kind);
        kib[kind] = cache_bytes_per_token(v3, kind, 16) / 1024;
    }
    printf("\n   DeepSeek-V3's sizes:\n");
    text_bars(labels, kib, CACHE_KINDS, "KiB per token");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        csv_row(&csv, "%d,%.5f,%.5f,%.5f,%.5f", lengths[i], kib[0] * lengths[i] / 0x1p20,
                kib[1] * lengths[i] / 0x1p20, kib[2] * lengths[i] / 0x1p20,
                kib[3] * lengths[i] / 0x1p20);
    if (csv_close(&csv, err)) return -1;
    plot_or_explain("04_mla/figures/cache_bytes.gp", OUT "cache_bytes.csv", OUT "cache_bytes");
    printf("\n");
    return 0;
}

int main(int argc, char **argv) {
    static Demo d = {.options = {.context = 4096, .heads = 16, .rank = 512}};
    const struct argp argp = {
        .options = flags,
        .parser = parse,
        .doc = "Attention with a small memory: computes a score in two ways by hand, decodes with "
               "a layer of DeepSeek-V2-Lite's size in both ways and times them, counts the "
               "operations of each, and the bytes of every kind of cache.",
        .children = common_argp};
    Error err = {0};
    options_parse(&argp, argc, argv, &d.options.common, &d.options);
    d.cfg = model_sizes[MODEL_V2_LITE].mla;
    d.cfg.num_attention_heads = d.options.heads;
    d.cfg.kv_lora_rank = d.options.rank;
    options_open(&d.options.common, &d.ctx);
    params_init(&d.params, &d.ctx);
    snprintf(d.device, sizeof d.device, "%s", d.ctx.gpu ? gpu_describe(d.ctx.gpu).text : "cpu");

    printf("\nAttention must remember every token: how little can it keep?\n\n");
    by_hand();
    int status = make_layer(&d, &err) || time_decoding(&d, &err) || which_is_cheaper(&d, &err) ||
                 cache_bytes(&d, &err);
    if (!status)
        printf("Try next:  --heads 64        (four times the work; and the cache?)\n"
               "           --rank 128        (a smaller latent: when is naive cheaper now?)\n"
               "           --context 16384   (a longer memory)\n");
    latent_cache_free(&d.cache);
    params_free(&d.params);
    context_free(&d.ctx);
    if (status) fatal("%s", err.text);
    return 0;
}
