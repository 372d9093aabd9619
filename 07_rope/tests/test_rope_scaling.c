/*
 * Frequencies and factors: the numbers of DeepSeek-V3 by hand, what must hold for any model, what
 * transformers computes, and the messages for settings that make no sense.
 */
#include "07_rope/rope.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static RopeConfig yarn_config(int dim, double theta, double factor, int original) {
    RopeConfig cfg = rope_config(dim, 4096);
    cfg.rope_theta = theta;
    cfg.rope_type = ROPE_YARN;
    cfg.factor = factor;
    cfg.original_max_position_embeddings = original;
    return cfg;
}

/* DeepSeek-V3's config.json. */
static RopeConfig v3_config(void) {
    RopeConfig cfg = yarn_config(64, 10000, 40, 4096);
    cfg.max_position_embeddings = 163840;
    cfg.beta_fast = 32, cfg.beta_slow = 1;
    cfg.mscale = cfg.mscale_all_dim = 1;
    return cfg;
}

static void check_number(const char *what, double got, double expected, double allowed) {
    cr_assert(fabs(got - expected) <= allowed, "%s is %.10g, not %.10g", what, got, expected);
}

/* ---- DeepSeek-V3 ---- */

Test(yarn, numbers_of_deepseek_v3) {
    RopeConfig cfg = v3_config();
    double low, high, f[32];
    rope_yarn_range(&cfg, &low, &high);
    check_number("low", low, 10, 0);
    check_number("high", high, 23, 0);
    rope_frequencies(&cfg, f);
    check_number("f[0]", f[0], 1, 0);
    check_number("f[10]", f[10], pow(10000, -20.0 / 64), 1e-15);      /* the last that stays */
    check_number("f[23]", f[23], pow(10000, -46.0 / 64) / 40, 1e-15); /* the first in full */
    check_number("factor on cos and sin", rope_attention_factor(&cfg), 1, 0);
    check_number("m", sqrt(rope_softmax_factor(&cfg)), 1.368888, 5e-7);
    check_number("softmax scale", rope_softmax_factor(&cfg) / sqrt(192), 0.1352338, 5e-8);
}

/* The module hands both factors on: one in the table, one in position.scale. */
CPU_TEST(yarn, factors_reach_table_and_position) {
    RopeConfig cfg = v3_config();
    cfg.max_position_embeddings = 8;
    cfg.mscale_all_dim = 0.5;
    Rope rope;
    check_ok(rope_init(&rope, &ctx, &cfg, &err), &err);
    double m1 = 1 + 0.1 * log(40), m2 = 1 + 0.05 * log(40);
    check_number("cos(0)", rope.cos[0], m1 / m2, 1e-7);
    check_number("sin(0)", rope.sin[0], 0, 0);
    check_number("position.scale", rope.position.scale, m2 * m2, 2e-7);
    cr_assert_eq(rope.position.max_position, 8);
    rope_free(&rope);
    rope_free(&rope);             /* twice is fine */
    cfg.rope_type = ROPE_DEFAULT; /* then none of it counts */
    check_ok(rope_init(&rope, &ctx, &cfg, &err), &err);
    check_number("cos(0), default", rope.cos[0], 1, 0);
    check_number("position.scale, default", rope.position.scale, 1, 0);
}

/* By hand: 512 tokens and theta 10 are 7.64 pairs from one turn, rounded up 8; but the formula
 * stops at dim - 1. */
Test(yarn, range_ends_at_dim_minus_1) {
    RopeConfig cfg = yarn_config(8, 10, 4, 512);
    double low, high, f[4];
    rope_yarn_range(&cfg, &low, &high);
    check_number("low", low, 1, 0);
    check_number("high", high, 7, 0);
    rope_frequencies(&cfg, f);
    check_number("f[1]", f[1], pow(10, -2.0 / 8), 1e-15); /* the ramp's foot */
    /* a third up the ramp: a third of it is divided by 4 */
    check_number("f[3]", f[3], pow(10, -6.0 / 8) * (1.0 / 3 / 4 + 2.0 / 3), 1e-15);
}

/* ---- properties ---- */

/* Position s p under interpolation by s is position p without. */
Test(scaling, linear_squeezes_positions) {
    RopeConfig plain = rope_config(64, 4096), linear = plain;
    linear.rope_type = ROPE_LINEAR, linear.factor = 8;
    double f[32], g[32];
    rope_frequencies(&plain, f);
    rope_frequencies(&linear, g);
    for (int i = 0; i < 32; i++) check_number("8 f", 8 * g[i], f[i], 1e-15);
}

