/*
 * The KV cache: appending at ragged sizes, bounds, and that cached and uncached agree however a
 * text is cut into chunks.
 */
#include "03_multihead/kv_cache.h"

#include "03_multihead/multihead.h"
#include "common/program/testing.h"

#include <string.h>

/* ---- appending ---- */

/* New rows are where they should be, bit for bit, and every other number is what it was. */
DEVICE_TEST(kv_append, writes_its_rows_and_nothing_else) {
    static const int widths[] = {1, 8, 31, 33, 127, 128};
    static const struct {
        int batch, tokens, capacity, position;
    } cases[] = {{1, 1, 1, 0}, {1, 1, 9, 8}, {3, 1, 7, 0}, {2, 5, 9, 4}, {2, 33, 40, 3}};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (size_t j = 0; j < sizeof cases / sizeof *cases; j++) {
            Context ctx = test_context(device, dtype);
            int64_t B = cases[j].batch, T = cases[j].tokens, S = cases[j].capacity, W = widths[i];
            int64_t position = cases[j].position;
            Tensor *from = test_normal(&ctx, "from", 1, SHAPE(B, T, W));
            Tensor *to = test_normal(&ctx, "to", 2, SHAPE(B, S, W));
            float *expected = test_values(&ctx, to), *rows = test_values(&ctx, from);
            for (int64_t b = 0; b < B; b++)
                memcpy(expected + (b * S + position) * W, rows + b * T * W,
                       sizeof(float) * (size_t)(T * W));
            ON(&ctx, kv_append, to->data, from->data, B, T, W, S, position);
            check_tensor(&ctx, "cache", to, expected, 0); /* a copy: equal */
            context_free(&ctx);
        }
}

CONTEXT_TEST(kv_cache, appends_at_its_length) {
    enum { B = 2, CAPACITY = 9, HEADS = 3, D = 5, W = HEADS * D };
    static const int chunks[] = {1, 4, 1, 3};
    KVCache cache;
    check_ok(kv_cache_init(&cache, &ctx, B, CAPACITY, HEADS, D, &err), &err);
    test_poison(&ctx, &cache.k);
    test_poison(&ctx, &cache.v);
    float k_all[B * CAPACITY * W], v_all[B * CAPACITY * W];
    int length = 0;
    for (int i = 0; i < 4; i++) {
        int T = chunks[i];
        Tensor *k = test_normal(&ctx, "k", 10 + 2 * (uint64_t)i, SHAPE(B, T, HEADS, D));
        Tensor *v = test_normal(&ctx, "v", 11 + 2 * (uint64_t)i, SHAPE(B, T, HEADS, D));
        check_ok(kv_cache_append(&ctx, &cache, k, v, &err), &err);
        float *k_rows = test_values(&ctx, k), *v_rows = test_values(&ctx, v);
        for (int b = 0; b < B; b++) {
            memcpy(k_all + (b * CAPACITY + length) * W, k_rows + b * T * W, sizeof(float) * T * W);
            memcpy(v_all + (b * CAPACITY + length) * W, v_rows + b * T * W, sizeof(float) * T * W);
        }
        length += T;
        cr_assert_eq(cache.length, length);
    }
    check_tensor(&ctx, "keys", &cache.k, k_all, 0); /* full: every number was written */
    check_tensor(&ctx, "values", &cache.v, v_all, 0);
    kv_cache_free(&cache);
    kv_cache_free(&cache); /* twice is fine */
}

/* ---- bounds ---- */

CONTEXT_TEST(kv_cache, overflow_is_an_error_and_writes_nothing) {
    enum { B = 2, CAPACITY = 4, HEADS = 2, D = 3, COUNT = B * CAPACITY * HEADS * D };
    KVCache cache;
    check_ok(kv_cache_init(&cache, &ctx, B, CAPACITY, HEADS, D, &err), &err);
    float marks[COUNT];
    for (int i = 0; i < COUNT; i++) marks[i] = 7.0f;
    tensor_upload(&ctx, &cache.k, marks);
    tensor_upload(&ctx, &cache.v, marks);
    cache.length = 3;
    Tensor *two = test_normal(&ctx, "two", 1, SHAPE(B, 2, HEADS, D));
    cr_assert_eq(kv_cache_room(&cache, 1, &err), 0);
    cr_assert_eq(kv_cache_room(&cache, 2, NULL), -1);
    cr_assert_eq(kv_cache_append(&ctx, &cache, two, two, &err), -1);
    cr_assert(strstr(err.text, "holds 3 of 4 tokens, so 2 more do not fit"), "it says: %s",
              err.text);
    cr_assert_eq(cache.length, 3);
    check_tensor(&ctx, "keys", &cache.k, marks, 0);
    check_tensor(&ctx, "values", &cache.v, marks, 0);
}

CPU_TEST(kv_cache, needs_room_for_a_token) {
    KVCache cache;
    cr_assert_eq(kv_cache_init(&cache, &ctx, 1, 0, 2, 4, &err), -1);
    cr_assert(strstr(err.text, "for 0 tokens"), "it says: %s", err.text);
    kv_cache_free(&cache); /* fine after a failure, too */
}

/* The numbers of the lesson's table; kept in step with it. */
Test(kv_cache, bytes_per_token) {
    cr_assert_eq(kv_cache_bytes_per_token(1, 1, 1, F32), 8);
    cr_assert_eq(kv_cache_bytes_per_token(96, 96, 128, BF16), 4718592); /* GPT-3 175B, MHA */
    cr_assert_eq(kv_cache_bytes_per_token(32, 32, 128, BF16), 524288);  /* Llama 2 7B, MHA */
    cr_assert_eq(kv_cache_bytes_per_token(32, 8, 128, BF16), 131072);   /* Llama 3.1 8B, GQA */
    cr_assert_eq(kv_cache_bytes_per_token(60, 1, 64, BF16), 15360);     /* Falcon 40B as MQA */
}

