/*
 * Multi-head attention against four oracles: what PyTorch and transformers compute (goldens),
 * chapter 02's reference, finite differences, and what must hold for any weights: heads may be
 * shuffled, shared heads may be written out, and the future changes nothing.
 */
#include "03_multihead/multihead.h"

#include "02_causal/causal.h"
#include "common/program/testing.h"

#include <math.h>
#include <string.h>

/*
 * F32: three products of up to 40 terms and a softmax follow each other, 5 roundings' worth is
 * seen; 20 are allowed for other orders of summation. BF16: weights and inputs are rounded to it,
 * then q, k, v, the heads and y, and all their gradients; PyTorch in BF16 is 2.3 to 4.3 units of
 * 2^-9 away from these goldens, 10 are allowed.
 */
static double module_tolerance(DType dtype) {
    return dtype == BF16 ? 10 * 0x1p-9 : 20 * tolerance_of(F32, 40);
}

#define PREFIX "model.layers.0.self_attn"

MODULE(Multihead, MultiheadConfig, multihead_init(params, PREFIX, cfg), 0.3f)

/* ---- goldens ---- */

static void check_weight_gradient(Module *m, const Tensor *t, const float *expected,
                                  double tolerance) {
    check_close(t->name, test_weight_gradient(&m->params, t), expected, tensor_count(t), tolerance);
}

static void check_golden(Device device, DType dtype, const char *path, MultiheadConfig cfg) {
    Context ctx = test_context(device, dtype);
    SafeTensors *golden = golden_open(path);
    Module m;
    module_init(&m, &ctx, cfg);
    golden_weights(&m.params, golden, PREFIX ".");
    Tensor *x = golden_tensor(&ctx, golden, "x");
    ctx.recording = true;
    Tensor *y = multihead_forward(&ctx, x, &m.w, &m.cfg, NULL, (Residual){0});
    golden_check(&ctx, &m.params, golden, PREFIX ".", x, y, module_tolerance(dtype));
}

DEVICE_TEST(multihead, equals_pytorch_sdpa_mha) {
    check_golden(device, dtype, "03_multihead/goldens/sdpa_mha.safetensors",
                 (MultiheadConfig){22, 3, 3, 7, false});
}

DEVICE_TEST(multihead, equals_pytorch_sdpa_gqa) {
    check_golden(device, dtype, "03_multihead/goldens/sdpa_gqa.safetensors",
                 (MultiheadConfig){22, 6, 2, 5, false});
}

DEVICE_TEST(multihead, equals_pytorch_sdpa_mqa) {
    check_golden(device, dtype, "03_multihead/goldens/sdpa_mqa.safetensors",
                 (MultiheadConfig){22, 4, 1, 9, false});
}

DEVICE_TEST(multihead, equals_transformers_llama_attention) {
    check_golden(device, dtype, "03_multihead/goldens/llama_gqa.safetensors",
                 (MultiheadConfig){20, 4, 2, 6, false});
}

/* torch.nn.MultiheadAttention stacks q, k and v in one [3 E, E] matrix: three contiguous parts. */
CONTEXT_TEST(multihead, equals_nn_multihead_attention) {
    enum { E = 24 };
    SafeTensors *golden = golden_open("03_multihead/goldens/nn_multihead.safetensors");
    Module m;
    module_init(&m, &ctx, (MultiheadConfig){E, 3, 3, E / 3, true});
    const float *stacked = golden_values(golden, "in_proj_weight");
    const float *stacked_bias = golden_values(golden, "in_proj_bias");
    Tensor *const weights[] = {m.w.q_proj, m.w.k_proj, m.w.v_proj};
    Tensor *const biases[] = {m.w.q_bias, m.w.k_bias, m.w.v_bias};
    for (int i = 0; i < 3; i++) {
        params_set(&m.params, weights[i], stacked + i * E * E);
        params_set(&m.params, biases[i], stacked_bias + i * E);
    }
    params_set(&m.params, m.w.o_proj, golden_values(golden, "out_proj.weight"));
    params_set(&m.params, m.w.o_bias, golden_values(golden, "out_proj.bias"));

    double tolerance = module_tolerance(dtype);
    Tensor *x = golden_tensor(&ctx, golden, "x");
    Tensor *c = tensor_copy_in(&ctx, "c", F32, golden_values(golden, "c"), x->shape, x->ndim);
    ctx.recording = true;
    Tensor *y = multihead_forward(&ctx, x, &m.w, &m.cfg, NULL, (Residual){0});
    tape_backward(&ctx, weighted_sum(&ctx, y, c));
    check_tensor(&ctx, "y", y, golden_values(golden, "y"), tolerance);
    check_tensor(&ctx, "gradient of x", x->grad, golden_values(golden, "grad.x"), tolerance);
    stacked = golden_values(golden, "grad.in_proj_weight");
    stacked_bias = golden_values(golden, "grad.in_proj_bias");
    for (int i = 0; i < 3; i++) {
        check_weight_gradient(&m, weights[i], stacked + i * E * E, tolerance);
        if (i != 1) check_weight_gradient(&m, biases[i], stacked_bias + i * E, tolerance);
    }
    /*
     * A bias on the keys adds q . b to all scores of a row, and softmax does not see what all have
     * in common: its gradient is zero. So it is measured against the gradient of the queries' bias.
     */
    float of_k[E], sum[E];
    params_get_grad(&m.params, m.w.k_bias, of_k);
    for (int i = 0; i < E; i++) sum[i] = stacked_bias[i] + of_k[i];
    check_close("gradient of the keys' bias", sum, stacked_bias, E, tolerance);
    check_weight_gradient(&m, m.w.o_proj, golden_values(golden, "grad.out_proj.weight"), tolerance);
    check_weight_gradient(&m, m.w.o_bias, golden_values(golden, "grad.out_proj.bias"), tolerance);
}