/* The fastest pair as it was, the slowest slowed down by exactly factor, the ratio monotone. */
Test(scaling, ntk_spreads_the_squeeze) {
    RopeConfig plain = rope_config(64, 4096), ntk = plain;
    ntk.rope_type = ROPE_NTK, ntk.factor = 8;
    double f[32], g[32];
    rope_frequencies(&plain, f);
    rope_frequencies(&ntk, g);
    check_number("the first pair's slow-down by ntk", f[0] / g[0], 1, 0);
    check_number("the last pair's slow-down by ntk of factor 8", f[31] / g[31], 8, 1e-12);
    for (int i = 1; i < 32; i++) cr_assert(f[i] / g[i] > f[i - 1] / g[i - 1]);
}

Test(scaling, yarn_keeps_fast_pairs_and_divides_slow_ones) {
    RopeConfig yarn = v3_config(), plain = rope_config(64, 4096);
    double f[32], g[32];
    rope_frequencies(&plain, f);
    rope_frequencies(&yarn, g);
    for (int i = 0; i < 32; i++) {
        if (i <= 10) check_number("kept", g[i], f[i], 0);
        if (i >= 23) check_number("divided", 40 * g[i], f[i], 1e-15);
        if (i > 10 && i < 23) cr_assert(g[i] < f[i] && g[i] > f[i] / 40, "pair %d", i);
        if (i > 0) cr_assert(g[i] < g[i - 1], "pair %d turns faster than the one before", i);
    }
}

Test(scaling, a_factor_of_1_changes_nothing) {
    for (int type = ROPE_LINEAR; type <= ROPE_YARN; type++) {
        RopeConfig plain = rope_config(64, 4096), cfg = yarn_config(64, 10000, 1, 2048);
        cfg.rope_type = type;
        cfg.mscale = 1, cfg.mscale_all_dim = 0.5;
        double f[32], g[32];
        rope_frequencies(&plain, f);
        rope_frequencies(&cfg, g);
        for (int i = 0; i < 32; i++) check_number("f", g[i], f[i], 1e-16);
        check_number("attention factor", rope_attention_factor(&cfg), 1, 0);
        check_number("softmax factor", rope_softmax_factor(&cfg), 1, 0);
    }
}

/* mscale_all_dim sharpens the softmax whatever changes the frequencies; cos and sin have a factor
 * of yarn's only. */
Test(scaling, the_softmax_factor_is_for_all_types_but_default) {
    for (int type = ROPE_LINEAR; type <= ROPE_YARN; type++) {
        RopeConfig cfg = yarn_config(64, 10000, 8, 2048);
        cfg.rope_type = type;
        cfg.mscale = cfg.mscale_all_dim = 0.5;
        double m = 1 + 0.05 * log(8);
        check_number("softmax factor", rope_softmax_factor(&cfg), m * m, 1e-15);
        cfg.attention_factor = 3;
        check_number("factor on cos and sin", rope_attention_factor(&cfg),
                     type == ROPE_YARN ? 3 : 1, 0);
    }
}

/* ---- goldens ---- */

/* transformers computes in F32: a power, a division and, for yarn, five operations more; some 8
 * roundings of 2^-24. Each frequency is compared for itself: the slow ones are the point. */
static const double GOLDEN = 8 * 0x1p-24;

static void check_golden(SafeTensors *golden, const char *name, RopeConfig cfg) {
    double f[64];
    char factors[64];
    check_ok(rope_check(&cfg, &err), &err);
    rope_frequencies(&cfg, f);
    const float *expected = golden_values(golden, name);
    cr_assert_eq(tensor_count(safetensors_find(golden, name)), cfg.dim / 2);
    for (int i = 0; i < cfg.dim / 2; i++)
        cr_assert(fabs(f[i] / expected[i] - 1) <= GOLDEN, "%s: f[%d] is %.9g, not %.9g", name, i,
                  f[i], expected[i]);
    snprintf(factors, sizeof factors, "%s.factors", name);
    expected = golden_values(golden, factors);
    check_number("factor on cos and sin", rope_attention_factor(&cfg), expected[0], 1e-7);
    check_number("factor on the softmax scale", rope_softmax_factor(&cfg), expected[1], 2e-7);
}

