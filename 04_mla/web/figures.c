/*
 * Figures of chapter 04 for the book: one new token through a layer, naive and absorbed, on the
 * page's clock; operations of both; and what the cache of a model takes.
 */
#include "04_mla/cache_sizes.h"
#include "04_mla/mla.h"
#include "common/program/web.h"

#include <math.h>
#include <string.h>

/* One layer that decodes: a quarter of V2-Lite in each direction, so that a page is not kept
 * waiting. */
static const MlaConfig small = {.hidden_size = 512,
                                .num_attention_heads = 8,
                                .kv_lora_rank = 128,
                                .qk_nope_head_dim = 32,
                                .qk_rope_head_dim = 16,
                                .v_head_dim = 32};

enum { MAX_LENGTH = 4096, CHUNK = 512, TRIES = 6 };

typedef struct Layer {
    Context ctx;
    Params params;
    Mla w;
    Pages pages;
    LatentCache cache;
    bool there;
} Layer;

static Layer layer; /* made by the first question and kept for the next ones */

static Tensor *inputs(int first, int tokens) {
    Tensor *x = tensor_new(&layer.ctx, "x", F32, SHAPE(1, tokens, small.hidden_size));
    int64_t count = tensor_count(x), from = (int64_t)first * small.hidden_size;
    for (int64_t i = 0; i < count; i++)
        ((float *)x->data)[i] = rng_normal(1, 40, (uint64_t)(from + i));
    return x;
}

static void make_layer(void) {
    Error err;
    int width = small.kv_lora_rank + small.qk_rope_head_dim;
    if (layer.there) return;
    web_context(&layer.ctx, 1);
    params_init(&layer.params, &layer.ctx);
    layer.w = mla_init(&layer.params, "self_attn", &small);
    if (params_allocate(&layer.params, false, &err) ||
        pages_init(&layer.pages, &layer.ctx, 1, MAX_LENGTH + 1, 0, &err) ||
        latent_cache_init(&layer.cache, &layer.ctx, &layer.pages, width, &err))
        fatal("%s", err.text);
    mla_randomize(&layer.params, &layer.w, 0.06f, 0.04f);
    layer.there = true;
}

/* The latents of the first `length` tokens; their own attention is not needed. */
static void remember(int length) {
    Error err;
    int rank = small.kv_lora_rank, rope = small.qk_rope_head_dim;
    pages_truncate(&layer.pages, -1, length);
    for (int there; (there = pages_longest(&layer.pages)) < length; context_reset(&layer.ctx)) {
        int tokens = length - there < CHUNK ? length - there : CHUNK;
        Tensor *z = linear(&layer.ctx, inputs(there, tokens), layer.w.kv_a_proj, NULL);
        Tensor *c = rmsnorm(&layer.ctx, slice(&layer.ctx, z, 0, rank), layer.w.kv_a_layernorm,
                            MLA_NORM_EPS);
        if (pages_begin(&layer.pages, tokens, &err)) fatal("%s", err.text);
        latent_cache_append(&layer.ctx, &layer.cache, c, slice(&layer.ctx, z, rank, rope));
    }
}

/* The token behind the cached ones through the layer: y [hidden_size]. */
static void token(MlaMode mode, int length, float *y) {
    Error err;
    Tensor *x = inputs(length, 1);
    if (pages_begin(&layer.pages, 1, &err)) fatal("%s", err.text);
    Tensor *out =
        mla_forward(&layer.ctx, x, &layer.w, &small, NULL, NULL, &layer.cache, mode, (Residual){0});
    memcpy(y, out->data, sizeof *y * (size_t)small.hidden_size);
    context_reset(&layer.ctx);
    pages_truncate(&layer.pages, 0, length);
}

/* Its seconds: the fastest of a few tries, each of at least 5 ms, for a page's clock has ticks of
 * 0.1 ms. */
static double step(MlaMode mode, int length, float *y) {
    double best = INFINITY, spent = 0;
    token(mode, length, y); /* the page's compiler wakes up */
    for (int i = 0; i < TRIES && spent < 0.06; i++) {
        double started = web_seconds(), seconds = 0;
        int times = 0;
        for (; seconds < 0.005; seconds = web_seconds() - started, times++) token(mode, length, y);
        best = fmin(best, seconds / times), spent += seconds;
    }
    return best;
}

/* step: 64, 128, ... tokens -> milliseconds and operations of both ways, and how far apart they are
 * as a part of the largest number. */
WEB(decode) {
    enum { STEPS = 7 };
    int at = web_int("step", 0, STEPS - 1), length = 64 << at;
    float naive[512], absorbed[512];
    make_layer();
    remember(length - 1);
    double naive_s = step(MLA_NAIVE, length - 1, naive);
    double absorbed_s = step(MLA_ABSORBED, length - 1, absorbed), apart = 0, largest = 0;
    for (int i = 0; i < small.hidden_size; i++) {
        apart = fmax(apart, fabs((double)naive[i] - absorbed[i]));
        largest = fmax(largest, fabs((double)naive[i]));
    }
    web_value("tokens", length);
    web_value("naive_ms", 1e3 * naive_s);
    web_value("absorbed_ms", 1e3 * absorbed_s);
    web_value("naive_flop", mla_naive_flop(&small, 1, length));
    web_value("absorbed_flop", mla_absorbed_flop(&small, 1, length));
    web_value("close", apart < 1e-4 * largest);
    web_floats("first", absorbed, 8);
    web_value("progress", (at + 1.0) / STEPS);
    web_value("done", at + 1 == STEPS);
}

/* model (0: V2-Lite, 1: V2, 2: V3), length -> T [n] new tokens, operations of both ways for each of
 * them, and the most of them for which absorbed is cheaper. */
WEB(operations) {
    enum { POINTS = 40 };
    const MlaConfig *cfg = &model_sizes[MODEL_V2_LITE + web_int("model", 0, 2)].mla;
    int64_t length = web_int("length", 1, 131072), crossing = 0;
    double T[POINTS], naive[POINTS], absorbed[POINTS];
    int count = 0;
    for (int i = 0; i < POINTS; i++) {
        double t = floor(pow((double)length, i / (POINTS - 1.0)) + 0.5);
        if (count && t <= T[count - 1]) continue;
        T[count] = t;
        naive[count] = mla_naive_flop(cfg, (int64_t)t, length) / t;
        absorbed[count++] = mla_absorbed_flop(cfg, (int64_t)t, length) / t;
    }
    for (int64_t low = 0, high = length + 1; high - low > 1; crossing = low) {
        int64_t middle = (low + high) / 2;
        if (mla_cheaper(cfg, middle, length) == MLA_ABSORBED)
            low = middle;
        else
            high = middle;
    }
    web_doubles("T", T, count);
    web_doubles("naive", naive, count);
    web_doubles("absorbed", absorbed, count);
    web_value("crossing", (double)crossing);
}

/* model, tokens, bits -> bytes [4] of MHA, GQA, MQA and MLA; own: which of them the model has. */
WEB(cache) {
    const ModelSizes *model = &model_sizes[web_int("model", 0, MODEL_DEEPSEEK_67B)];
    double tokens = web_number("tokens", 1, 1e7), bits = web_number("bits", 4, 32),
           bytes[CACHE_KINDS];
    for (int kind = 0; kind < CACHE_KINDS; kind++)
        bytes[kind] = tokens * cache_bytes_per_token(model, (CacheKind)kind, bits);
    web_doubles("bytes", bytes, CACHE_KINDS);
    web_value("own", model->own);
    web_value("layers", model->layers);
    web_value("heads", model->heads);
}
