/*
 * The kernels of mla.h against plain loops, and what mla_check, the costs and the names say.
 */
#include "04_mla/tests/test_mla.h"

#include "02_causal/causal.h"

#include <stdio.h>

/* ---- kernels ---- */

/* Sizes that 16-byte pieces fit, sizes that they do not, no rope, and a head of V3. */
static const MlaShape shapes[] = {
    {3, 7, 5, 9, 11}, {2, 8, 8, 16, 24}, {5, 16, 0, 8, 8},       {4, 12, 4, 8, 20},
    {1, 1, 1, 1, 1},  {7, 24, 8, 8, 17}, {3, 128, 64, 128, 512},
};
enum { SHAPE_COUNT = sizeof shapes / sizeof *shapes };
static const int row_counts[] = {1, 31, 33, 127};

static float *zeros(int64_t n) {
    float *p = calloc((size_t)n + 1, sizeof *p);
    cr_assert(p);
    return p;
}

static void check_keys(Device device, DType dtype, MlaShape s, int rows) {
    Context ctx = test_context(device, dtype);
    int H = s.heads, qk = s.nope + s.rope, row = s.nope + s.v;
    Tensor *kv = test_normal(&ctx, "kv", 1, SHAPE(rows, H, row));
    Tensor *k_rope = test_normal(&ctx, "k_rope", 2, SHAPE(rows, s.rope));
    Tensor *k = test_normal(&ctx, "k", 3, SHAPE(rows, H, qk));
    test_poison(&ctx, k);
    float *from = test_values(&ctx, kv), *shared = test_values(&ctx, k_rope);
    float *expected = zeros(rows * H * qk);
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < H; h++)
            for (int i = 0; i < qk; i++)
                expected[(r * H + h) * qk + i] =
                    i < s.nope ? from[(r * H + h) * row + i] : shared[r * s.rope + i - s.nope];
    ON(&ctx, mla_keys, k->data, kv->data, s.rope ? k_rope->data : NULL, rows, s);
    check_tensor(&ctx, "keys", k, expected, 0); /* copies: equal */
}

DEVICE_TEST(mla_kernels, keys_are_put_together) {
    for (int i = 0; i < SHAPE_COUNT; i++)
        for (int j = 0; j < 4; j++) check_keys(device, dtype, shapes[i], row_counts[j]);
}

/* add: bit 0 for dkv, bit 1 for dk_rope. v's part of dkv holds marks that must stay. */
static void check_keys_backward(Device device, DType dtype, MlaShape s, int rows, int add) {
    Context ctx = test_context(device, dtype);
    int H = s.heads, qk = s.nope + s.rope, row = s.nope + s.v;
    Tensor *dk = test_normal(&ctx, "dk", 1, SHAPE(rows, H, qk));
    Tensor *dkv = test_normal(&ctx, "dkv", 2, SHAPE(rows, H, row));
    Tensor *dk_rope = test_normal(&ctx, "dk_rope", 3, SHAPE(rows, s.rope));
    float *from = test_values(&ctx, dk), *of_kv = test_values(&ctx, dkv);
    float *of_rope = test_values(&ctx, dk_rope);
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < s.rope; i++) {
            double sum = add & 2 ? of_rope[r * s.rope + i] : 0;
            for (int h = 0; h < H; h++) sum += from[(r * H + h) * qk + s.nope + i];
            of_rope[r * s.rope + i] = (float)sum;
        }
        for (int h = 0; h < H; h++)
            for (int i = 0; i < s.nope; i++) {
                float *place = of_kv + (r * H + h) * row + i, g = from[(r * H + h) * qk + i];
                *place = add & 1 ? *place + g : g;
            }
    }
    if (!(add & 2) && s.rope) test_poison(&ctx, dk_rope);
    ON(&ctx, mla_keys_backward, dkv->data, add & 1, dk_rope->data, add >> 1, dk->data, rows, s);
    /* Sums of up to 8 numbers in F32; in BF16 the result is rounded once. */
    check_tensor(&ctx, "dkv", dkv, of_kv, 2 * tolerance_of(dtype, 8));
    if (s.rope) check_tensor(&ctx, "dk_rope", dk_rope, of_rope, 2 * tolerance_of(dtype, 8));

    /* Nobody wants one of the two: the other is the same. */
    Tensor *alone = test_normal(&ctx, "dk_rope", 3, SHAPE(rows, s.rope));
    ON(&ctx, mla_keys_backward, NULL, 0, alone->data, add >> 1, dk->data, rows, s);
    if (s.rope) check_tensor(&ctx, "dk_rope alone", alone, of_rope, 2 * tolerance_of(dtype, 8));
    alone = test_normal(&ctx, "dkv", 2, SHAPE(rows, H, row));
    ON(&ctx, mla_keys_backward, alone->data, add & 1, NULL, 0, dk->data, rows, s);
    check_tensor(&ctx, "dkv alone", alone, of_kv, 2 * tolerance_of(dtype, 8));
}