/* ---- the lesson's numbers ---- */

/* Two heads of one dimension on three tokens; k = ln(2) x makes every e^(q k) a power of two. */
CONTEXT_TEST(multihead, two_heads_by_hand) {
    static const float ln2 = 0.693147181f;
    static const float x[] = {1, 0, 2, 1, 1, 1};
    static const float one[] = {1, 0, 0, 1}, keys[] = {ln2, 0, 0, ln2}, mix[] = {1, 1, 1, -1};
    static const float expected[] = {1,          1,          /* token 1 sees only itself */
                                     37.0f / 15, 17.0f / 15, /* 9/5 + 2/3, 9/5 - 2/3 */
                                     23.0f / 10, 7.0f / 10}; /* 3/2 + 4/5, 3/2 - 4/5 */
    Module m;
    module_init(&m, &ctx, (MultiheadConfig){2, 2, 2, 1, false});
    params_set(&m.params, m.w.q_proj, one);
    params_set(&m.params, m.w.k_proj, keys);
    params_set(&m.params, m.w.v_proj, one);
    params_set(&m.params, m.w.o_proj, mix);
    Tensor *input = tensor_copy_in(&ctx, "x", dtype, x, SHAPE(1, 3, 2));
    Tensor *y = multihead_forward(&ctx, input, &m.w, &m.cfg, NULL, (Residual){0});
    check_tensor(&ctx, "y", y, expected, module_tolerance(dtype));
}

/* ---- properties ---- */

static Tensor *forward(Context *ctx, Module *m, Tensor *x) {
    return multihead_forward(ctx, x, &m->w, &m->cfg, NULL, (Residual){0});
}

/* GQA is MHA whose key and value heads happen to be equal within a group. */
CONTEXT_TEST(multihead, gqa_is_mha_with_repeated_heads) {
    enum { HIDDEN = 24, H = 6, H_KV = 2, D = 5, GROUP = H / H_KV };
    Module gqa, mha;
    module_init(&gqa, &ctx, (MultiheadConfig){HIDDEN, H, H_KV, D, false});
    module_init(&mha, &ctx, (MultiheadConfig){HIDDEN, H, H, D, false});
    Tensor *const from[] = {gqa.w.q_proj, gqa.w.k_proj, gqa.w.v_proj, gqa.w.o_proj};
    Tensor *const to[] = {mha.w.q_proj, mha.w.k_proj, mha.w.v_proj, mha.w.o_proj};
    for (int i = 0; i < 4; i++) {
        float *narrow = test_weight(&gqa.params, from[i]);
        float wide[H * D * HIDDEN];
        int shared = i == 1 || i == 2; /* k and v */
        for (int h = 0; h < H; h++)
            memcpy(wide + h * D * HIDDEN, narrow + (shared ? h / GROUP : h) * D * HIDDEN,
                   sizeof(float) * D * HIDDEN);
        params_set(&mha.params, to[i], i == 3 ? narrow : wide);
    }
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, 33, HIDDEN));
    float *expected = test_values(&ctx, forward(&ctx, &mha, x));
    /* The same numbers through the same steps; only a matrix product may sum in another order. */
    check_tensor(&ctx, "grouped", forward(&ctx, &gqa, x), expected, module_tolerance(dtype));
}

