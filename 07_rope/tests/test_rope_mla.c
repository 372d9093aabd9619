/*
 * Latent attention with rotary positions: what transformers' DeepseekV3Attention and
 * DeepseekV2Attention compute with rotation and YaRN, absorbed = naive, cached = uncached, and one
 * model in two layouts.
 */
#include "04_mla/mla_few_rows.h"
#include "07_rope/rope.h"

#include "04_mla/tests/test_mla.h"

/*
 * F32: five products of up to 20 terms, a norm and a softmax follow each other, and the goldens'
 * norms and angles are F32 themselves; 20 roundings of a sum of 128 are allowed, as in chapter 04.
 * BF16: all that is stored between the steps is rounded to 2^-9 in the mean, some nine times in a
 * row with the rotation, and YaRN's scale makes the scores' error larger by a half.
 */
static double module_tolerance(DType dtype) {
    return dtype == BF16 ? 16 * 0x1p-9 : 20 * tolerance_of(F32, 128);
}

static RopeConfig yarn_config(int dim, RopeLayout layout, double mscale, double mscale_all_dim) {
    RopeConfig cfg = rope_config(dim, 256);
    cfg.layout = layout;
    cfg.rope_theta = 100; /* few pairs: so that some of them are fast and some slow */
    cfg.rope_type = ROPE_YARN;
    cfg.factor = 8;
    cfg.original_max_position_embeddings = 32;
    cfg.beta_fast = 4, cfg.beta_slow = 1;
    cfg.mscale = mscale, cfg.mscale_all_dim = mscale_all_dim;
    return cfg;
}

static Rope rope_new(Context *ctx, RopeConfig cfg) {
    Rope rope;
    check_ok(rope_init(&rope, ctx, &cfg, &err), &err);
    return rope;
}

/* ---- goldens ---- */

/* y, and the gradients of sum(y * c) with respect to x and all weights. */
static void check_golden(Device device, DType dtype, const char *path, MlaConfig cfg,
                         RopeConfig rope_cfg) {
    Context ctx = test_context(device, dtype);
    SafeTensors *golden = golden_open(path);
    Module m;
    module_init(&m, &ctx, cfg);
    Rope rope = rope_new(&ctx, rope_cfg);
    golden_weights(&m.params, golden, "self_attn.");
    Tensor *x = golden_tensor(&ctx, golden, "x");
    ctx.recording = true;
    Tensor *y =
        mla_forward(&ctx, x, &m.w, &cfg, &rope.position, NULL, NULL, MLA_AUTO, (Residual){0});
    golden_check(&ctx, &m.params, golden, "self_attn.", x, y, module_tolerance(dtype));
}

/* Sizes and settings as in tools/goldens/07_rope.py. mscale = mscale_all_dim, as in V2 and V3: YaRN
 * sharpens through the softmax scale alone. */
DEVICE_TEST(mla, equals_transformers_interleaved) {
    check_golden(device, dtype, "07_rope/goldens/mla_interleaved.safetensors",
                 (MlaConfig){20, 3, 14, 10, 6, 8, 5, false},
                 yarn_config(8, ROPE_INTERLEAVED, 1, 1));
}

/* mscale and mscale_all_dim differ: cos and sin have a factor too. */
DEVICE_TEST(mla, equals_transformers_halves) {
    check_golden(device, dtype, "07_rope/goldens/mla_halves.safetensors",
                 (MlaConfig){20, 3, 0, 10, 6, 8, 5, false}, yarn_config(8, ROPE_HALVES, 1, 0.5));
}

/* V2 turns complex numbers, each a pair of neighbours, in F32 also where the rest is exact. */
DEVICE_TEST(mla, equals_transformers_v2) {
    check_golden(device, dtype, "07_rope/goldens/mla_v2.safetensors",
                 (MlaConfig){20, 4, 0, 10, 6, 8, 5, false},
                 yarn_config(8, ROPE_INTERLEAVED, 1, 0.5));
}

/* ---- the two modes, with and without a cache ---- */

enum { B = 2, T = 77, HIDDEN = 24 };
static const MlaConfig small = {HIDDEN, 3, 12, 16, 8, 6, 5, false};

/*
 * A prompt, a chunk, then token by token, in either mode, against the whole text without a cache:
 * k_rope is in the cache as it was after its rotation and is never turned again.
 */
static void check_cached(Device device, DType dtype, RopeLayout layout, MlaMode mode) {
    static const int chunks[] = {31, 7, 33, 1, 1, 1, 2, 1};
    Context ctx = test_context(device, dtype);
    Module m;
    module_init(&m, &ctx, small);
    Rope rope = rope_new(&ctx, yarn_config(small.qk_rope_head_dim, layout, 1, 0.7));
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, HIDDEN));
    Tensor *y =
        mla_forward(&ctx, x, &m.w, &small, &rope.position, NULL, NULL, MLA_NAIVE, (Residual){0});
    float *all = test_values(&ctx, x), *whole = test_values(&ctx, y);
    float *pieced = test_floats(B * T * HIDDEN);

    OneLayer cache;
    one_layer_init(&cache, &ctx, B, T, 0, small.kv_lora_rank + small.qk_rope_head_dim);
    for (int i = 0, first = 0; first < T; first += chunks[i++]) {
        Tensor *part = tokens_of(&ctx, all, 0, B, T, HIDDEN, first, chunks[i]);
        Tensor *z = cached_forward(&ctx, part, &m.w, &small, &rope.position, &cache, mode);
        float *values = test_values(&ctx, z);
        for (int b = 0; b < B; b++)
            memcpy(pieced + (b * T + first) * HIDDEN, values + b * chunks[i] * HIDDEN,
                   sizeof(float) * (size_t)(chunks[i] * HIDDEN));
    }
    check_close("cached", pieced, whole, B * T * HIDDEN, module_tolerance(dtype));
}