DEVICE_TEST(mla_kernels, the_shared_key_s_gradient_is_the_sum_over_heads) {
    for (int i = 0; i < SHAPE_COUNT; i++)
        for (int add = 0; add < 4; add++) {
            check_keys_backward(device, dtype, shapes[i], 1, add);
            check_keys_backward(device, dtype, shapes[i], 33, add);
        }
}

/* q_absorbed and o against sums in double precision, for a few rows. */
static void check_absorption(Device device, DType dtype, MlaShape s, int rows) {
    Context ctx = test_context(device, dtype);
    int H = s.heads, qk = s.nope + s.rope, rank = s.kv_lora_rank, width = rank + s.rope;
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(rows, H, qk));
    Tensor *kv_b = test_normal(&ctx, "kv_b", 2, SHAPE(H, s.nope + s.v, rank));
    Tensor *o_latent = test_normal(&ctx, "o_latent", 3, SHAPE(rows, H, rank));
    Tensor *absorbed = test_normal(&ctx, "q_absorbed", 4, SHAPE(rows, H, width));
    Tensor *o = test_normal(&ctx, "o", 5, SHAPE(rows, H, s.v));
    test_poison(&ctx, absorbed);
    test_poison(&ctx, o);
    ON(&ctx, mla_absorb_query, absorbed->data, q->data, kv_b->data, rows, s);
    ON(&ctx, mla_absorb_output, o->data, o_latent->data, kv_b->data, rows, s);

    float *x = test_values(&ctx, q), *w = test_values(&ctx, kv_b), *z = test_values(&ctx, o_latent);
    float *q_wanted = zeros(rows * H * width), *o_wanted = zeros(rows * H * s.v);
    for (int r = 0; r < rows * H; r++) {
        const float *w_uk = w + r % H * (s.nope + s.v) * rank, *w_uv = w_uk + s.nope * rank;
        for (int c = 0; c < width; c++) {
            double sum = c < rank ? 0 : x[r * qk + s.nope + c - rank];
            for (int i = 0; i < s.nope && c < rank; i++)
                sum += (double)x[r * qk + i] * w_uk[i * rank + c];
            q_wanted[r * width + c] = (float)sum;
        }
        for (int i = 0; i < s.v; i++) {
            double sum = 0;
            for (int c = 0; c < rank; c++) sum += (double)z[r * rank + c] * w_uv[i * rank + c];
            o_wanted[r * s.v + i] = (float)sum;
        }
    }
    /* Sums in F32 in any order, then one rounding to the dtype. */
    check_tensor(&ctx, "q_absorbed", absorbed, q_wanted, 4 * tolerance_of(dtype, s.nope));
    check_tensor(&ctx, "o", o, o_wanted, 4 * tolerance_of(dtype, rank));
}

DEVICE_TEST(mla_kernels, absorption_is_a_product_for_each_head) {
    for (int i = 0; i < SHAPE_COUNT - 1; i++)
        for (int j = 0; j < 4; j++) check_absorption(device, dtype, shapes[i], row_counts[j]);
    check_absorption(device, dtype, shapes[SHAPE_COUNT - 1], 1);
    check_absorption(device, dtype, shapes[SHAPE_COUNT - 1], 3);
    check_absorption(device, dtype, shapes[0], 300); /* more than one block of rows */
}