Test(goldens, frequencies_and_factors_of_transformers) {
    SafeTensors *golden = golden_open("07_rope/goldens/frequencies.safetensors");
    RopeConfig cfg = rope_config(64, 4096);
    check_golden(golden, "default", cfg);
    RopeConfig llama3 = rope_config(128, 4096);
    llama3.rope_theta = 500000;
    check_golden(golden, "default_llama3", llama3);
    cfg.rope_type = ROPE_LINEAR, cfg.factor = 4;
    check_golden(golden, "linear", cfg);
    /* "dynamic", factor 4, trained for 2048, with a text of 8192: 4 * 8192 / 2048 - 3 */
    cfg.rope_type = ROPE_NTK, cfg.factor = 13;
    check_golden(golden, "dynamic", cfg);
    cfg = yarn_config(64, 10000, 40, 4096);
    check_golden(golden, "yarn_plain", cfg);
    cfg.attention_factor = 1.25;
    check_golden(golden, "yarn_given", cfg);
    cfg = yarn_config(66, 12345, 3.7, 1000);
    cfg.beta_fast = 16, cfg.beta_slow = 2, cfg.mscale = 1, cfg.mscale_all_dim = 0.5;
    check_golden(golden, "yarn_ragged", cfg);
    check_golden(golden, "yarn_short", yarn_config(8, 10000, 8, 64));
    check_golden(golden, "yarn_guard", yarn_config(64, 10000, 4, 6)); /* low = high = 0 */
    check_golden(golden, "yarn_clamp", yarn_config(8, 10, 4, 512));
    cfg = yarn_config(64, 10000, 40, 4096);
    cfg.mscale = 0.5; /* one of the two alone */
    check_golden(golden, "yarn_mscale", cfg);
    cfg.mscale = 0, cfg.mscale_all_dim = 0.5;
    check_golden(golden, "yarn_all_dim", cfg);
    cfg.rope_type = ROPE_LINEAR, cfg.factor = 4; /* the softmax factor is not yarn's alone */
    check_golden(golden, "linear_all_dim", cfg);
    check_golden(golden, "yarn_v3", v3_config());
    cfg = v3_config();
    cfg.mscale = cfg.mscale_all_dim = 0.707;
    check_golden(golden, "yarn_v2", cfg);
}

/* Positions up to 300. There angles in F32, as transformers has them, are off by at most 2^-16. */
CPU_TEST(goldens, cos_and_sin_of_transformers) {
    enum { ROWS = 8, HALF = 32 };
    SafeTensors *golden = golden_open("07_rope/goldens/frequencies.safetensors");
    RopeConfig cfg = v3_config();
    cfg.max_position_embeddings = 301;
    Rope rope;
    check_ok(rope_init(&rope, &ctx, &cfg, &err), &err);
    Tensor *positions = golden_tensor(&ctx, golden, "positions");
    cr_assert_eq(tensor_count(positions), ROWS);
    const float *c = golden_values(golden, "yarn_v3.cos");
    const float *s = golden_values(golden, "yarn_v3.sin");
    for (int r = 0; r < ROWS; r++) {
        int p = ((int32_t *)positions->data)[r];
        for (int i = 0; i < HALF; i++) {
            check_number("cos", rope.cos[p * HALF + i], c[r * HALF + i], 0x1p-16);
            check_number("sin", rope.sin[p * HALF + i], s[r * HALF + i], 0x1p-16);
        }
    }
}

/* transformers leaves DeepSeek's pairs as halves behind: number i of its result is ours at 2i. */
static float *in_our_order(const float *x, int64_t heads, int dim, RopeLayout layout) {
    float *ours = test_floats(heads * dim);
    memcpy(ours, x, (size_t)(heads * dim) * sizeof *ours);
    if (layout == ROPE_INTERLEAVED)
        rope_layout_rows(ours, heads, dim, dim, 1, ROPE_HALVES, ROPE_INTERLEAVED);
    return ours;
}

/* which: "q" or "k". */
static void check_rotation(Device device, DType dtype, RopeLayout layout, const char *which) {
    Context ctx = test_context(device, dtype);
    SafeTensors *golden = golden_open("07_rope/goldens/rotation.safetensors");
    const char *name = layout == ROPE_HALVES ? "halves" : "interleaved";
    char key[64];
    Tensor *x = golden_tensor(&ctx, golden, which);
    int64_t heads = tensor_rows(x);
    int dim = (int)tensor_dim(x, -1);
    RopeConfig cfg = rope_config(dim, 50);
    cfg.layout = layout;
    Rope rope;
    check_ok(rope_init(&rope, &ctx, &cfg, &err), &err);
    snprintf(key, sizeof key, "c_%s", which);
    float *c = in_our_order(golden_values(golden, key), heads, dim, layout); /* it meets y */
    snprintf(key, sizeof key, "%s.%s", name, which);
    float *y = in_our_order(golden_values(golden, key), heads, dim, layout);

    ctx.recording = true;
    rope_rotate(&ctx, &rope, x, 0, NULL, 0, golden_tensor(&ctx, golden, "positions"));
    /* F32: transformers' angles, up to 50 in F32, are off by 2^-19 at most. BF16: x is rounded
     * before and y after; c is rounded, and the gradient. */
    double tolerance = dtype == BF16 ? 3 * 0x1p-9 : 0x1p-20;
    check_tensor(&ctx, key, x, y, tolerance);
    tape_backward(&ctx,
                  weighted_sum(&ctx, x, tensor_copy_in(&ctx, "c", F32, c, x->shape, x->ndim)));
    snprintf(key, sizeof key, "%s.grad.%s", name, which);
    check_tensor(&ctx, key, x->grad, golden_values(golden, key), tolerance);
}

