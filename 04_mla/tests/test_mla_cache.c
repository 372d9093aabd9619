/*
 * Latent attention with a cache: absorbed = naive, cached = uncached, for every way to cut a text
 * into chunks, and for sequences of different lengths that share pages.
 */
#include "04_mla/tests/test_mla.h"

#include "common/core/blas.h"

#include <signal.h>
#include <stdio.h>

/*
 * The two ways sum in other orders: in F32 that makes 0.3 to 1.1 units of tolerance_of(), and 5 are
 * allowed. In BF16 each of them rounds what it stores between its steps, and the absorbed query
 * and output are roundings of their own: 10 units, the distance of test_mla.c from the truth and a
 * half.
 */
static double mode_tolerance(DType dtype) {
    return (dtype == BF16 ? 10 : 5) * tolerance_of(dtype, 128);
}

static void cache_for(OneLayer *cache, Context *ctx, const MlaConfig *cfg, int batch, int capacity,
                      int pages) {
    one_layer_init(cache, ctx, batch, capacity, pages, cfg->kv_lora_rank + cfg->qk_rope_head_dim);
}

static float *whole_text(Context *ctx, Module *m, Tensor *x, const Position *position) {
    Tensor *y = mla_forward(ctx, x, &m->w, &m->cfg, position, NULL, NULL, MLA_AUTO, (Residual){0});
    return test_values(ctx, y);
}

/* ---- absorbed = naive ---- */

/* The whole text at once, through a cache, in both modes, against attention without a cache. */
static void check_modes(Device device, DType dtype, MlaConfig cfg, int B, int T) {
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, cfg);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, cfg.hidden_size));
    const Position *position = cfg.qk_rope_head_dim ? &TURN : NULL;
    float *expected = whole_text(&ctx, &m, x, position);
    static const MlaMode modes[] = {MLA_NAIVE, MLA_ABSORBED, MLA_AUTO};
    static const char *const names[] = {"naive", "absorbed", "auto"};
    for (int i = 0; i < 3; i++) {
        OneLayer cache;
        cache_for(&cache, &ctx, &cfg, B, T, 0);
        Tensor *y = cached_forward(&ctx, x, &m.w, &cfg, position, &cache, modes[i]);
        char what[64];
        snprintf(what, sizeof what, "%s, T %d, rank %d", names[i], T, cfg.kv_lora_rank);
        check_tensor(&ctx, what, y, expected, mode_tolerance(dtype));
    }
}

static const MlaConfig ragged = {25, 3, 0, 11, 7, 6, 5, true};
static const MlaConfig with_q = {40, 5, 12, 16, 8, 8, 8, false};
static const MlaConfig no_rope = {24, 1, 9, 8, 4, 0, 9, false};

DEVICE_TEST(mla_cache, absorbed_is_naive) {
    static const int lengths[] = {1, 31, 33, 127};
    for (int i = 0; i < 4; i++) {
        check_modes(device, dtype, ragged, 2, lengths[i]);
        check_modes(device, dtype, with_q, 1, lengths[i]);
        check_modes(device, dtype, no_rope, 3, lengths[i]);
    }
}

/* A head of DeepSeek-V3's sizes. */
DEVICE_TEST(mla_cache, absorbed_is_naive_at_v3_sizes) {
    check_modes(device, dtype, (MlaConfig){512, 3, 64, 512, 128, 64, 128, false}, 1, 33);
}

/* ---- cached = uncached ---- */

static void check_chunks(Device device, DType dtype, MlaConfig cfg, const int *chunks,
                         MlaMode mode) {
    enum { B = 3, T = 133 }; /* three pages for each sequence */
    int hidden = cfg.hidden_size;
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, cfg);
    OneLayer cache;
    cache_for(&cache, &ctx, &cfg, B, T, 0);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, hidden));
    float *all = test_values(&ctx, x), *whole = whole_text(&ctx, &m, x, &TURN);
    float *pieced = malloc(sizeof(float) * (size_t)(B * T * hidden));
    for (int first = 0, i = 0; first < T; first += chunks[i], i += chunks[i + 1] != 0) {
        int count = chunks[i] < T - first ? chunks[i] : T - first;
        Tensor *part = tokens_of(&ctx, all, 0, B, T, hidden, first, count);
        Tensor *y = cached_forward(&ctx, part, &m.w, &cfg, &TURN, &cache, mode);
        float *values = test_values(&ctx, y);
        for (int b = 0; b < B; b++)
            memcpy(pieced + (b * T + first) * hidden, values + b * count * hidden,
                   sizeof(float) * (size_t)(count * hidden));
    }
    check_close("cached", pieced, whole, B * T * hidden, mode_tolerance(dtype));
}

