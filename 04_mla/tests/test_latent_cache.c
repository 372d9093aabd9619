/*
 * The latent cache: rows go where the block table says, pages belong to one sequence at a time, and
 * what does not fit is refused before anything is written.
 */
#include "04_mla/latent_cache.h"

#include "common/program/testing.h"

#include <string.h>

static void init(LatentCache *cache, Context *ctx, int batch, int capacity, int pages, int width) {
    Error err = {0};
    cr_assert(latent_cache_init(cache, ctx, batch, capacity, pages, width, &err) == 0, "%s",
              err.text);
    test_poison(ctx, &cache->latent);
}

/*
 * The invariants of latent_cache.h: host and device say the same lengths and pages, every sequence
 * has pages for its tokens, and each page has exactly one owner.
 */
static void check_invariants(Context *ctx, const LatentCache *c) {
    int32_t *lengths = malloc(tensor_bytes(&c->lengths));
    int32_t *table = malloc(tensor_bytes(&c->block_table));
    int *owners = calloc((size_t)c->pages, sizeof *owners);
    tensor_download_ints(ctx, lengths, &c->lengths);
    tensor_download_ints(ctx, table, &c->block_table);
    for (int b = 0; b < c->batch; b++) {
        cr_assert_eq(lengths[b], c->length[b]);
        cr_assert(c->length[b] <= c->used_pages[b] * PAGE_TOKENS);
        for (int i = 0; i < c->used_pages[b]; i++) {
            int page = table[b * c->max_pages + i];
            cr_assert(page >= 0 && page < c->pages, "sequence %d has page %d of %d", b, page,
                      c->pages);
            owners[page]++;
        }
    }
    for (int i = 0; i < c->free_count; i++) owners[c->free_pages[i]]++;
    for (int i = 0; i < c->pages; i++)
        cr_assert(owners[i] == 1, "page %d has %d owners", i, owners[i]);
    free(lengths), free(table), free(owners);
}

/* ---- kernels ---- */

typedef struct KernelCase {
    int batch, tokens, c_width, rope_width, max_pages;
    const int32_t *lengths;
} KernelCase;

/* A block table whose pages are in no order: page (7 i + 3) mod n, n prime to 7. */
static int shuffled_table(int32_t *table, int entries) {
    int pages = entries % 7 == 0 ? entries + 1 : entries;
    for (int i = 0; i < entries; i++) table[i] = (7 * i + 3) % pages;
    return pages;
}