DEVICE_TEST(goldens, apply_rotary_pos_emb) {
    check_rotation(device, dtype, ROPE_HALVES, "q");
    check_rotation(device, dtype, ROPE_HALVES, "k");
}

DEVICE_TEST(goldens, apply_rotary_pos_emb_interleave) {
    check_rotation(device, dtype, ROPE_INTERLEAVED, "q");
    check_rotation(device, dtype, ROPE_INTERLEAVED, "k");
}

/* ---- settings that make no sense ---- */

static void refused(RopeConfig cfg, const char *words) {
    cr_assert_eq(rope_check(&cfg, &err), -1, "accepted, but should say: %s", words);
    cr_assert(strstr(err.text, words), "it says: %s", err.text);
    /* rope_init says the same and leaves nothing to free. */
    Context ctx = test_context(CPU, F32);
    Rope rope;
    cr_assert_eq(rope_init(&rope, &ctx, &cfg, &err), -1);
    cr_assert(strstr(err.text, words), "rope_init says: %s", err.text);
}

#define REFUSED(words, ...)  \
    do {                     \
        cfg = v3_config();   \
        __VA_ARGS__;         \
        refused(cfg, words); \
    } while (0)

Test(check, names_the_setting) {
    RopeConfig cfg = v3_config();
    check_ok(rope_check(&cfg, &err), &err);
    REFUSED("head_dim without MLA) is 63", cfg.dim = 63);
    REFUSED("is 0; numbers are rotated in pairs", cfg.dim = 0);
    REFUSED("is -2; numbers are rotated in pairs", cfg.dim = -2);
    REFUSED("max_position_embeddings is 0", cfg.max_position_embeddings = 0);
    REFUSED("max_position_embeddings is -5", cfg.max_position_embeddings = -5);
    REFUSED("max_position_embeddings is 2147483647: with 64",
            cfg.max_position_embeddings = 0x7fffffff);
    REFUSED("max_position_embeddings is 163840: with 2147483646", cfg.dim = 0x7ffffffe);
    REFUSED("rope_theta is 1;", cfg.rope_theta = 1);
    REFUSED("rope_theta is -10000", cfg.rope_theta = -10000);
    REFUSED("rope_theta is nan", cfg.rope_theta = NAN);
    REFUSED("rope_theta is inf", cfg.rope_theta = INFINITY);
    REFUSED("the layout is 7", cfg.layout = (RopeLayout)7);
    REFUSED("rope_type is 9", cfg.rope_type = (RopeType)9);
    REFUSED("factor is 0.5", cfg.factor = 0.5);
    REFUSED("factor is 0;", cfg.factor = 0, cfg.rope_type = ROPE_LINEAR);
    REFUSED("factor is nan", cfg.factor = NAN, cfg.rope_type = ROPE_NTK);
    REFUSED("factor is inf", cfg.factor = INFINITY);
    REFUSED("ntk needs 4 or more", cfg.dim = 2, cfg.rope_type = ROPE_NTK);
    REFUSED("original_max_position_embeddings is 0", cfg.original_max_position_embeddings = 0);
    REFUSED("original_max_position_embeddings is -1", cfg.original_max_position_embeddings = -1);
    REFUSED("beta_fast is nan", cfg.beta_fast = NAN);
    REFUSED("beta_slow is -1", cfg.beta_slow = -1);
    REFUSED("mscale is inf", cfg.mscale = INFINITY);
    REFUSED("mscale_all_dim is -1", cfg.mscale_all_dim = -1);
    REFUSED("attention_factor is nan", cfg.attention_factor = NAN);
    REFUSED("beta_fast is 2 and beta_slow is 2.5", cfg.beta_fast = 2, cfg.beta_slow = 2.5);
    REFUSED("beta_fast is 0.5 and beta_slow is 1", cfg.beta_fast = 0.5, cfg.beta_slow = 0);
}

/* What belongs to another rope_type is not looked at. */
Test(check, ignores_what_is_not_used) {
    RopeConfig cfg = rope_config(64, 4096);
    cfg.factor = 0, cfg.beta_fast = NAN;
    check_ok(rope_check(&cfg, &err), &err);
    cfg.rope_type = ROPE_LINEAR, cfg.factor = 2, cfg.beta_fast = 0; /* and no original context */
    check_ok(rope_check(&cfg, &err), &err);
}