/* ---- cached = uncached ---- */

MODULE(Multihead, MultiheadConfig, multihead_init(params, "self_attn", cfg), 0.3f)

/* Tokens first .. first + count - 1 of every sequence. */
static Tensor *tokens_of(Context *ctx, const float *x, int B, int T, int hidden, int first,
                         int count) {
    float *part = test_floats(B * count * hidden);
    for (int b = 0; b < B; b++)
        memcpy(part + b * count * hidden, x + (b * T + first) * hidden,
               sizeof(float) * (size_t)(count * hidden));
    Tensor *t = tensor_copy_in(ctx, "x", ctx->dtype, part, SHAPE(B, count, hidden));
    return t;
}

/*
 * The two paths are different kernels that sum in other orders. In BF16 queries, probabilities,
 * heads and y are rounded on each, and not always to the same side.
 */
static double cached_tolerance(DType dtype) {
    return dtype == BF16 ? 6 * 0x1p-9 : 20 * tolerance_of(F32, 64);
}

static void check_cached(Device device, DType dtype, MultiheadConfig cfg, const int *chunks) {
    enum { B = 3, T = 41, CAPACITY = 45 };
    int hidden = cfg.hidden_size;
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, cfg);
    KVCache cache;
    cr_assert(
        kv_cache_init(&cache, &ctx, B, CAPACITY, cfg.num_key_value_heads, cfg.head_dim, &err) == 0);
    test_poison(&ctx, &cache.k); /* what lies behind length must not be used */
    test_poison(&ctx, &cache.v);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, hidden));
    float *all = test_values(&ctx, x);
    float *whole = test_values(&ctx, multihead_forward(&ctx, x, &m.w, &cfg, NULL, (Residual){0}));
    float *pieced = test_floats(B * T * hidden);
    for (int first = 0, i = 0; first < T; first += chunks[i], i += chunks[i + 1] != 0) {
        int count = chunks[i] < T - first ? chunks[i] : T - first;
        Tensor *part = tokens_of(&ctx, all, B, T, hidden, first, count);
        float *y =
            test_values(&ctx, multihead_forward(&ctx, part, &m.w, &cfg, &cache, (Residual){0}));
        for (int b = 0; b < B; b++)
            memcpy(pieced + (b * T + first) * hidden, y + b * count * hidden,
                   sizeof(float) * (size_t)(count * hidden));
    }
    check_close("cached", pieced, whole, B * T * hidden, cached_tolerance(dtype));
    cr_assert_eq(cache.length, T);
}

/* Chunk lengths, the last one repeated to the end of the text. */
static const int one_by_one[] = {1, 0}, prompt_then_tokens[] = {17, 1, 0};
static const int ragged[] = {5, 1, 7, 1, 1, 13, 3, 0}, at_once[] = {41, 0};

DEVICE_TEST(kv_cache, cached_is_uncached_one_by_one) {
    check_cached(device, dtype, (MultiheadConfig){20, 4, 4, 7, false}, one_by_one);
    check_cached(device, dtype, (MultiheadConfig){32, 2, 1, 64, false}, one_by_one);
}

DEVICE_TEST(kv_cache, cached_is_uncached_after_a_prompt) {
    check_cached(device, dtype, (MultiheadConfig){20, 6, 2, 7, false}, prompt_then_tokens);
    check_cached(device, dtype, (MultiheadConfig){32, 4, 2, 128, false}, prompt_then_tokens);
}

DEVICE_TEST(kv_cache, cached_is_uncached_in_ragged_chunks) {
    check_cached(device, dtype, (MultiheadConfig){20, 4, 1, 7, false}, ragged);
    check_cached(device, dtype, (MultiheadConfig){32, 4, 2, 64, false}, ragged);
}

DEVICE_TEST(kv_cache, cached_is_uncached_at_once) {
    check_cached(device, dtype, (MultiheadConfig){20, 4, 2, 7, false}, at_once);
}

/* A guess that was wrong: after truncating, other tokens give what they would have given. */
CONTEXT_TEST(kv_cache, truncate_forgets) {
    enum { HIDDEN = 20, T = 12, KEPT = 7 };
    MultiheadConfig cfg = {HIDDEN, 4, 2, 7, false};
    Module m;
    module_init(&m, &ctx, cfg);
    KVCache cache;
    check_ok(kv_cache_init(&cache, &ctx, 1, T, 2, 7, &err), &err);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, T, HIDDEN));
    float *all = test_values(&ctx, x);
    float *whole = test_values(&ctx, multihead_forward(&ctx, x, &m.w, &cfg, NULL, (Residual){0}));

    multihead_forward(&ctx, tokens_of(&ctx, all, 1, T, HIDDEN, 0, KEPT), &m.w, &cfg, &cache,
                      (Residual){0});
    Tensor *wrong = test_normal(&ctx, "wrong", 2, SHAPE(1, T - KEPT, HIDDEN));
    multihead_forward(&ctx, wrong, &m.w, &cfg, &cache, (Residual){0});
    kv_cache_truncate(&cache, KEPT);
    Tensor *right = tokens_of(&ctx, all, 1, T, HIDDEN, KEPT, T - KEPT);
    Tensor *y = multihead_forward(&ctx, right, &m.w, &cfg, &cache, (Residual){0});
    check_tensor(&ctx, "after the wrong guess", y, whole + KEPT * HIDDEN, cached_tolerance(dtype));
}