/* Appends, then reads back, against what the formula of the header says; all other rows stay. */
static void check_kernels(Device device, DType dtype, KernelCase k) {
    Context ctx = test_context(device, dtype);
    int B = k.batch, T = k.tokens, width = k.c_width + k.rope_width;
    int entries = B * k.max_pages;
    int32_t *table = malloc(sizeof *table * (size_t)entries);
    int pages = shuffled_table(table, entries);
    Tensor *pool = test_normal(&ctx, "pool", 1, SHAPE(pages, PAGE_TOKENS, width));
    Tensor *c_kv = test_normal(&ctx, "c_kv", 2, SHAPE(B, T, k.c_width));
    Tensor *k_rope = test_normal(&ctx, "k_rope", 3, SHAPE(B, T, k.rope_width));
    Tensor *block_table = tensor_copy_in(&ctx, "table", I32, table, SHAPE(B, k.max_pages));
    Tensor *lengths = tensor_copy_in(&ctx, "lengths", I32, k.lengths, SHAPE(B));
    float *expected = test_values(&ctx, pool), *c = test_values(&ctx, c_kv);
    float *r = test_values(&ctx, k_rope);
#define ROW(b, t)                                                                              \
    (expected +                                                                                \
     ((int64_t)table[(b)*k.max_pages + (t) / PAGE_TOKENS] * PAGE_TOKENS + (t) % PAGE_TOKENS) * \
         width)
    int longest = 0;
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) {
            int at = k.lengths[b] + t, i = b * T + t;
            memcpy(ROW(b, at), c + i * k.c_width, sizeof(float) * (size_t)k.c_width);
            memcpy(ROW(b, at) + k.c_width, r + i * k.rope_width,
                   sizeof(float) * (size_t)k.rope_width);
            if (at + 1 > longest) longest = at + 1;
        }
    ON(&ctx, latent_append, pool->data, block_table->data, lengths->data, c_kv->data, k_rope->data,
       B, T, k.c_width, k.rope_width, k.max_pages);
    check_tensor(&ctx, "pool", pool, expected, 0); /* a copy: equal */

    ON(&ctx, latent_advance, lengths->data, B, T);
    int32_t *now = malloc(sizeof *now * (size_t)B);
    tensor_download_ints(&ctx, now, lengths);
    for (int b = 0; b < B; b++) cr_assert_eq(now[b], k.lengths[b] + T);

    Tensor *c_back = test_normal(&ctx, "c_back", 4, SHAPE(B, longest, k.c_width));
    Tensor *r_back = test_normal(&ctx, "r_back", 5, SHAPE(B, longest, k.rope_width));
    test_poison(&ctx, c_back);
    test_poison(&ctx, r_back);
    ON(&ctx, latent_gather, c_back->data, r_back->data, pool->data, block_table->data,
       lengths->data, B, longest, k.c_width, k.rope_width, k.max_pages);
    float *c_wanted = calloc((size_t)(B * longest * k.c_width), sizeof *c_wanted);
    float *r_wanted = calloc((size_t)(B * longest * k.rope_width) + 1, sizeof *r_wanted);
    for (int b = 0; b < B; b++)
        for (int t = 0; t < now[b]; t++) {
            int64_t i = b * longest + t;
            memcpy(c_wanted + i * k.c_width, ROW(b, t), sizeof(float) * (size_t)k.c_width);
            memcpy(r_wanted + i * k.rope_width, ROW(b, t) + k.c_width,
                   sizeof(float) * (size_t)k.rope_width);
        }
#undef ROW
    check_tensor(&ctx, "c_kv read back", c_back, c_wanted, 0);
    if (k.rope_width) check_tensor(&ctx, "k_rope read back", r_back, r_wanted, 0);
    free(table), free(expected), free(c), free(r), free(now), free(c_wanted), free(r_wanted);
    test_context_free(&ctx);
}

