/*
 * A few tokens behind a cache: the five kernels give what norm, mla_forward() and addition give,
 * and leave the same cache. On the CPU nothing is there to test but that they say no.
 */
#include "04_mla/mla_few_rows.h"
#include "04_mla/tests/test_mla.h"

#include "common/cuda/few_rows.h"

enum { CAPACITY = 300, POSITIONS = 320 };

static bool eight_bits; /* caches with rows of latent_row.h */

/* Sizes that fit: with and without q_lora_rank, a position, biases; the last is the benchmark's. */
static const MlaConfig configs[] = {
    {.hidden_size = 64,
     .num_attention_heads = 2,
     .q_lora_rank = 32,
     .kv_lora_rank = 32,
     .qk_nope_head_dim = 16,
     .qk_rope_head_dim = 16,
     .v_head_dim = 16},
    {.hidden_size = 96,
     .num_attention_heads = 4,
     .q_lora_rank = 0,
     .kv_lora_rank = 64,
     .qk_nope_head_dim = 32,
     .qk_rope_head_dim = 16,
     .v_head_dim = 48,
     .attention_bias = true},
    {.hidden_size = 64,
     .num_attention_heads = 6,
     .q_lora_rank = 64,
     .kv_lora_rank = 32,
     .qk_nope_head_dim = 48,
     .qk_rope_head_dim = 0,
     .v_head_dim = 16,
     .attention_bias = true},
    {.hidden_size = 512,
     .num_attention_heads = 8,
     .q_lora_rank = 192,
     .kv_lora_rank = 128,
     .qk_nope_head_dim = 64,
     .qk_rope_head_dim = 32,
     .v_head_dim = 64},
};
enum { CONFIGS = sizeof configs / sizeof *configs };

/* test_mla.h's rotation, with its angles as tables. */
static Position turn_with_angles(Context *ctx, int dim) {
    float *c = malloc(POSITIONS * (size_t)dim / 2 * sizeof *c + 1),
          *s = malloc(POSITIONS * (size_t)dim / 2 * sizeof *s + 1);
    for (int p = 0; p < POSITIONS; p++)
        for (int i = 0; i < dim / 2; i++) {
            c[p * dim / 2 + i] = (float)cos(p * TURN_ANGLE * (i + 1));
            s[p * dim / 2 + i] = (float)sin(p * TURN_ANGLE * (i + 1));
        }
    Position position = TURN;
    position.max_position = POSITIONS;
    position.angles =
        (PositionAngles){.cos = tensor_copy_in(ctx, "cos", F32, c, SHAPE(POSITIONS, dim / 2))->data,
                         .sin = tensor_copy_in(ctx, "sin", F32, s, SHAPE(POSITIONS, dim / 2))->data,
                         .dim = dim};
    return position;
}

static void cache_open(OneLayer *cache, Context *ctx, const MlaConfig *cfg, int batch) {
    check_ok(pages_init(&cache->pages, ctx, batch, CAPACITY, 0, &err) ||
                 latent_cache_init_as(&cache->latent, ctx, &cache->pages, cfg->kv_lora_rank,
                                      cfg->qk_rope_head_dim, eight_bits, &err),
             &err);
    test_poison(ctx, &cache->latent.latent); /* what no token wrote must not be used */
}

/* The numbers of the cache's rows: those of all sequences, one after the other. */
static float *cache_rows(Context *ctx, const OneLayer *cache, int *count) {
    const Pages *pages = &cache->pages;
    int width = cache->latent.width, total = 0, longest = pages_longest(pages);
    Tensor *all = tensor_new(ctx, "rows", ctx->dtype, SHAPE(pages->batch, longest, width));
    Tensor *none = tensor_new(ctx, "none", ctx->dtype, SHAPE(1));
    if (latent_cache_is_e4m3(&cache->latent)) { /* c_kv alone: rows of c_width */
        width = cache->latent.c_width;
        Tensor *keys = tensor_new(ctx, "keys", ctx->dtype, SHAPE(tensor_count(all)));
        latent_cache_gather(ctx, &cache->latent, all->data, keys->data, 0, pages->batch, longest,
                            width);
    } else {
        latent_cache_gather(ctx, &cache->latent, all->data, none->data, 0, pages->batch, longest,
                            width);
    }
    float *values = test_values(ctx, all), *rows = malloc(sizeof(float) * tensor_count(all));
    for (int b = 0; b < pages->batch; b++)
        for (int t = 0; t < pages->length[b]; t++)
            memcpy(rows + width * total++, values + (b * longest + t) * width,
                   (size_t)width * sizeof *rows);
    *count = total * width;
    return rows;
}

/* What both ways have in common. */
typedef struct Step {
    Module m;
    Tensor *norm;
    Position position;
    OneLayer few, plain;
} Step;

static Tensor *plain_forward(Context *ctx, Step *s, Tensor *x, const Position *position) {
    Tensor *h = rmsnorm(ctx, x, s->norm, 1e-5f);
    return add(ctx, x,
               cached_forward(ctx, h, &s->m.w, &s->m.cfg, position, &s->plain, MLA_ABSORBED));
}