/* Chunk lengths, the last one repeated to the end of the text. */
static const int one_by_one[] = {1, 0}, prompt_then_tokens[] = {61, 1, 0};
static const int in_chunks[] = {5, 1, 7, 31, 1, 2, 33, 3, 0};

DEVICE_TEST(mla_cache, cached_is_uncached_one_by_one) {
    check_chunks(device, dtype, with_q, one_by_one, MLA_ABSORBED);
    check_chunks(device, dtype, ragged, one_by_one, MLA_AUTO);
}

DEVICE_TEST(mla_cache, cached_is_uncached_after_a_prompt) {
    check_chunks(device, dtype, with_q, prompt_then_tokens, MLA_AUTO);
    check_chunks(device, dtype, ragged, prompt_then_tokens, MLA_ABSORBED);
    check_chunks(device, dtype, ragged, prompt_then_tokens, MLA_NAIVE);
}

DEVICE_TEST(mla_cache, cached_is_uncached_in_chunks) {
    check_chunks(device, dtype, with_q, in_chunks, MLA_NAIVE);
    check_chunks(device, dtype, with_q, in_chunks, MLA_ABSORBED);
    check_chunks(device, dtype, ragged, in_chunks, MLA_ABSORBED);
}

/* ---- sequences of different lengths ---- */

enum { SEQUENCES = 4, LONGEST = 150 };

/*
 * Prompts of different lengths enter padded on the right and are cut to size; then all go on
 * together. Each must get what it gets alone, without a cache.
 */
static void check_lengths(Device device, DType dtype, MlaConfig cfg, MlaMode mode) {
    static const int prompt[SEQUENCES] = {5, 5, 129, 64}; /* two equal: they are one batch */
    static const int steps[] = {1, 3, 1, 7};
    int hidden = cfg.hidden_size;
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, cfg);
    OneLayer cache;
    cache_for(&cache, &ctx, &cfg, SEQUENCES, LONGEST, 0);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(SEQUENCES, LONGEST, hidden));
    float *all = test_values(&ctx, x), *whole = whole_text(&ctx, &m, x, &TURN);

    Tensor *padded = tokens_of(&ctx, all, 0, SEQUENCES, LONGEST, hidden, 0, 129);
    cached_forward(&ctx, padded, &m.w, &cfg, &TURN, &cache, mode);
    for (int b = 0; b < SEQUENCES; b++) pages_truncate(&cache.pages, b, prompt[b]);

    for (int i = 0, done = 0; i < 4; done += steps[i++]) {
        int T = steps[i];
        size_t bytes = sizeof(float) * (size_t)(T * hidden);
        float *next = malloc(SEQUENCES * bytes), *expected = malloc(SEQUENCES * bytes);
        for (int b = 0; b < SEQUENCES; b++) {
            int at = (b * LONGEST + prompt[b] + done) * hidden;
            memcpy(next + b * T * hidden, all + at, bytes);
            memcpy(expected + b * T * hidden, whole + at, bytes);
        }
        Tensor *part = tensor_copy_in(&ctx, "x", dtype, next, SHAPE(SEQUENCES, T, hidden));
        Tensor *y = cached_forward(&ctx, part, &m.w, &cfg, &TURN, &cache, mode);
        check_tensor(&ctx, "a step of all sequences", y, expected, mode_tolerance(dtype));
    }
}

DEVICE_TEST(mla_cache, different_lengths_absorbed) {
    check_lengths(device, dtype, with_q, MLA_ABSORBED);
    check_lengths(device, dtype, ragged, MLA_ABSORBED);
}

DEVICE_TEST(mla_cache, different_lengths_naive) {
    check_lengths(device, dtype, with_q, MLA_NAIVE);
    check_lengths(device, dtype, ragged, MLA_NAIVE);
}