DEVICE_TEST(latent_cache, rows_go_where_the_table_says) {
    static const int32_t lengths[] = {0, 63, 64, 130};
    const KernelCase cases[] = {
        {1, 1, 1, 1, 1, lengths},    {1, 127, 13, 5, 2, lengths}, {4, 1, 11, 0, 3, lengths},
        {4, 33, 12, 4, 3, lengths},  {3, 31, 16, 8, 3, lengths},  {2, 65, 512, 64, 2, lengths},
        {3, 127, 17, 1, 3, lengths}, {4, 2, 24, 8, 3, lengths},   {4, 2, 32, 2, 3, lengths},
        {2, 33, 576, 0, 2, lengths},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_kernels(device, dtype, cases[i]);
}

/* ---- the cache ---- */

/* Rows of a sequence's tokens, as numbers that say which: 1000 b + t. */
static Tensor *numbered(Context *ctx, const char *name, const LatentCache *cache, int T,
                        int width) {
    float *values = malloc(sizeof(float) * (size_t)(cache->batch * T * width));
    for (int i = 0; i < cache->batch * T * width; i++) {
        int b = i / width / T, t = i / width % T;
        values[i] = (float)(16 * b + (cache->length[b] + t) % 16); /* small: exact in BF16 */
    }
    Tensor *t = tensor_copy_in(ctx, name, ctx->dtype, values, SHAPE(cache->batch, T, width));
    free(values);
    return t;
}

static void append(Context *ctx, LatentCache *cache, int T) {
    Error err = {0};
    Tensor *c = numbered(ctx, "c_kv", cache, T, cache->width - 2);
    Tensor *k = numbered(ctx, "k_rope", cache, T, 2);
    cr_assert(latent_cache_append(ctx, cache, c, k, &err) == 0, "%s", err.text);
}

/* Every token of every sequence, read back, says its name. */
static void check_contents(Context *ctx, const LatentCache *cache) {
    int S = latent_cache_longest(cache), c_width = cache->width - 2;
    if (S == 0) return;
    Tensor *c = tensor_new(ctx, "c_kv", ctx->dtype, SHAPE(cache->batch, S, c_width));
    Tensor *k = tensor_new(ctx, "k_rope", ctx->dtype, SHAPE(cache->batch, S, 2));
    ON(ctx, latent_gather, c->data, k->data, cache->latent.data, cache->block_table.data,
       cache->lengths.data, cache->batch, S, c_width, 2, cache->max_pages);
    float *values = test_values(ctx, c), *ropes = test_values(ctx, k);
    for (int i = 0; i < cache->batch * S; i++) {
        int b = i / S, t = i % S;
        float wanted = t < cache->length[b] ? (float)(16 * b + t % 16) : 0;
        cr_assert(values[i * c_width] == wanted && values[(i + 1) * c_width - 1] == wanted &&
                      ropes[2 * i] == wanted && ropes[2 * i + 1] == wanted,
                  "sequence %d, token %d is %g, not %g", b, t, values[i * c_width], wanted);
    }
    free(values), free(ropes);
}

DEVICE_TEST(latent_cache, appends_at_each_sequence_s_length) {
    enum { B = 3, CAPACITY = 300 };
    static const int chunks[] = {1, 62, 1, 1, 64, 100, 31};
    Context ctx = test_context(device, dtype);
    LatentCache cache;
    init(&cache, &ctx, B, CAPACITY, 0, 5);
    int length = 0;
    for (int i = 0; i < 7; i++) {
        append(&ctx, &cache, chunks[i]);
        length += chunks[i];
        for (int b = 0; b < B; b++) cr_assert_eq(cache.length[b], length);
        check_invariants(&ctx, &cache);
        check_contents(&ctx, &cache);
    }
    latent_cache_free(&cache);
    latent_cache_free(&cache); /* twice is fine */
    test_context_free(&ctx);
}

/* Cut at random, go on, cut again: pages go from one to the other and the contents stay right. */
DEVICE_TEST(latent_cache, pages_change_hands) {
    enum { B = 4, CAPACITY = 400, PAGES = 14, STEPS = 60 };
    Context ctx = test_context(device, dtype);
    LatentCache cache;
    init(&cache, &ctx, B, CAPACITY, PAGES, 7);
    int appended = 0, refused = 0, cuts = 0;
    for (int i = 0; i < STEPS; i++) {
        Philox random = philox(11, 0, (uint64_t)i);
        int T = 1 + (int)(random.word[0] % 90), b = (int)(random.word[1] % B);
        Error err = {0};
        if (latent_cache_reserve(&cache, T, &err) == 0) {
            append(&ctx, &cache, T);
            appended++;
        } else {
            refused++;
            check_invariants(&ctx, &cache);
        }
        if (random.word[2] % 3 == 0 || err.text[0]) {
            latent_cache_truncate(&cache, b,
                                  (int)(random.word[3] % (uint32_t)(cache.length[b] + 1)));
            cuts++;
        }
        check_invariants(&ctx, &cache);
        check_contents(&ctx, &cache);
        context_reset(&ctx);
    }
    cr_assert(appended > 20 && refused > 5 && cuts > 10, "%d appended, %d refused, %d cut",
              appended, refused, cuts);
    latent_cache_free(&cache);
    test_context_free(&ctx);
}

DEVICE_TEST(latent_cache, positions_go_on) {
    Context ctx = test_context(device, dtype);
    LatentCache cache;
    init(&cache, &ctx, 2, 100, 0, 5);
    append(&ctx, &cache, 70);
    latent_cache_truncate(&cache, 1, 3);
    int32_t got[6];
    tensor_download_ints(&ctx, got, latent_cache_positions(&ctx, &cache, 3));
    static const int32_t wanted[] = {70, 71, 72, 3, 4, 5};
    for (int i = 0; i < 6; i++) cr_assert_eq(got[i], wanted[i]);
    cr_assert_eq(latent_cache_longest(&cache), 70);
    latent_cache_free(&cache);
    test_context_free(&ctx);
}

/* A graph's launch moves the device's lengths; the host counts along. */
DEVICE_TEST(latent_cache, the_host_counts_along) {
    Context ctx = test_context(device, dtype);
    LatentCache cache;
    init(&cache, &ctx, 2, 100, 0, 5);
    append(&ctx, &cache, 10);
    cr_assert_eq(latent_cache_reserve(&cache, 2, NULL), 0);
    ON(&ctx, latent_advance, cache.lengths.data, 2, 2);
    latent_cache_count(&cache, 2);
    check_invariants(&ctx, &cache);
    cr_assert_eq(cache.length[1], 12);
    latent_cache_free(&cache);
    test_context_free(&ctx);
}

/* ---- what users can get wrong ---- */

static void check_refused(Context *ctx, LatentCache *cache, int T, const char *says) {
    Tensor before = cache->latent;
    float *values = test_values(ctx, &before);
    int free_count = cache->free_count, length = cache->length[0];
    Error err = {0};
    Tensor *c = test_normal(ctx, "c", 1, SHAPE(cache->batch, T, cache->width - 2));
    Tensor *k = test_normal(ctx, "k", 2, SHAPE(cache->batch, T, 2));
    cr_assert_eq(latent_cache_append(ctx, cache, c, k, &err), -1);
    cr_assert(strstr(err.text, says), "it says: %s", err.text);
    cr_assert_eq(latent_cache_reserve(cache, T, NULL), -1);
    cr_assert_eq(cache->free_count, free_count);
    cr_assert_eq(cache->length[0], length);
    float *after = test_values(ctx, &before);
    cr_assert(memcmp(values, after, sizeof(float) * (size_t)tensor_count(&before)) == 0,
              "something was written");
    check_invariants(ctx, cache);
    free(values), free(after);
}

DEVICE_TEST(latent_cache, too_many_tokens_are_refused_whole) {
    Context ctx = test_context(device, dtype);
    LatentCache cache;
    init(&cache, &ctx, 2, 100, 0, 5); /* two pages would hold 128, but 100 were asked for */
    append(&ctx, &cache, 90);
    latent_cache_truncate(&cache, 0, 20);
    check_refused(&ctx, &cache, 11,
                  "sequence 1 holds 90 of 100 tokens, so 11 more do not fit (room for 10)");
    append(&ctx, &cache, 10);
    check_contents(&ctx, &cache);
    latent_cache_free(&cache);
    test_context_free(&ctx);
}

DEVICE_TEST(latent_cache, too_few_pages_are_refused_whole) {
    Context ctx = test_context(device, dtype);
    LatentCache cache;
    init(&cache, &ctx, 3, 1000, 5, 5);
    append(&ctx, &cache, 64);
    check_refused(&ctx, &cache, 1,
                  "sequence 2 holds 64 tokens and cannot get 1 more; 2 of 5 pages are free, at "
                  "least 3 are needed");
    latent_cache_truncate(&cache, 1, 0);
    append(&ctx, &cache, 1); /* 65, 1 and 65 tokens: five pages */
    check_contents(&ctx, &cache);
    latent_cache_free(&cache);
    test_context_free(&ctx);
}

Test(latent_cache, sizes_that_make_no_sense_are_named) {
    static const struct {
        int batch, capacity, pages;
        const char *says;
    } cases[] = {
        {0, 10, 0, "for 0 sequences"}, {-3, 10, 0, "for -3 sequences"},
        {1, 0, 0, "for 0 tokens"},     {1, -5, 0, "for -5 tokens"},
        {1, 10, -1, "of -1 pages"},    {1 << 20, 1 << 30, 0, "would need 17592186044416 pages"},
    };
    Context ctx = test_context(CPU, F32);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err = {0};
        LatentCache cache;
        cr_assert(latent_cache_init(&cache, &ctx, cases[i].batch, cases[i].capacity, cases[i].pages,
                                    1024, &err) == -1,
                  "case %zu is accepted", i);
        cr_assert(strstr(err.text, cases[i].says), "case %zu says: %s", i, err.text);
        latent_cache_free(&cache);
    }
    test_context_free(&ctx);
}
