/*
 * Keys and values that are kept: whatever happens to the cache between two steps, the next one
 * gives the bits of a cache that has kept nothing, and makes no more rows than it must.
 */
#include "04_mla/mla_kept.h"
#include "04_mla/tests/test_mla.h"

#include "common/core/cpu_matmul.h"

enum { B = 3, CAPACITY = 150 };
static const MlaConfig config = {40, 5, 12, 16, 8, 8, 8, false};

/* A step of one token for each sequence; kept: with what is there, or all anew. */
static float *step(Context *ctx, const Module *m, OneLayer *cache, int number, bool kept) {
    if (!kept) mla_kept_free(cache->latent.kept), cache->latent.kept = NULL;
    Tensor *x = test_normal(ctx, "x", 100 + (uint64_t)number, SHAPE(B, 1, config.hidden_size));
    Tensor *y = cached_forward(ctx, x, &m->w, &m->cfg, &TURN, cache, MLA_AS_TRAINED);
    return test_values(ctx, y);
}

CPU_TEST(mla_kept, gives_the_same_bits_whatever_happened) {
    Module m;
    OneLayer kept, fresh, *both[] = {&kept, &fresh};
    int was = cpu_matmul_rows_alike(1), width = config.kv_lora_rank + config.qk_rope_head_dim;
    module_init(&m, &ctx, config);
    for (int i = 0; i < 2; i++) one_layer_init(both[i], &ctx, B, CAPACITY, 0, width);
    for (int n = 0; n < 300; n++) {
        Philox random = philox(7, 1, (uint64_t)n);
        int b = (int)(random.word[1] % B), what = (int)(random.word[0] % 8);
        int cut = (int)(random.word[2] % (uint32_t)(kept.pages.length[b] + 1));
        for (int i = 0; i < 2; i++) {
            if (what < 2 || pages_longest(&kept.pages) == CAPACITY)
                pages_truncate(&both[i]->pages, what ? b : -1, cut);
            if (what == 2 && pages_longest(&both[i]->pages) < CAPACITY - 9) /* a chunk */
                cached_forward(&ctx,
                               test_normal(&ctx, "x", (uint64_t)n, SHAPE(B, 7, config.hidden_size)),
                               &m.w, &config, &TURN, both[i], MLA_AS_TRAINED);
        }
        if (what == 3) ((float *)m.w.kv_b_proj->data)[random.word[3] % 200] += 0.25f;
        if (pages_longest(&kept.pages) == CAPACITY) continue;
        float *is = step(&ctx, &m, &kept, n, true), *want = step(&ctx, &m, &fresh, n, false);
        check_close("attention", is, want, B * config.hidden_size, 0);
        free(is), free(want);
        context_reset(&ctx);
    }
    cpu_matmul_rows_alike(was);
}

/* Token by token, over several tiles of keys, as without a cache. */
CPU_TEST(mla_kept, steps_are_the_whole_text) {
    enum { T = CAPACITY };
    static const MlaConfig configs[] = {config, {25, 3, 0, 11, 7, 6, 5, true}};
    int was = cpu_matmul_rows_alike(1);
    for (int i = 0; i < 2; i++) {
        const MlaConfig *cfg = &configs[i];
        int hidden = cfg->hidden_size;
        Module m;
        OneLayer cache;
        module_init(&m, &ctx, *cfg);
        one_layer_init(&cache, &ctx, B, T, 0, cfg->kv_lora_rank + cfg->qk_rope_head_dim);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, hidden));
        float *in = test_values(&ctx, x);
        float *want = test_values(
            &ctx, mla_forward(&ctx, x, &m.w, cfg, &TURN, NULL, NULL, MLA_AUTO, (Residual){0}));
        for (int t = 0; t < T; t++) {
            Tensor *y = cached_forward(&ctx, tokens_of(&ctx, in, 0, B, T, hidden, t, 1), &m.w, cfg,
                                       &TURN, &cache, MLA_AS_TRAINED);
            float *is = test_values(&ctx, y);
            for (int b = 0; b < B; b++)
                check_close("token", is + b * hidden, want + (b * T + t) * hidden, hidden, 0);
        }
        cr_assert(cache.latent.kept->made == B * T);
    }
    cpu_matmul_rows_alike(was);
}

CPU_TEST(mla_kept, makes_each_row_once) {
    Module m;
    OneLayer cache;
    module_init(&m, &ctx, config);
    one_layer_init(&cache, &ctx, B, CAPACITY, 0, config.kv_lora_rank + config.qk_rope_head_dim);
    for (int n = 0; n < 100; n++) free(step(&ctx, &m, &cache, n, true));
    cr_assert(cache.latent.kept->made == 100 * B);
    pages_truncate(&cache.pages, 1, 60); /* the others stay */
    free(step(&ctx, &m, &cache, 100, true));
    cr_assert(cache.latent.kept->made == 101 * B, "%lld", (long long)cache.latent.kept->made);
    latent_cache_free(&cache.latent);
}