/* Prompts of different lengths in both caches, then tokens T at a time. */
static void compare(Context *ctx, const MlaConfig *cfg, int B, int T, bool turned) {
    Step s;
    module_init(&s.m, ctx, *cfg);
    s.norm = test_normal(ctx, "norm", 3, SHAPE(cfg->hidden_size));
    s.position = turn_with_angles(ctx, cfg->qk_rope_head_dim);
    const Position *position = turned && cfg->qk_rope_head_dim ? &s.position : NULL;
    cache_open(&s.few, ctx, cfg, B), cache_open(&s.plain, ctx, cfg, B);
    enum { PROMPT = 270 };
    Tensor *prompt = test_normal(ctx, "prompt", 5, SHAPE(B, PROMPT, cfg->hidden_size));
    cached_forward(ctx, prompt, &s.m.w, cfg, position, &s.few, MLA_NAIVE);
    cached_forward(ctx, prompt, &s.m.w, cfg, position, &s.plain, MLA_NAIVE);
    for (int b = 0; b < B; b++) {
        int length = b % 3 == 0 ? PROMPT : b % 3 == 1 ? PAGE_TOKENS - 1 : 0;
        pages_truncate(&s.few.pages, b, length), pages_truncate(&s.plain.pages, b, length);
    }
    for (int step = 0; step < 3; step++) {
        Tensor *x = test_normal(ctx, "x", 7 + (uint64_t)step, SHAPE(B, T, cfg->hidden_size));
        cr_assert(mla_few_rows_supports(ctx, x, s.norm, &s.m.w, cfg, position, &s.few.latent) ==
                      (ctx->device == CUDA),
                  "B %d, T %d", B, T);
        if (ctx->device == CPU) break;
        float *want = test_values(ctx, plain_forward(ctx, &s, x, position));
        cr_assert_eq(pages_begin(&s.few.pages, T, NULL), 0);
        Tensor *y =
            mla_few_rows_forward(ctx, x, s.norm, 1e-5f, &s.m.w, cfg, position, &s.few.latent);
        /* Sums in another order, through four products. In BF16 a number that is then rounded the
         * other way is off by 2^-8, and the roundings of all steps between are not the same. */
        check_tensor(ctx, "mla_few_rows_forward", y, want,
                     eight_bits           ? 4 * 0x1p-7
                     : ctx->dtype == BF16 ? 4 * 0x1p-9
                                          : 16 * tolerance_of(F32, cfg->hidden_size));
    }
    int few_count, plain_count;
    float *few = cache_rows(ctx, &s.few, &few_count);
    float *plain = cache_rows(ctx, &s.plain, &plain_count);
    cr_assert(few_count == plain_count);
    check_close("cache", few, plain, few_count,
                eight_bits           ? 2 * 0x1p-7
                : ctx->dtype == BF16 ? 2 * 0x1p-9
                                     : 4 * tolerance_of(F32, cfg->hidden_size));
    int32_t *lengths = test_ints(ctx, &s.few.pages.lengths);
    for (int b = 0; b < B; b++) cr_assert(lengths[b] == s.few.pages.length[b]);
}

static void equals_mla_forward(Device device, DType dtype) {
    static const int shapes[][2] = {{1, 1}, {3, 1}, {1, 5}, {4, 2}, {9, 1}, {3, 7}, {32, 1}};
    for (int c = 0; c < CONFIGS; c++)
        for (int i = 0; i < (device == CPU ? 1 : 7); i++) {
            Context ctx = test_context(device, dtype);
            compare(&ctx, &configs[c], shapes[i][0], shapes[i][1], i % 3 != 2);
            context_free(&ctx);
        }
}

DEVICE_TEST(mla_few_rows, equals_mla_forward) { equals_mla_forward(device, dtype); }

DEVICE_TEST(mla_few_rows, equals_mla_forward_in_eight_bits) {
    eight_bits = true;
    equals_mla_forward(device, dtype);
}

/* What it does not take: then mla_forward() is asked. One feature at a time; with none of them it
 * takes it. */
CONTEXT_TEST(mla_few_rows, features_that_decline) {
    enum { NO_CACHE = 1, NO_ANGLES, ODD_HEAD, MANY_ROWS, RECORDING, OTHER_DTYPE, END };
    for (int i = 0; i < END; i++) {
        Module m;
        OneLayer cache;
        MlaConfig cfg = configs[0];
        if (i == ODD_HEAD) cfg.qk_nope_head_dim = 17;
        module_init(&m, &ctx, cfg);
        if (i == OTHER_DTYPE) m.w.kv_b_proj->dtype = dtype == BF16 ? F32 : BF16;
        cache_open(&cache, &ctx, &cfg, 1);
        Tensor *norm = test_normal(&ctx, "norm", 3, SHAPE(64));
        Tensor *x = test_normal(&ctx, "x", 4, SHAPE(1, i == MANY_ROWS ? FEW_ROWS + 1 : 2, 64));
        ctx.recording = i == RECORDING;
        cr_assert_eq(mla_few_rows_supports(&ctx, x, norm, &m.w, &cfg, i == NO_ANGLES ? &TURN : NULL,
                                           i == NO_CACHE ? NULL : &cache.latent),
                     device == CUDA && i == 0, "case %d", i);
        ctx.recording = false;
    }
}