/* Heads have no order: shuffle the rows of q, k, v by heads, and o's columns likewise. */
CONTEXT_TEST(multihead, heads_may_be_shuffled) {
    enum { HIDDEN = 22, H = 4, D = 7 };
    static const int order[H] = {2, 0, 3, 1};
    Module m, shuffled;
    module_init(&m, &ctx, (MultiheadConfig){HIDDEN, H, H, D, true});
    module_init(&shuffled, &ctx, m.cfg);
    Tensor *const from[] = {m.w.q_proj, m.w.k_proj, m.w.v_proj, m.w.q_bias, m.w.k_bias, m.w.v_bias};
    Tensor *const to[] = {shuffled.w.q_proj, shuffled.w.k_proj, shuffled.w.v_proj,
                          shuffled.w.q_bias, shuffled.w.k_bias, shuffled.w.v_bias};
    float moved[H * D * HIDDEN];
    for (int i = 0; i < 6; i++) {
        float *values = test_weight(&m.params, from[i]);
        int row = i < 3 ? D * HIDDEN : D; /* a head's part of the tensor */
        for (int h = 0; h < H; h++)
            memcpy(moved + h * row, values + order[h] * row, sizeof(float) * (size_t)row);
        params_set(&shuffled.params, to[i], moved);
    }
    float *o = test_weight(&m.params, m.w.o_proj), *o_bias = test_weight(&m.params, m.w.o_bias);
    for (int r = 0; r < HIDDEN; r++)
        for (int h = 0; h < H; h++)
            memcpy(moved + (r * H + h) * D, o + (r * H + order[h]) * D, sizeof(float) * D);
    params_set(&shuffled.params, shuffled.w.o_proj, moved);
    params_set(&shuffled.params, shuffled.w.o_bias, o_bias);

    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, 31, HIDDEN));
    float *expected = test_values(&ctx, forward(&ctx, &m, x));
    /* Only o's sum runs in another order. */
    check_tensor(&ctx, "shuffled", forward(&ctx, &shuffled, x), expected, module_tolerance(dtype));
}

/*
 * One head, all four matrices the identity: what is left is chapter 02's attention of x with
 * itself.
 */
CONTEXT_TEST(multihead, one_head_is_plain_attention) {
    enum { B = 2, T = 33, D = 31 };
    Module m;
    module_init(&m, &ctx, (MultiheadConfig){D, 1, 1, D, false});
    float identity[D * D] = {0};
    for (int i = 0; i < D; i++) identity[i * D + i] = 1.0f;
    Tensor *const weights[] = {m.w.q_proj, m.w.k_proj, m.w.v_proj, m.w.o_proj};
    for (int i = 0; i < 4; i++) params_set(&m.params, weights[i], identity);

    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, D));
    float *values = test_values(&ctx, x), o[B * T * D], lse[B * T];
    causal_reference_cpu(o, lse, values, values, values, attention_shape(B, 1, 1, T, T, D, D, 1));
    check_tensor(&ctx, "one head", forward(&ctx, &m, x), o, module_tolerance(dtype));
}

/* Changing the tokens from t on leaves everything before t as it was. */
CONTEXT_TEST(multihead, the_future_changes_nothing) {
    enum { T = 33, HIDDEN = 24, CHANGED = 17 };
    Module m;
    module_init(&m, &ctx, (MultiheadConfig){HIDDEN, 4, 2, 6, true});
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, T, HIDDEN));
    float *before = test_values(&ctx, forward(&ctx, &m, x));
    float *values = test_values(&ctx, x);
    for (int i = CHANGED * HIDDEN; i < T * HIDDEN; i++) values[i] = 5.0f - values[i];
    tensor_upload(&ctx, x, values);
    float *after = test_values(&ctx, forward(&ctx, &m, x));
    /* Rows of a matrix product do not meet, and masked keys are not added as zeros but left out. */
    check_close("the past", after, before, CHANGED * HIDDEN, 1e-6);
    double change = 0;
    for (int i = CHANGED * HIDDEN; i < T * HIDDEN; i++) change += fabs(after[i] - before[i]);
    cr_assert(change > 1.0, "the changed tokens changed nothing");
}

/* ---- gradients ---- */

typedef struct Graph {
    Tensor *x, *c;
    Multihead w;
    MultiheadConfig cfg;
} Graph;

static Tensor *module_loss(Context *ctx, void *user) {
    Graph *g = user;
    return weighted_sum(ctx, multihead_forward(ctx, g->x, &g->w, &g->cfg, NULL, (Residual){0}),
                        g->c);
}