/* ---- the naive attention ---- */

/* Contiguous keys and values of every head, as the definition has them. */
static void expand(float *k, float *v, const float *kv, const float *k_rope, int rows, MlaShape s) {
    int row = s.nope + s.v, qk = s.nope + s.rope;
    for (int i = 0; i < rows * s.heads; i++) {
        memcpy(k + i * qk, kv + i * row, sizeof(float) * (size_t)s.nope);
        for (int j = 0; j < s.rope; j++) k[i * qk + s.nope + j] = k_rope[i / s.heads * s.rope + j];
        memcpy(v + i * s.v, kv + i * row + s.nope, sizeof(float) * (size_t)s.v);
    }
}

/* The way back: dk and dv of every head into dkv and dk_rope. */
static void collect(float *dkv, float *dk_rope, const float *dk, const float *dv, int rows,
                    MlaShape s) {
    int row = s.nope + s.v, qk = s.nope + s.rope;
    for (int i = 0; i < rows * s.heads; i++) {
        memcpy(dkv + i * row, dk + i * qk, sizeof(float) * (size_t)s.nope);
        for (int j = 0; j < s.rope; j++)
            dk_rope[i / s.heads * s.rope + j] += dk[i * qk + s.nope + j];
        memcpy(dkv + i * row + s.nope, dv + i * s.v, sizeof(float) * (size_t)s.v);
    }
}

/*
 * Output and gradients against chapter 02's reference on contiguous copies: the strides of the
 * values, which lie inside kv, are what is tested, on each rung of chapter 02's ladder that takes
 * the shape.
 */
static void check_naive(Device device, DType dtype, MlaShape s, int T, int S) {
    enum { B = 2 };
    Context ctx = test_context(device, dtype);
    MlaConfig cfg = {.num_attention_heads = s.heads,
                     .qk_nope_head_dim = s.nope,
                     .qk_rope_head_dim = s.rope,
                     .v_head_dim = s.v};
    int H = s.heads, qk = s.nope + s.rope, row = s.nope + s.v;
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(B, T, H, qk));
    Tensor *kv = test_normal(&ctx, "kv", 2, SHAPE(B, S, H, row));
    Tensor *k_rope = s.rope ? test_normal(&ctx, "k_rope", 3, SHAPE(B, S, s.rope)) : NULL;
    Tensor *c = test_normal(&ctx, "c", 4, SHAPE(B, T, H, s.v));
    float *qf = test_values(&ctx, q), *kvf = test_values(&ctx, kv), *cf = test_values(&ctx, c);
    float *rf = k_rope ? test_values(&ctx, k_rope) : NULL;

    float *k = zeros(B * S * H * qk), *v = zeros(B * S * H * s.v), *o = zeros(B * T * H * s.v);
    float *dq = zeros(B * T * H * qk), *dk = zeros(B * S * H * qk), *dv = zeros(B * S * H * s.v);
    float *dkv = zeros(B * S * H * row), *dk_rope = zeros(B * S * s.rope), *lse = zeros(B * H * T);
    AttentionShape shape = attention_shape(B, H, H, T, S, qk, s.v, 1);
    expand(k, v, kvf, rf, B * S, s);
    causal_reference_cpu(o, lse, qf, k, v, shape);
    causal_reference_backward_cpu(dq, 0, dk, 0, dv, 0, cf, qf, k, v, o, lse, shape);
    collect(dkv, dk_rope, dk, dv, B * S, s);

    ctx.recording = true;
    Tensor *y = mla_naive_attention(&ctx, q, kv, k_rope, NULL, &cfg, shape.scale);
    Tensor *weights = tensor_copy_in(&ctx, "c", F32, cf, c->shape, c->ndim);
    tape_backward(&ctx, weighted_sum(&ctx, y, weights));
    /* As in chapter 02: in BF16 scores, probabilities, dO and dS are rounded on the way. */
    double tolerance = dtype == BF16 ? 6 * 0x1p-9 : 10 * tolerance_of(F32, S + qk);
    check_tensor(&ctx, "o", y, o, tolerance);
    check_tensor(&ctx, "dq", q->grad, dq, tolerance);
    check_tensor(&ctx, "dkv", kv->grad, dkv, tolerance);
    if (k_rope) check_tensor(&ctx, "dk_rope", k_rope->grad, dk_rope, tolerance);
}