/*
 * Two sequences in a pool of five pages. The first is forgotten, its pages go to the second, then
 * it begins anew with what is left: nobody's numbers change.
 */
CONTEXT_TEST(mla_cache, pages_are_given_back_and_used_again) {
    enum { T = 70, MORE = 60 };
    MlaConfig cfg = with_q;
    int hidden = cfg.hidden_size;
    Module m;
    module_init(&m, &ctx, cfg);
    OneLayer cache;
    cache_for(&cache, &ctx, &cfg, 2, T + MORE, 5);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, T + MORE, hidden));
    float *all = test_values(&ctx, x), *whole = whole_text(&ctx, &m, x, &TURN);

    cached_forward(&ctx, tokens_of(&ctx, all, 0, 2, T + MORE, hidden, 0, T), &m.w, &cfg, &TURN,
                   &cache, MLA_AUTO);
    cr_assert_eq(cache.pages.free_count, 1);
    cr_assert_eq(pages_reserve(&cache.pages, MORE, &err), -1, "six pages from five");
    pages_truncate(&cache.pages, 0, 0);
    cr_assert_eq(cache.pages.free_count, 3);
    /* Sequence 0 reads its text from the start, 60 tokens; sequence 1 goes on from token 70. */
    float *next = malloc(sizeof(float) * (size_t)(2 * MORE * hidden));
    memcpy(next, all, sizeof(float) * (size_t)(MORE * hidden));
    memcpy(next + MORE * hidden, all + (T + MORE + T) * hidden,
           sizeof(float) * (size_t)(MORE * hidden));
    Tensor *part = tensor_copy_in(&ctx, "x", dtype, next, SHAPE(2, MORE, hidden));
    float *y =
        test_values(&ctx, cached_forward(&ctx, part, &m.w, &cfg, &TURN, &cache, MLA_ABSORBED));
    check_close("the one that began anew", y, whole, MORE * hidden, mode_tolerance(dtype));
    check_close("the one that went on", y + MORE * hidden, whole + (T + MORE + T) * hidden,
                MORE * hidden, mode_tolerance(dtype));
}

/* The grids and the scratch of a longer text, as a captured graph has them, give the same. */
CONTEXT_TEST(mla_cache, a_horizon_changes_nothing) {
    enum { B = 2, T = 40, HORIZON = 500 };
    MlaConfig cfg = with_q;
    Module m;
    module_init(&m, &ctx, cfg);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, cfg.hidden_size));
    float *expected = whole_text(&ctx, &m, x, &TURN);
    OneLayer cache;
    cache_for(&cache, &ctx, &cfg, B, HORIZON, 0);
    cache.pages.horizon = HORIZON;
    Tensor *y = cached_forward(&ctx, x, &m.w, &cfg, &TURN, &cache, MLA_ABSORBED);
    check_tensor(&ctx, "y", y, expected, mode_tolerance(dtype));
}

/* ---- which mode MLA_AUTO takes ---- */

static float *with_mode(Context *ctx, Module *m, const Tensor *x, int cached, int horizon,
                        MlaMode mode) {
    int T = (int)tensor_dim(x, 1), hidden = m->cfg.hidden_size;
    OneLayer cache;
    cache_for(&cache, ctx, &m->cfg, 1, 64, 0);
    float *all = test_values(ctx, x);
    if (cached)
        cached_forward(ctx, tokens_of(ctx, all, 0, 1, T, hidden, 0, cached), &m->w, &m->cfg, &TURN,
                       &cache, MLA_ABSORBED);
    cache.pages.horizon = horizon;
    Tensor *rest = tokens_of(ctx, all, 0, 1, T, hidden, cached, T - cached);
    float *y = test_values(ctx, cached_forward(ctx, rest, &m->w, &m->cfg, &TURN, &cache, mode));
    return y;
}

/*
 * The two modes round differently, so the bits tell which one it was. Tokens `cached` .. T - 1 are
 * new; expected: what MLA_AUTO must take for them.
 */