DEVICE_TEST(mla, absorbed_from_the_cache_is_naive_without) {
    check_cached(device, dtype, ROPE_INTERLEAVED, MLA_ABSORBED);
    check_cached(device, dtype, ROPE_HALVES, MLA_ABSORBED);
}

DEVICE_TEST(mla, naive_from_the_cache_is_naive_without) {
    check_cached(device, dtype, ROPE_INTERLEAVED, MLA_NAIVE);
    check_cached(device, dtype, ROPE_HALVES, MLA_NAIVE);
}

/* ---- one model, two layouts ---- */

static void convert(Module *m, Tensor *t, int heads, int head_dim) {
    float *rows = test_weight(&m->params, t);
    rope_layout_rows(rows, heads, head_dim, small.qk_rope_head_dim, tensor_dim(t, 1),
                     ROPE_INTERLEAVED, ROPE_HALVES);
    params_set(&m->params, t, rows);
}

/* q_b_proj's rows are per head [nope | rope]; kv_a_proj's are [kv_lora_rank | rope], one "head". */
CONTEXT_TEST(mla, converted_weights_give_the_same_output) {
    Module m;
    module_init(&m, &ctx, small);
    Rope interleaved = rope_new(&ctx, yarn_config(small.qk_rope_head_dim, ROPE_INTERLEAVED, 1, 1));
    Rope halves = rope_new(&ctx, yarn_config(small.qk_rope_head_dim, ROPE_HALVES, 1, 1));
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, HIDDEN));
    Tensor *y = mla_forward(&ctx, x, &m.w, &small, &interleaved.position, NULL, NULL, MLA_AUTO,
                            (Residual){0});
    float *expected = test_values(&ctx, y);
    y = mla_forward(&ctx, x, &m.w, &small, &halves.position, NULL, NULL, MLA_AUTO, (Residual){0});
    float *other = test_values(&ctx, y), apart = 0;
    for (int i = 0; i < B * T * HIDDEN; i++) apart = fmaxf(apart, fabsf(other[i] - expected[i]));
    cr_assert(apart > 0.05f, "unconverted weights must not do: the outputs differ by %g", apart);
    convert(&m, m.w.q_b_proj, 3, small.qk_nope_head_dim + small.qk_rope_head_dim);
    convert(&m, m.w.kv_a_proj, 1, small.kv_lora_rank + small.qk_rope_head_dim);
    y = mla_forward(&ctx, x, &m.w, &small, &halves.position, NULL, NULL, MLA_AUTO, (Residual){0});
    check_tensor(&ctx, "y", y, expected, module_tolerance(dtype));
}

/* ---- where the table ends ---- */

CPU_TEST(mla, table_too_short_is_said_before_the_step) {
    Rope rope = rope_new(&ctx, rope_config(6, 40));
    cr_assert_eq(position_room(&rope.position, 30, 10, &err), 0);
    cr_assert_eq(position_room(&rope.position, 31, 10, &err), -1);
    cr_assert(strstr(err.text, "40"), "it says: %s", err.text);
}

/* ---- a few tokens, in kernels that turn as they go ---- */

/* Chapter 04's kernels take the tables, chapter 07's the tensors: both layouts, YaRN's factor
 * in. */
DEVICE_TEST(mla, few_tokens_turn_like_many) {
    if (device == CPU) return; /* kernels of the GPU alone */
    static const MlaConfig cfg = {64, 2, 32, 32, 16, 16, 16, false};
    for (int layout = 0; layout < 2; layout++) {
        Context ctx = test_context(device, dtype);
        Module m;
        Rope rope;
        OneLayer few, many;
        Error err = {0};
        RopeConfig yarn = yarn_config(16, layout ? ROPE_HALVES : ROPE_INTERLEAVED, 1, 0.5);
        module_init(&m, &ctx, cfg);
        check_ok(rope_init(&rope, &ctx, &yarn, &err), &err);
        one_layer_init(&few, &ctx, 3, 100, 0, 48), one_layer_init(&many, &ctx, 3, 100, 0, 48);
        Tensor *norm = test_normal(&ctx, "norm", 5, SHAPE(64));
        for (int step = 0; step < 9; step++) {
            Tensor *x = test_normal(&ctx, "x", 6 + (uint64_t)step, SHAPE(3, 2, 64));
            Tensor *h = rmsnorm(&ctx, x, norm, 1e-6f);
            h = cached_forward(&ctx, h, &m.w, &cfg, &rope.position, &many, MLA_ABSORBED);
            float *want = test_values(&ctx, add(&ctx, x, h));
            cr_assert(
                mla_few_rows_supports(&ctx, x, norm, &m.w, &cfg, &rope.position, &few.latent));
            cr_assert_eq(pages_begin(&few.pages, 2, NULL), 0);
            Tensor *y =
                mla_few_rows_forward(&ctx, x, norm, 1e-6f, &m.w, &cfg, &rope.position, &few.latent);
            /* As in chapter 04's test_mla_few_rows.c: other orders of sums, and roundings on the
             * way. */
            check_tensor(&ctx, "few", y, want,
                         dtype == BF16 ? 4 * 0x1p-9 : 16 * tolerance_of(F32, 64));
        }
    }
}