DEVICE_TEST(mla_kernels, values_are_read_inside_kv) {
    static const MlaShape sizes[] = {
        {3, 7, 5, 9, 1},   {2, 8, 8, 8, 1},  {3, 16, 0, 16, 1},   {2, 128, 64, 128, 1},
        {3, 64, 0, 64, 1}, {2, 12, 4, 4, 1}, {2, 128, 0, 128, 1},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_naive(device, dtype, sizes[i], 33, 33);
        check_naive(device, dtype, sizes[i], 17, 40);
    }
    check_naive(device, dtype, sizes[3], 127, 127);
    check_naive(device, dtype, sizes[4], 127, 127);
}

/* ---- names, costs, and what users can get wrong ---- */

CPU_TEST(mla, weights_have_hugging_face_names) {
    static const struct {
        const char *name;
        int64_t rows, columns; /* columns 0: a vector */
    } expected[] = {
        {"q_a_proj.weight", 12, 40},          {"q_a_layernorm.weight", 12, 0},
        {"q_b_proj.weight", 2 * (8 + 4), 12}, {"kv_a_proj_with_mqa.weight", 16 + 4, 40},
        {"kv_a_layernorm.weight", 16, 0},     {"kv_b_proj.weight", 2 * (8 + 6), 16},
        {"o_proj.weight", 40, 2 * 6},         {"q_a_proj.bias", 12, 0},
        {"kv_a_proj_with_mqa.bias", 20, 0},   {"o_proj.bias", 40, 0},
        {"q_proj.weight", 2 * (8 + 4), 40},
    };
    for (int variant = 0; variant < 3; variant++) { /* q_lora, with biases, without q_lora */
        MlaConfig cfg = {40, 2, variant == 2 ? 0 : 12, 16, 8, 4, 6, variant > 0};
        Params params;
        params_init(&params, &ctx);
        mla_init(&params, "model.layers.0.self_attn", &cfg);
        static const int counts[] = {7, 10, 7};
        cr_assert_eq(params.count, counts[variant]);
        int found = 0;
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
            char name[96];
            snprintf(name, sizeof name, "model.layers.0.self_attn.%s", expected[i].name);
            const Tensor *t = params_find(&params, name);
            if (!t) continue;
            found++;
            cr_assert_eq(t->shape[0], expected[i].rows, "%s", name);
            cr_assert_eq(t->ndim == 2 ? t->shape[1] : 0, expected[i].columns, "%s", name);
        }
        cr_assert_eq(found, params.count, "variant %d has other names", variant);
    }
}

CPU_TEST(mla, randomize_sets_every_weight) {
    static const MlaConfig cfg = {40, 2, 12, 16, 8, 4, 6, true};
    Module m;
    module_init(&m, &ctx, cfg);
    for (int i = 0; i < m.params.count; i++) params_fill(&m.params, m.params.list[i], NAN);
    mla_randomize(&m.params, &m.w, 0.02f, 0.01f);
    for (int i = 0; i < m.params.count; i++) {
        const Tensor *t = m.params.list[i];
        double squares = 0, wanted = t == m.w.o_proj ? 0.01 : t->ndim == 2 ? 0.02 : 0;
        if (strstr(t->name, "layernorm")) wanted = 1;
        for (int64_t j = 0; j < tensor_count(t); j++)
            squares += (double)tensor_get(t, j) * tensor_get(t, j);
        double rms = sqrt(squares / (double)tensor_count(t));
        cr_assert(fabs(rms - wanted) <= 0.2 * wanted, "%s has the size %g, not %g", t->name, rms,
                  wanted); /* 200 numbers and more: 0.2 is four standard deviations */
    }
}