static void check_auto(int cached, int T, int horizon, MlaMode expected) {
    Context ctx = test_context(CPU, F32);
    Module m;
    module_init(&m, &ctx, with_q);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, T, with_q.hidden_size));
    size_t bytes = sizeof(float) * (size_t)((T - cached) * with_q.hidden_size);
    float *y[3]; /* by MlaMode */
    for (int mode = MLA_AUTO; mode <= MLA_ABSORBED; mode++)
        y[mode] = with_mode(&ctx, &m, x, cached, horizon, (MlaMode)mode);
    cr_assert(memcmp(y[MLA_NAIVE], y[MLA_ABSORBED], bytes) != 0, "nothing tells the modes apart");
    cr_assert(memcmp(y[MLA_AUTO], y[expected], bytes) == 0,
              "%d new tokens after %d, horizon %d: MLA_AUTO is not %s", T - cached, cached, horizon,
              expected == MLA_NAIVE ? "naive" : "absorbed");
}

Test(mla_cache, auto_counts_the_new_tokens_and_the_cached_ones) {
    check_auto(0, 33, 0, MLA_NAIVE); /* a prompt: all of it is expanded, but once */
    check_auto(32, 33, 0, MLA_ABSORBED);
    check_auto(1, 33, 0, MLA_NAIVE);
}

/* A captured step will meet other lengths than the one at capture: naive fits only that one. Two
 * tokens, since with a single one the softmax is 1 and the modes give the same bits. */
Test(mla_cache, auto_with_a_horizon_is_absorbed) {
    check_auto(0, 2, 64, MLA_ABSORBED);
    check_auto(0, 33, 64, MLA_ABSORBED);
}

/* ---- memory ---- */

/* What an attention needs for itself it gives back: the next layer of the step uses it again. */
static void check_scratch(Device device, DType dtype, MlaMode mode) {
    enum { S = 100 };
    static const MlaConfig cfg = {128, 32, 0, 128, 4, 2, 4, false};
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, cfg);
    float *all = malloc(sizeof(float) * (S + 1) * 128);
    for (int i = 0; i < (S + 1) * 128; i++) all[i] = rng_normal(7, 3, (uint64_t)i);
    OneLayer cache;
    cache_for(&cache, &ctx, &cfg, 1, S + 1, 0);
    size_t peak = 0, used = 0;
    for (int t = 0; t < S + 1; t++) { /* the last two in one step, as two layers would be */
        if (t < S) context_reset(&ctx);
        peak = context_peak_bytes(&ctx), used = ctx.data.used;
        cached_forward(&ctx, tokens_of(&ctx, all, 0, 1, S + 1, 128, t, 1), &m.w, &cfg, &TURN,
                       &cache, mode);
    }
    size_t grown = context_peak_bytes(&ctx) - peak, kept = ctx.data.used - used;
    /* naive: keys and values of all tokens; absorbed: a query and an output as wide as a latent */
    size_t values = mode == MLA_NAIVE ? (size_t)S * 32 * (4 + 4 + 6) : 32 * (130 + 128);
    size_t scratch = values * dtype_size(dtype);
    cr_assert(kept < scratch, "a layer keeps %zu bytes", kept);
    cr_assert(grown < scratch, "the second layer takes %zu bytes more; its scratch alone is %zu",
              grown, scratch);
}

DEVICE_TEST(mla_cache, layers_share_their_scratch) {
    check_scratch(device, dtype, MLA_NAIVE);
    check_scratch(device, dtype, MLA_ABSORBED);
}

/* ---- what only a programmer can get wrong ---- */

/* Chunks of 8 and `next` tokens, with a table of ten positions. */
static void positions_end(int next) {
    Context ctx = test_context(CPU, F32);
    Module m;
    module_init(&m, &ctx, with_q);
    OneLayer cache;
    cache_for(&cache, &ctx, &with_q, 1, 64, 0);
    Position short_table = TURN;
    short_table.max_position = 10;
    const int chunks[] = {8, next};
    for (int i = 0; i < 2; i++) {
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, chunks[i], with_q.hidden_size));
        cached_forward(&ctx, x, &m.w, &with_q, &short_table, &cache, MLA_AUTO);
    }
}

Test(mla_cache, the_last_position_is_used) { positions_end(2); }
Test(mla_cache, positions_past_the_table_stop_the_program, .signal = SIGABRT) { positions_end(3); }

