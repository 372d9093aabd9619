/*
 * The latent cache: rows go where the block table says, pages belong to one sequence at a time, and
 * what does not fit is refused before anything is written.
 */
#include "04_mla/tests/test_mla.h"

/*
 * The invariants of pages.h: host and device say the same lengths and pages, every sequence
 * has pages for its tokens, and each page has exactly one owner.
 */
static void check_invariants(Context *ctx, Pages *p) {
    pages_settle(ctx, p);
    int32_t *lengths = test_ints(ctx, &p->lengths);
    int32_t *table = test_ints(ctx, &p->block_table);
    int *owners = calloc((size_t)p->count, sizeof *owners);
    for (int b = 0; b < p->batch; b++) {
        cr_assert_eq(lengths[b], p->length[b]);
        cr_assert(p->length[b] <= p->used_pages[b] * PAGE_TOKENS);
        for (int i = 0; i < p->used_pages[b]; i++) {
            int page = table[b * p->max_pages + i];
            cr_assert(page >= 0 && page < p->count, "sequence %d has page %d of %d", b, page,
                      p->count);
            owners[page]++;
        }
    }
    for (int i = 0; i < p->free_count; i++) owners[p->free_pages[i]]++;
    for (int i = 0; i < p->count; i++)
        cr_assert(owners[i] == 1, "page %d has %d owners", i, owners[i]);
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
    ON(&ctx, pages_move, lengths->data, T, NULL, B); /* lengths count the new tokens already */
    int32_t *now = test_ints(&ctx, lengths);
    for (int b = 0; b < B; b++) cr_assert_eq(now[b], k.lengths[b] + T);
    ON(&ctx, latent_append, pool->data, block_table->data, lengths->data, c_kv->data, k_rope->data,
       B, T, k.c_width, k.rope_width, k.max_pages);
    check_tensor(&ctx, "pool", pool, expected, 0); /* a copy: equal */

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

/* Rows of a step's tokens, as numbers that say which: 16 b + t % 16, exact in BF16. */
static Tensor *numbered(Context *ctx, const char *name, const Pages *pages, int T, int width) {
    float *values = test_floats(pages->batch * T * width);
    for (int i = 0; i < pages->batch * T * width; i++) {
        int b = i / width / T, t = i / width % T;
        values[i] = (float)(16 * b + (pages->length[b] - T + t) % 16);
    }
    Tensor *t = tensor_copy_in(ctx, name, ctx->dtype, values, SHAPE(pages->batch, T, width));
    return t;
}

/* The rows of a step that began. */
static void write_rows(Context *ctx, LatentCache *cache, int T) {
    Tensor *c = numbered(ctx, "c_kv", cache->pages, T, cache->width - 2);
    latent_cache_append(ctx, cache, c, numbered(ctx, "k_rope", cache->pages, T, 2));
}

static void append(Context *ctx, OneLayer *cache, int T) {
    check_ok(pages_begin(&cache->pages, T, &err), &err);
    write_rows(ctx, &cache->latent, T);
}

/* Every token of every sequence, read back, says its name. */
static void check_contents(Context *ctx, const LatentCache *cache) {
    const Pages *p = cache->pages;
    int S = pages_longest(p), c_width = cache->width - 2;
    if (S == 0) return;
    Tensor *c = tensor_new(ctx, "c_kv", ctx->dtype, SHAPE(p->batch, S, c_width));
    Tensor *k = tensor_new(ctx, "k_rope", ctx->dtype, SHAPE(p->batch, S, 2));
    ON(ctx, latent_gather, c->data, k->data, cache->latent.data, p->block_table.data,
       p->lengths.data, p->batch, S, c_width, 2, p->max_pages);
    float *values = test_values(ctx, c), *ropes = test_values(ctx, k);
    for (int i = 0; i < p->batch * S; i++) {
        int b = i / S, t = i % S;
        float wanted = t < p->length[b] ? (float)(16 * b + t % 16) : 0;
        cr_assert(values[i * c_width] == wanted && values[(i + 1) * c_width - 1] == wanted &&
                      ropes[2 * i] == wanted && ropes[2 * i + 1] == wanted,
                  "sequence %d, token %d is %g, not %g", b, t, values[i * c_width], wanted);
    }
}

CONTEXT_TEST(latent_cache, appends_at_each_sequence_s_length) {
    enum { B = 3, CAPACITY = 300 };
    static const int chunks[] = {1, 62, 1, 1, 64, 100, 31};
    OneLayer cache;
    one_layer_init(&cache, &ctx, B, CAPACITY, 0, 5);
    int length = 0;
    for (int i = 0; i < 7; i++) {
        append(&ctx, &cache, chunks[i]);
        length += chunks[i];
        for (int b = 0; b < B; b++) cr_assert_eq(cache.pages.length[b], length);
        check_invariants(&ctx, &cache.pages);
        check_contents(&ctx, &cache.latent);
    }
    pages_free(&cache.pages);
    pages_free(&cache.pages); /* twice is fine */
}

/* Cut at random, go on, cut again: pages go from one to the other and the contents stay right, in
 * two pools of different widths that one table serves. */
CONTEXT_TEST(latent_cache, pages_change_hands) {
    enum { B = 4, CAPACITY = 400, PAGES = 14, STEPS = 60 };
    OneLayer cache;
    LatentCache second;
    one_layer_init(&cache, &ctx, B, CAPACITY, PAGES, 7);
    Pages *pages = &cache.pages;
    check_ok(latent_cache_init(&second, &ctx, pages, 34, &err), &err);
    int appended = 0, refused = 0, cuts = 0;
    for (int i = 0; i < STEPS; i++) {
        Philox random = philox(11, 0, (uint64_t)i);
        int T = 1 + (int)(random.word[0] % 90), b = (int)(random.word[1] % B);
        err.text[0] = 0;
        if (pages_reserve(pages, T, &err) == 0) {
            append(&ctx, &cache, T);
            write_rows(&ctx, &second, T);
            appended++;
        } else {
            refused++;
            check_invariants(&ctx, pages);
        }
        if (random.word[2] % 3 == 0 || err.text[0]) {
            pages_truncate(pages, b, (int)(random.word[3] % (uint32_t)(pages->length[b] + 1)));
            cuts++;
        }
        check_invariants(&ctx, pages);
        check_contents(&ctx, &cache.latent);
        check_contents(&ctx, &second);
        context_reset(&ctx);
    }
    cr_assert(appended > 20 && refused > 5 && cuts > 10, "%d appended, %d refused, %d cut",
              appended, refused, cuts);
}

CONTEXT_TEST(latent_cache, positions_go_on) {
    OneLayer cache;
    one_layer_init(&cache, &ctx, 2, 100, 0, 5);
    append(&ctx, &cache, 70);
    pages_truncate(&cache.pages, 1, 3);
    cr_assert_eq(pages_begin(&cache.pages, 3, NULL), 0);
    static const int32_t wanted[] = {70, 71, 72, 3, 4, 5};
    for (int pass = 0; pass < 2; pass++) { /* two layers ask */
        int32_t *got = test_ints(&ctx, pages_positions(&ctx, &cache.pages));
        for (int i = 0; i < 6; i++) cr_assert_eq(got[i], wanted[i]);
    }
    cr_assert_eq(pages_longest(&cache.pages), 73);
}

/* -1 cuts them all, and nobody becomes longer. */
CONTEXT_TEST(latent_cache, all_sequences_are_cut_at_once) {
    OneLayer cache;
    one_layer_init(&cache, &ctx, 3, 200, 0, 5);
    append(&ctx, &cache, 130);
    pages_truncate(&cache.pages, 1, 3);
    pages_truncate(&cache.pages, -1, 64);
    static const int wanted[] = {64, 3, 64};
    for (int b = 0; b < 3; b++) cr_assert_eq(cache.pages.length[b], wanted[b]);
    cr_assert_eq(cache.pages.free_count, cache.pages.count - 3);
    check_invariants(&ctx, &cache.pages);
    check_contents(&ctx, &cache.latent);
}

/* A graph's launches move the device's lengths, on and back; the host counts along. */
CONTEXT_TEST(latent_cache, the_host_counts_along) {
    OneLayer cache;
    one_layer_init(&cache, &ctx, 2, 100, 0, 5);
    Pages *pages = &cache.pages;
    append(&ctx, &cache, 62);
    cr_assert_eq(pages_reserve(pages, 4, NULL), 0);
    ON(&ctx, pages_move, pages->lengths.data, 4, NULL, 2);
    static const int32_t back[] = {1, 4};
    pages_rewind(&ctx, pages, tensor_copy_in(&ctx, "back", I32, back, SHAPE(2)));
    pages_follow(pages, 4, back);
    check_invariants(&ctx, pages);
    cr_assert_eq(pages->length[0], 65);
    cr_assert_eq(pages->length[1], 62); /* with a page for what it took back */
    append(&ctx, &cache, 3);
    check_invariants(&ctx, pages);
}

/* In a step that the device has not counted yet, the last tokens are taken back. */
CONTEXT_TEST(latent_cache, wrong_guesses_are_overwritten) {
    OneLayer cache;
    one_layer_init(&cache, &ctx, 2, 100, 0, 5);
    append(&ctx, &cache, 60);
    cr_assert_eq(pages_begin(&cache.pages, 7, NULL), 0);
    latent_cache_append(&ctx, &cache.latent, test_normal(&ctx, "c", 1, SHAPE(2, 7, 3)),
                        test_normal(&ctx, "k", 2, SHAPE(2, 7, 2)));
    static const int32_t back[] = {7, 7};
    pages_rewind(&ctx, &cache.pages, tensor_copy_in(&ctx, "back", I32, back, SHAPE(2)));
    pages_follow(&cache.pages, 0, back);
    append(&ctx, &cache, 7);
    check_invariants(&ctx, &cache.pages);
    check_contents(&ctx, &cache.latent);
}

/* ---- what users can get wrong ---- */

static void check_refused(Context *ctx, Pages *pages, int T, const char *says) {
    int free_count = pages->free_count, length = pages->length[0];
    cr_assert_eq(pages_begin(pages, T, &err), -1);
    cr_assert(strstr(err.text, says), "it says: %s", err.text);
    cr_assert_eq(pages_reserve(pages, T, NULL), -1);
    cr_assert_eq(pages->free_count, free_count);
    cr_assert_eq(pages->length[0], length);
    check_invariants(ctx, pages);
}

CONTEXT_TEST(latent_cache, too_many_tokens_are_refused_whole) {
    OneLayer cache;
    one_layer_init(&cache, &ctx, 2, 100, 0,
                   5); /* two pages would hold 128, but 100 were asked for */
    append(&ctx, &cache, 90);
    pages_truncate(&cache.pages, 0, 20);
    check_refused(&ctx, &cache.pages, 11,
                  "sequence 1 holds 90 of 100 tokens, so 11 more do not fit (room for 10)");
    append(&ctx, &cache, 10);
    check_contents(&ctx, &cache.latent);
}

CONTEXT_TEST(latent_cache, too_few_pages_are_refused_whole) {
    OneLayer cache;
    one_layer_init(&cache, &ctx, 3, 1000, 5, 5);
    append(&ctx, &cache, 64);
    check_refused(&ctx, &cache.pages, 1,
                  "sequence 2 holds 64 tokens and cannot get 1 more; 2 of 5 pages are free, at "
                  "least 3 are needed");
    pages_truncate(&cache.pages, 1, 0);
    append(&ctx, &cache, 1); /* 65, 1 and 65 tokens: five pages */
    check_contents(&ctx, &cache.latent);
}

CPU_TEST(latent_cache, sizes_that_make_no_sense_are_named) {
    static const struct {
        int batch, capacity, pages;
        const char *says;
    } cases[] = {
        {0, 10, 0, "for 0 sequences"}, {-3, 10, 0, "for -3 sequences"},
        {1, 0, 0, "for 0 tokens"},     {1, -5, 0, "for -5 tokens"},
        {1, 10, -1, "of -1 pages"},    {1 << 20, 1 << 30, 0, "would need 17592186044416 pages"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err = {0};
        Pages pages;
        cr_assert(
            pages_init(&pages, &ctx, cases[i].batch, cases[i].capacity, cases[i].pages, &err) == -1,
            "case %zu is accepted", i);
        cr_assert(strstr(err.text, cases[i].says), "case %zu says: %s", i, err.text);
        pages_free(&pages);
    }
}