static void check_module_gradients(MultiheadConfig cfg) {
    Context ctx = test_context(CPU, F32);
    int hidden = cfg.hidden_size, q = cfg.num_attention_heads * cfg.head_dim;
    int kv = cfg.num_key_value_heads * cfg.head_dim;
    Graph g = {.cfg = cfg};
    g.x = test_normal(&ctx, "x", 1, SHAPE(2, 7, hidden));
    g.c = test_normal(&ctx, "c", 2, SHAPE(2, 7, hidden));
    g.w.q_proj = test_normal(&ctx, "q_proj", 3, SHAPE(q, hidden));
    g.w.k_proj = test_normal(&ctx, "k_proj", 4, SHAPE(kv, hidden));
    g.w.v_proj = test_normal(&ctx, "v_proj", 5, SHAPE(kv, hidden));
    g.w.o_proj = test_normal(&ctx, "o_proj", 6, SHAPE(hidden, q));
    g.w.q_bias = test_normal(&ctx, "q_bias", 7, SHAPE(q));
    g.w.v_bias = test_normal(&ctx, "v_bias", 8, SHAPE(kv));
    g.w.o_bias = test_normal(&ctx, "o_bias", 9, SHAPE(hidden));
    Tensor *inputs[] = {g.x,        g.w.q_proj, g.w.k_proj, g.w.v_proj,
                        g.w.o_proj, g.w.q_bias, g.w.v_bias, g.w.o_bias};
    /* Scores of order 1, so that the softmax is neither flat nor a step. */
    for (int i = 1; i <= 4; i++)
        for (int64_t j = 0; j < tensor_count(inputs[i]); j++)
            ((float *)inputs[i]->data)[j] *= 1.0f / sqrtf((float)hidden);
    /* step^2 f'''/6 is about 1e-4 of a gradient here, and F32 rounds a loss of order 10. */
    check_gradients(&ctx, "multihead", module_loss, &g, inputs, 8, 30, 1e-2, 1e-2);
}

Test(multihead, gradients_mha) { check_module_gradients((MultiheadConfig){12, 3, 3, 5, true}); }
Test(multihead, gradients_gqa) { check_module_gradients((MultiheadConfig){12, 4, 2, 5, true}); }
Test(multihead, gradients_mqa) { check_module_gradients((MultiheadConfig){12, 3, 1, 7, true}); }

/* ---- names, and what users can get wrong ---- */

CPU_TEST(multihead, weights_have_hugging_face_names) {
    Module m;
    module_init(&m, &ctx, (MultiheadConfig){24, 6, 2, 5, false});
    cr_assert_eq(m.params.count, 4, "without biases there are 4 weights, not %d", m.params.count);
    const Tensor *k = params_find(&m.params, "model.layers.0.self_attn.k_proj.weight");
    cr_assert_eq(k, m.w.k_proj);
    check_shape("k_proj", k, F32, SHAPE(2 * 5, 24));
    cr_assert_eq(params_find(&m.params, "model.layers.0.self_attn.o_proj.weight"), m.w.o_proj);
    check_shape("o_proj", m.w.o_proj, F32, SHAPE(24, 6 * 5));
    module_init(&m, &ctx, (MultiheadConfig){24, 6, 2, 5, true});
    cr_assert_eq(m.params.count, 8);
    const Tensor *bias = params_find(&m.params, "model.layers.0.self_attn.v_proj.bias");
    cr_assert_eq(bias, m.w.v_bias);
    check_shape("v_bias", bias, F32, SHAPE(2 * 5));
}

Test(multihead, a_wrong_config_is_named) {
    static const struct {
        MultiheadConfig cfg;
        const char *says;
    } cases[] = {
        {{0, 4, 4, 8, false}, "hidden_size is 0"},
        {{-32, 4, 4, 8, false}, "hidden_size is -32"},
        {{32, 0, 4, 8, false}, "num_attention_heads is 0"},
        {{32, 4, 0, 8, false}, "num_key_value_heads is 0"},
        {{32, 4, -1, 8, false}, "num_key_value_heads is -1"},
        {{32, 4, 4, 0, false}, "head_dim is 0"},
        {{32, 4, 3, 8, false}, "(4) is not a multiple of num_key_value_heads (3)"},
        {{32, 4, 8, 8, false}, "(4) is not a multiple of num_key_value_heads (8)"},
        {{32, 4, 4, 257, false}, "head_dim is 257"},
        {{32, 5000, 4, 8, false}, "num_attention_heads is 5000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err = {0};
        cr_assert(multihead_check(&cases[i].cfg, &err) == -1, "case %zu is accepted", i);
        cr_assert(strstr(err.text, cases[i].says), "case %zu says: %s", i, err.text);
    }
    MultiheadConfig fine = {32, 4, 2, 64, true}; /* heads wider than hidden_size / H are allowed */
    check_ok(multihead_check(&fine, &err), &err);
}