/* Absorbed attention of queries [B, T] on a cache of two sequences of five tokens. */
static void absorbed_with(int B, int T, int more_width, int more_heads) {
    Context ctx = test_context(CPU, F32);
    Module m;
    module_init(&m, &ctx, with_q);
    MlaConfig cfg = with_q;
    int rank = cfg.kv_lora_rank, rope = cfg.qk_rope_head_dim + more_width;
    OneLayer cache;
    one_layer_init(&cache, &ctx, 2, 64, 0, rank + rope);
    Tensor *c_kv = test_normal(&ctx, "c_kv", 1, SHAPE(2, 5, rank));
    Tensor *k_rope = test_normal(&ctx, "k_rope", 2, SHAPE(2, 5, rope));
    check_ok(pages_begin(&cache.pages, 5, &err), &err);
    latent_cache_append(&ctx, &cache.latent, c_kv, k_rope);
    cfg.num_attention_heads += more_heads; /* more than kv_b_proj has */
    Tensor *q = test_normal(&ctx, "q", 3, SHAPE(B, T, cfg.num_attention_heads, 16));
    mla_absorbed_attention(&ctx, q, NULL, &m.w, &cfg, &cache.latent, 1);
}

Test(mla_cache, all_tokens_may_ask) { absorbed_with(2, 5, 0, 0); }
Test(mla_cache, another_number_of_sequences_stops_the_program, .signal = SIGABRT) {
    absorbed_with(1, 1, 0, 0);
}
Test(mla_cache, queries_of_tokens_not_yet_there_stop_the_program, .signal = SIGABRT) {
    absorbed_with(2, 6, 0, 0);
}
Test(mla_cache, a_cache_of_wider_rows_stops_the_program, .signal = SIGABRT) {
    absorbed_with(2, 1, 2, 0);
}
Test(mla_cache, weights_of_fewer_heads_stop_the_program, .signal = SIGABRT) {
    absorbed_with(2, 1, 0, 1);
}

/* Rows are written once for each step that began. */
static void append_without(bool begin, bool append) {
    Context ctx = test_context(CPU, F32);
    Module m;
    module_init(&m, &ctx, with_q);
    OneLayer cache;
    cache_for(&cache, &ctx, &with_q, 1, 64, 0);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, 3, with_q.hidden_size));
    if (begin) cr_assert_eq(pages_begin(&cache.pages, 3, NULL), 0);
    if (append)
        mla_forward(&ctx, x, &m.w, &with_q, NULL, NULL, &cache.latent, MLA_AUTO, (Residual){0});
    mla_forward(&ctx, x, &m.w, &with_q, NULL, NULL, &cache.latent, MLA_AUTO, (Residual){0});
}

Test(mla_cache, a_step_that_began) { append_without(true, false); }
Test(mla_cache, a_step_that_did_not_begin_stops_the_program, .signal = SIGABRT) {
    append_without(false, false);
}
Test(mla_cache, a_second_append_in_a_step_stops_the_program, .signal = SIGABRT) {
    append_without(true, true);
}

/* Bit for bit the same with one thread and with three, in both modes. */
Test(mla_cache, does_not_depend_on_the_number_of_threads) {
    enum { B = 2, T = 70, HIDDEN = 96 };
    static const MlaConfig cfg = {HIDDEN, 5, 0, 64, 32, 8, 24, false};
    static const MlaMode modes[] = {MLA_NAIVE, MLA_ABSORBED};
    for (int mode = 0; mode < 2; mode++) {
        float *y[2];
        for (int i = 0; i < 2; i++) {
            blas_set_threads(i ? 3 : 1);
            Context ctx = test_context(CPU, F32);
            Module m;
            module_init(&m, &ctx, cfg);
            OneLayer cache;
            cache_for(&cache, &ctx, &cfg, B, T, 0);
            Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, HIDDEN));
            Tensor *out = cached_forward(&ctx, x, &m.w, &cfg, &TURN, &cache, modes[mode]);
            y[i] = test_values(&ctx, out);
            context_free(&ctx);
        }
        blas_set_threads(0);
        check_close(mode ? "absorbed" : "naive", y[1], y[0], B * T * HIDDEN, 0);
    }
}