Test(mla, a_wrong_config_is_named) {
    static const struct {
        MlaConfig cfg;
        const char *says;
    } cases[] = {
        {{0, 4, 0, 16, 8, 4, 8, false}, "hidden_size is 0"},
        {{-64, 4, 0, 16, 8, 4, 8, false}, "hidden_size is -64"},
        {{64, 0, 0, 16, 8, 4, 8, false}, "num_attention_heads is 0"},
        {{64, 5000, 0, 16, 8, 4, 8, false}, "num_attention_heads is 5000"},
        {{64, 4, -1, 16, 8, 4, 8, false}, "q_lora_rank is -1"},
        {{64, 4, 65, 16, 8, 4, 8, false}, "q_lora_rank (65) is larger than hidden_size (64)"},
        {{64, 4, 0, 0, 8, 4, 8, false}, "kv_lora_rank is 0"},
        {{64, 4, 0, 65, 8, 4, 8, false}, "kv_lora_rank (65) is larger than hidden_size (64)"},
        {{64, 4, 0, 16, 0, 4, 8, false}, "qk_nope_head_dim is 0"},
        {{64, 4, 0, 16, 8, -2, 8, false}, "qk_rope_head_dim is -2"},
        {{64, 4, 0, 16, 8, 4, 0, false}, "v_head_dim is 0"},
        {{64, 4, 0, 16, 8, 4, 257, false}, "v_head_dim is 257"},
        {{64, 4, 0, 16, 200, 57, 8, false}, "qk_nope_head_dim + qk_rope_head_dim is 200 + 57"},
        {{4096, 4, 0, 1000, 8, 64, 8, false}, "kv_lora_rank + qk_rope_head_dim is 1000 + 64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err = {0};
        cr_assert(mla_check(&cases[i].cfg, &err) == -1, "case %zu is accepted", i);
        cr_assert(strstr(err.text, cases[i].says), "case %zu says: %s", i, err.text);
    }
    static const MlaConfig fine[] = {{7168, 128, 1536, 512, 128, 64, 128, false}, /* V3 */
                                     {2048, 16, 0, 512, 128, 64, 128, false},     /* V2-Lite */
                                     {8, 1, 8, 8, 1, 0, 1, true}};
    for (int i = 0; i < 3; i++) {
        Error err = {0};
        check_ok(mla_check(&fine[i], &err), &err);
    }
}

/* The numbers of the lesson, from the papers' formulas. */
Test(mla, costs) {
    static const MlaConfig v3 = {7168, 128, 1536, 512, 128, 64, 128, false};
    cr_assert_eq(mla_cache_bytes_per_token(&v3, 61, BF16), 70272);
    /* One token against 4096: keys and values made again, 2 * 4096 * 512 * 128 * 256, and then
     * 2 * 4096 * 128 * (192 + 128). Absorbed: 2 * 512 * 128 * 256, and 2 * 4096 * 128 * 1088. */
    cr_assert_eq(mla_naive_flop(&v3, 1, 4096), 137438953472.0 + 335544320.0);
    cr_assert_eq(mla_absorbed_flop(&v3, 1, 4096), 33554432.0 + 1140850688.0);
    cr_assert_eq(mla_cheaper(&v3, 1, 1), MLA_NAIVE, "one key: both expand once, 320 against 1088");
    cr_assert_eq(mla_cheaper(&v3, 1, 2), MLA_ABSORBED);
    cr_assert_eq(mla_cheaper(&v3, 1, 4096), MLA_ABSORBED);
    cr_assert_eq(mla_cheaper(&v3, 4096, 4096), MLA_NAIVE);
    /* A whole prompt of two: 3 pairs of a query and a key. */
    cr_assert_eq(mla_naive_flop(&v3, 2, 2), 2.0 * 2 * 512 * 128 * 256 + 2.0 * 3 * 128 * 320);
    cr_assert_float_eq(mla_scale(&v3, NULL), 1 / sqrt(192.0), 1e-8);
    cr_assert_float_eq(mla_scale(&v3, &TURN), TURN_SCALE / sqrt(192.0), 1e-8);
}
