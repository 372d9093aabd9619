/*
 * The layer against transformers' DeepseekV3MoE (golden), a dense mixture, a plain SwiGLU, finite
 * differences; with experts that nobody chose, with dropped tokens; and what users can get wrong.
 */
#include "05_moe/moe.h"

#include "common/program/testing.h"

#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

MODULE(Moe, MoeConfig, moe_init(params, "model.layers.3.mlp", cfg), 0)

static Tensor *forward(Context *ctx, Module *m, Tensor *x) {
    return moe_forward(ctx, x, &m->w, &m->cfg, NULL, NULL, (Residual){0});
}

/*
 * F32: four products of up to 24 terms follow each other. BF16: x and the weights are BF16 numbers
 * in the file; h, the experts' outputs, the shared sum and all their gradients are rounded to BF16
 * on the way: about ten roundings of 2^-9.
 */
static double layer_tolerance(DType dtype) {
    return dtype == BF16 ? 10 * 0x1p-9 : 20 * tolerance_of(F32, 24);
}

CONTEXT_TEST(moe, equals_transformers_deepseek_v3) {
    SafeTensors *golden = golden_open("05_moe/goldens/v3_moe.safetensors");
    MoeConfig cfg = moe_config(24, 10, 8, 3);
    cfg.router.n_group = 4, cfg.router.topk_group = 2;
    cfg.router.routed_scaling_factor = 2.5f, cfg.n_shared_experts = 2;
    Module m;
    module_init(&m, &ctx, cfg);
    const struct {
        const char *name;
        Tensor *weight;
    } weights[] = {{"gate.weight", m.w.router.weight},
                   {"experts.gate_proj", m.w.gate_proj},
                   {"experts.up_proj", m.w.up_proj},
                   {"experts.down_proj", m.w.down_proj},
                   {"shared_experts.gate_proj", m.w.shared.gate_proj},
                   {"shared_experts.up_proj", m.w.shared.up_proj},
                   {"shared_experts.down_proj", m.w.shared.down_proj}};
    for (int i = 0; i < 7; i++)
        params_set(&m.params, weights[i].weight, golden_values(golden, weights[i].name));
    params_set(&m.params, m.w.router.bias, golden_values(golden, "bias"));
    Tensor *x = golden_tensor(&ctx, golden, "x");
    Tensor *c = tensor_copy_in(&ctx, "c", F32, golden_values(golden, "c"), x->shape, x->ndim);
    ctx.recording = true;
    Tensor *y = forward(&ctx, &m, x);
    tape_backward(&ctx, weighted_sum(&ctx, y, c));
    double tolerance = layer_tolerance(dtype);
    check_tensor(&ctx, "y", y, golden_values(golden, "y"), tolerance);
    check_tensor(&ctx, "gradient of x", x->grad, golden_values(golden, "grad.x"), tolerance);
    for (int i = 0; i < 7; i++) {
        char name[64];
        snprintf(name, sizeof name, "grad.%s", weights[i].name);
        check_close(name, test_weight_gradient(&m.params, weights[i].weight),
                    golden_values(golden, name), tensor_count(weights[i].weight), tolerance);
    }
}

/* ---- what the layer must be equal to ---- */

/* y += scale * expert e of x, one token, in double precision */
static void add_expert(double *y, const float *x, double scale, const float *gate, const float *up,
                       const float *down, int e, int hidden, int inner) {
    double h[64];
    for (int i = 0; i < inner; i++) {
        double g = 0, u = 0;
        for (int d = 0; d < hidden; d++) {
            g += (double)gate[(e * inner + i) * hidden + d] * x[d];
            u += (double)up[(e * inner + i) * hidden + d] * x[d];
        }
        h[i] = g / (1 + exp(-g)) * u;
    }
    for (int d = 0; d < hidden; d++)
        for (int i = 0; i < inner; i++) y[d] += scale * down[(e * hidden + d) * inner + i] * h[i];
}

/* Top-k over all experts is a dense mixture: every expert sees every token, weighted by softmax. */
CONTEXT_TEST(moe, top_k_of_all_experts_is_a_dense_mixture) {
    enum { N = 33, HIDDEN = 24, INNER = 20, E = 8 };
    MoeConfig cfg = moe_config(HIDDEN, INNER, E, E);
    cfg.router.scoring_func = SCORING_SOFTMAX;
    cfg.router.topk_method = TOPK_GREEDY;
    Module m;
    module_init(&m, &ctx, cfg);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, N, HIDDEN));
    float *xh = test_values(&ctx, x), *router = test_weight(&m.params, m.w.router.weight);
    float *gate = test_weight(&m.params, m.w.gate_proj), *up = test_weight(&m.params, m.w.up_proj);
    float *down = test_weight(&m.params, m.w.down_proj), *want = test_floats(N * HIDDEN);
    for (int n = 0; n < N; n++) {
        double y[HIDDEN] = {0}, p[E] = {0}, sum = 0;
        for (int e = 0; e < E; e++) {
            for (int d = 0; d < HIDDEN; d++)
                p[e] += (double)router[e * HIDDEN + d] * xh[n * HIDDEN + d];
            sum += p[e] = exp(p[e]);
        }
        for (int e = 0; e < E; e++)
            add_expert(y, xh + n * HIDDEN, p[e] / sum, gate, up, down, e, HIDDEN, INNER);
        for (int d = 0; d < HIDDEN; d++) want[n * HIDDEN + d] = (float)y[d];
    }
    /* In BF16 the weights are rounded masters: three roundings more than the golden's. */
    check_tensor(&ctx, "y", forward(&ctx, &m, x), want, 1.5 * layer_tolerance(dtype));
}

/* One expert is a plain SwiGLU: of one token, of 33, with the weights' gradients. */
DEVICE_TEST(moe, one_expert_is_a_plain_mlp) {
    enum { HIDDEN = 31, INNER = 33 };
    for (int N = 1; N <= 33; N += 32) {
        Context ctx = test_context(device, dtype);
        Module m;
        module_init(&m, &ctx, moe_config(HIDDEN, INNER, 1, 1));
        Params plain;
        Error err;
        params_init(&plain, &ctx);
        Mlp mlp = mlp_init(&plain, "mlp", HIDDEN, INNER);
        cr_assert(params_allocate(&plain, true, &err) == 0);
        Tensor *const from[3] = {m.w.gate_proj, m.w.up_proj, m.w.down_proj};
        Tensor *const to[3] = {mlp.gate_proj, mlp.up_proj, mlp.down_proj};
        for (int i = 0; i < 3; i++) {
            float *values = test_weight(&m.params, from[i]);
            params_set(&plain, to[i], values);
        }
        float ch[33 * HIDDEN];
        for (int i = 0; i < N * HIDDEN; i++) ch[i] = rng_normal(2, 1, (uint64_t)i);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, N, HIDDEN));
        Tensor *c = tensor_copy_in(&ctx, "c", F32, ch, SHAPE(1, N, HIDDEN));
        ctx.recording = true;
        Tensor *y = forward(&ctx, &m, x);
        tape_backward(&ctx, weighted_sum(&ctx, y, c));
        context_reset(&ctx);
        x = test_normal(&ctx, "x", 1, SHAPE(1, N, HIDDEN));
        c = tensor_copy_in(&ctx, "c", F32, ch, SHAPE(1, N, HIDDEN));
        ctx.recording = true;
        y = mlp_forward(&ctx, x, &mlp, (Residual){0});
        tape_backward(&ctx, weighted_sum(&ctx, y, c));
        float *want = test_values(&ctx, y);
        context_reset(&ctx);
        x = test_normal(&ctx, "x", 1, SHAPE(1, N, HIDDEN));
        check_tensor(&ctx, "y", forward(&ctx, &m, x), want, layer_tolerance(dtype));
        for (int i = 0; i < 3; i++) {
            int64_t n = tensor_count(to[i]);
            check_close(from[i]->name, test_weight_gradient(&m.params, from[i]),
                        test_weight_gradient(&plain, to[i]), n, layer_tolerance(dtype));
        }
        context_free(&ctx);
    }
}

/* Experts that nobody chose get a gradient of zero, not of whatever the memory held. */
CONTEXT_TEST(moe, an_expert_without_tokens_gets_no_gradient) {
    enum { N = 33, HIDDEN = 24, INNER = 16, E = 8 };
    Module m;
    module_init(&m, &ctx, moe_config(HIDDEN, INNER, E, 2));
    float push[E] = {0, 0, -10, 0, 0, -10, -10, 0};
    params_set(&m.params, m.w.router.bias, push);
    Tensor *const weights[] = {m.w.gate_proj, m.w.up_proj, m.w.down_proj};
    for (int i = 0; i < 3; i++) test_poison(&ctx, weights[i]->grad);
    ctx.recording = true;
    MoeRecord record;
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(3, N / 3, HIDDEN));
    Tensor *y = moe_forward(&ctx, x, &m.w, &m.cfg, NULL, &record, (Residual){0});
    cr_assert(!record.loss, "no loss was asked for");
    tape_backward(&ctx, sum(&ctx, y));
    int32_t counts[E], load[E];
    tensor_download_ints(&ctx, counts, record.dispatch.counts);
    tensor_download_ints(&ctx, load, m.w.load);
    for (int i = 0; i < 3; i++) {
        int64_t n = tensor_count(weights[i]);
        float *got = test_weight_gradient(&m.params, weights[i]);
        for (int e = 0; e < E; e++) {
            double size = 0;
            for (int64_t j = e * n / E; j < (e + 1) * n / E; j++) size += fabs(got[j]);
            cr_assert(push[e] < 0 ? size == 0 : size > 0, "%s of expert %d: %g", weights[i]->name,
                      e, size);
        }
    }
    for (int e = 0; e < E; e++) {
        cr_assert(push[e] < 0 ? counts[e] == 0 : counts[e] > 0);
        cr_assert_eq(load[e], counts[e], "the layer counts its load while recording");
    }
    ctx.recording = false;
    moe_forward(&ctx, x, &m.w, &m.cfg, NULL, NULL, (Residual){0});
    tensor_download_ints(&ctx, load, m.w.load);
    for (int e = 0; e < E; e++) cr_assert_eq(load[e], counts[e], "answers are not counted");
    moe_rebalance(&ctx, &m.w, 0.5f);
    float bias[E];
    params_get(&m.params, m.w.router.bias, bias);
    for (int e = 0; e < E; e++)
        if (push[e] < 0) cr_assert_eq(bias[e], -9.5f, "who has too little gets more");
}

/* The loss's gradient with respect to the gate, of a layer in which a token takes one expert. */
static double gate_gradient_of_one(Context *ctx, bool norm, bool as_configured) {
    enum { N = 40, HIDDEN = 16, E = 4 };
    MoeConfig cfg = moe_config(HIDDEN, 8, E, 1);
    if (!as_configured) cfg.router.norm_topk_prob = norm;
    Module m;
    module_init(&m, ctx, cfg);
    Tensor *x = test_normal(ctx, "x", 1, SHAPE(1, N, HIDDEN)), *c;
    ctx->recording = true;
    Tensor *y = forward(ctx, &m, x);
    float weights[N * HIDDEN], gradient[E * HIDDEN];
    for (int i = 0; i < N * HIDDEN; i++) weights[i] = (float)(i % 7 - 3);
    c = tensor_copy_in(ctx, "c", F32, weights, SHAPE(1, N, HIDDEN));
    tape_backward(ctx, weighted_sum(ctx, y, c));
    double sum = 0;
    params_get_grad(&m.params, m.w.router.weight, gradient);
    for (int i = 0; i < E * HIDDEN; i++) sum += fabs(gradient[i]);
    context_reset(ctx);
    return sum;
}

/* s / s = 1: a router that takes one expert and divides learns nothing from the loss. So
 * moe_config() does not divide there, and router_training_check() refuses who does. */
CONTEXT_TEST(moe, a_router_that_takes_one_learns_unless_it_divides) {
    /* Not 0 but the rounding of 1 / s - s / s^2, times 40 tokens. */
    double divided = gate_gradient_of_one(&ctx, true, false);
    double alone = gate_gradient_of_one(&ctx, false, false);
    cr_assert(divided < 1e-4 * alone, "divided: %g, not divided: %g", divided, alone);
    cr_assert(gate_gradient_of_one(&ctx, false, true) == alone, "moe_config() divides");
}

/* Over capacity: a token that all its experts dropped keeps the shared expert's answer only. */
CONTEXT_TEST(moe, dropped_tokens_keep_the_shared_expert) {
    enum { N = 40, HIDDEN = 16, INNER = 8, E = 4 };
    MoeConfig cfg = moe_config(HIDDEN, INNER, E, 1);
    cfg.n_shared_experts = 1, cfg.capacity_factor = 1;
    Module m;
    module_init(&m, &ctx, cfg);
    params_set(&m.params, m.w.router.bias, (float[E]){0, 10, 0, 0}); /* all choose expert 1 */
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, N, HIDDEN));
    MoeRecord record;
    float *got =
        test_values(&ctx, moe_forward(&ctx, x, &m.w, &m.cfg, NULL, &record, (Residual){0}));
    float *shared = test_values(&ctx, mlp_forward(&ctx, x, &m.w.shared, (Residual){0}));
    int32_t offsets[E + 1], counts[E];
    tensor_download_ints(&ctx, offsets, record.dispatch.offsets);
    tensor_download_ints(&ctx, counts, record.dispatch.counts);
    cr_assert(counts[1] == N && offsets[E] == N / E, "room for 10 of 40");
    cr_assert_float_eq(balance_measure(counts, E, offsets[E]).dropped, N - N / E, 0);
    check_close("dropped", got + N / E * HIDDEN, shared + N / E * HIDDEN, (N - N / E) * HIDDEN, 0);
    double change = 0;
    for (int i = 0; i < N / E * HIDDEN; i++) change += fabs(got[i] - shared[i]);
    cr_assert(change > 1, "the first ten are served");
}

/* ---- gradients ---- */

typedef struct Graph {
    Tensor *x, *c;
    Moe w;
    MoeConfig cfg;
} Graph;

static Tensor *layer_loss(Context *ctx, void *user) {
    Graph *g = user;
    return weighted_sum(ctx, moe_forward(ctx, g->x, &g->w, &g->cfg, NULL, NULL, (Residual){0}),
                        g->c);
}

static void check_layer_gradients(MoeConfig cfg, uint64_t stream) {
    enum { HIDDEN = 10, INNER = 6, E = 6 };
    Context ctx = test_context(CPU, F32);
    Graph g = {.cfg = cfg};
    g.x = test_normal(&ctx, "x", stream, SHAPE(2, 4, HIDDEN));
    g.c = test_normal(&ctx, "c", stream + 1, SHAPE(2, 4, HIDDEN));
    g.w.router.weight = test_normal(&ctx, "gate", stream + 2, SHAPE(E, HIDDEN));
    g.w.gate_proj = test_normal(&ctx, "gate_proj", stream + 3, SHAPE(E, INNER, HIDDEN));
    g.w.up_proj = test_normal(&ctx, "up_proj", stream + 4, SHAPE(E, INNER, HIDDEN));
    g.w.down_proj = test_normal(&ctx, "down_proj", stream + 5, SHAPE(E, HIDDEN, INNER));
    int32_t status[1] = {0}, load[E] = {0};
    g.w.router.status = tensor_copy_in(&ctx, "status", I32, status, SHAPE(1));
    g.w.load = tensor_copy_in(&ctx, "load", I32, load, SHAPE(E));
    Tensor *inputs[8] = {g.x, g.w.router.weight, g.w.gate_proj, g.w.up_proj, g.w.down_proj};
    int count = 5;
    if (cfg.n_shared_experts) {
        int64_t wide = cfg.n_shared_experts * INNER;
        inputs[count++] = g.w.shared.gate_proj =
            test_normal(&ctx, "shared.gate_proj", stream + 6, SHAPE(wide, HIDDEN));
        inputs[count++] = g.w.shared.up_proj =
            test_normal(&ctx, "shared.up_proj", stream + 7, SHAPE(wide, HIDDEN));
        inputs[count++] = g.w.shared.down_proj =
            test_normal(&ctx, "shared.down_proj", stream + 8, SHAPE(HIDDEN, wide));
    }
    for (int i = 2; i < count; i++) /* h of order 1 */
        for (int64_t j = 0; j < tensor_count(inputs[i]); j++) ((float *)inputs[i]->data)[j] *= 0.4f;
    /* The step must not flip a choice (the streams were picked so that choices are clear). */
    check_gradients(&ctx, "moe", layer_loss, &g, inputs, count, 30, 2e-3, 1.5e-2);
}

Test(moe, gradients_sigmoid_norm_shared) {
    MoeConfig cfg = moe_config(10, 6, 6, 2);
    cfg.router.topk_method = TOPK_GREEDY, cfg.n_shared_experts = 2;
    check_layer_gradients(cfg, 100);
}

Test(moe, gradients_softmax_with_dropped_tokens) {
    MoeConfig cfg = moe_config(10, 6, 6, 3);
    cfg.router.topk_method = TOPK_GREEDY, cfg.router.scoring_func = SCORING_SOFTMAX;
    cfg.router.norm_topk_prob = false, cfg.capacity_factor = 0.75f;
    check_layer_gradients(cfg, 120);
}

/* Every loss that the step asks for, and only those, are in the record's loss. */
static void check_losses(Device device, DType dtype, bool seq_aux) {
    enum { HIDDEN = 16, E = 8 };
    Context ctx = test_context(device, dtype);
    MoeConfig cfg = moe_config(HIDDEN, 8, E, 2);
    cfg.router.topk_method = TOPK_GREEDY, cfg.router.scoring_func = SCORING_SOFTMAX;
    cfg.router.gate_kind = GATE_NOISY;
    MoeLosses losses = {.aux_loss_alpha = 0.01f,
                        .seq_aux = seq_aux,
                        .router_z_loss_coef = 0.001f,
                        .importance_loss_coef = 0.1f,
                        .load_loss_coef = 0.1f};
    Module m;
    module_init(&m, &ctx, cfg);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(3, 11, HIDDEN));
    MoeRecord r;
    moe_forward(&ctx, x, &m.w, &m.cfg, &losses, &r, (Residual){0});
    cr_assert(!r.loss, "no losses without recording");
    ctx.recording = true;
    Tensor *y = moe_forward(&ctx, x, &m.w, &m.cfg, &losses, &r, (Residual){0});
    Tensor *importance = balance_importance(&ctx, r.routing.weights, r.routing.indices, E);
    Tensor *parts[4] = {
        balance_loss(&ctx, r.routing.scores, r.routing.indices, seq_aux ? 3 : 1, 0.01f),
        balance_z_loss(&ctx, r.routing.logits, 0.001f), balance_variation(&ctx, importance, 0.1f),
        balance_variation(&ctx, r.routing.load, 0.1f)};
    float total = 0;
    for (int i = 0; i < 4; i++) {
        float *value = test_values(&ctx, parts[i]);
        cr_assert(value[0] > 0);
        total += value[0];
    }
    check_tensor(&ctx, "loss", r.loss, &total, 1e-6);
    tape_backward(&ctx, add(&ctx, mean(&ctx, y), r.loss)); /* it joins a BF16 model's loss, too */
    float *noise = test_floats(E * HIDDEN);
    params_get_grad(&m.params, m.w.router.noise_weight, noise);
    double size = 0;
    for (int i = 0; i < E * HIDDEN; i++) size += fabs(noise[i]);
    cr_assert(isfinite(size) && size > 0, "the noise is learned: %g", size);
}

DEVICE_TEST(moe, the_losses_that_were_asked_for) {
    check_losses(device, dtype, true);
    check_losses(device, dtype, false);
}

Test(moe, threads_do_not_change_results) {
    enum { N = 700, HIDDEN = 64, INNER = 48, E = 8 };
    static float results[2][E * INNER * HIDDEN + N * HIDDEN];
    for (int round = 0; round < 2; round++) {
        omp_set_num_threads(round ? 4 : 1);
        Context ctx = test_context(CPU, F32);
        MoeConfig cfg = moe_config(HIDDEN, INNER, E, 2);
        cfg.n_shared_experts = 1;
        Module m;
        module_init(&m, &ctx, cfg);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(7, 100, HIDDEN));
        Tensor *c = test_normal(&ctx, "c", 2, SHAPE(7, 100, HIDDEN));
        ctx.recording = true;
        tape_backward(&ctx, weighted_sum(&ctx, forward(&ctx, &m, x), c));
        params_get_grad(&m.params, m.w.up_proj, results[round]);
        tensor_download(&ctx, results[round] + E * INNER * HIDDEN, x->grad);
        context_free(&ctx);
    }
    cr_assert(!memcmp(results[0], results[1], sizeof results[0]));
}

/* ---- sizes and settings ---- */

/* 8 experts and one shared, two are chosen: 9 experts are stored, 3 are used. */
CPU_TEST(moe, parameters_total_and_active) {
    MoeConfig small = moe_config(512, 1365, 8, 2);
    small.n_shared_experts = 1;
    int64_t expert = 3 * 512 * 1365;                            /* gate, up, down: 2.1 million */
    cr_assert_eq(moe_parameters(&small), 9 * expert + 8 * 512); /* 18.9 million */
    cr_assert_eq(moe_active_parameters(&small), 3 * expert + 8 * 512); /* 6.3 million */
    Module m;
    module_init(&m, &ctx, small);
    cr_assert_eq(params_count(&m.params), moe_parameters(&small));
    small.router.gate_kind = GATE_NOISY; /* a second matrix, for the noise */
    module_init(&m, &ctx, small);
    cr_assert_eq(moe_parameters(&small), 9 * expert + 2 * 8 * 512);
    cr_assert_eq(params_count(&m.params), moe_parameters(&small));
}

CPU_TEST(moe, weights_have_names) {
    Module m;
    MoeConfig cfg = moe_config(24, 10, 8, 2);
    cfg.n_shared_experts = 2;
    module_init(&m, &ctx, cfg);
    cr_assert_eq(params_find(&m.params, "model.layers.3.mlp.gate.weight"), m.w.router.weight);
    cr_assert_eq(params_find(&m.params, "model.layers.3.mlp.gate.e_score_correction_bias"),
                 m.w.router.bias);
    cr_assert_eq(params_find(&m.params, "model.layers.3.mlp.experts.down_proj.weight"),
                 m.w.down_proj);
    check_shape("down_proj", m.w.down_proj, F32, SHAPE(8, 24, 10));
    check_shape("shared",
                params_find(&m.params, "model.layers.3.mlp.shared_experts.up_proj.weight"), F32,
                SHAPE(20, 24));
}

Test(moe, a_wrong_config_is_named) {
    MoeConfig fine = moe_config(64, 32, 8, 2), cfg;
    check_ok(moe_check(&fine, &err), &err);
#define REFUSED(field, value, says)                                \
    cfg = fine, cfg.field = value;                                 \
    cr_assert(moe_check(&cfg, &err) == -1, #field " is accepted"); \
    cr_assert(strstr(err.text, says), #field " says: %s", err.text)
    REFUSED(router.num_experts_per_tok, 9, "num_experts_per_tok is 9");
    REFUSED(router.n_group, 3, "n_group (3) does not divide");
    REFUSED(moe_intermediate_size, 0, "moe_intermediate_size is 0");
    REFUSED(n_shared_experts, -1, "n_shared_experts is -1");
    REFUSED(n_shared_experts, 1 << 26, "wider together than can be counted");
    REFUSED(capacity_factor, -0.5f, "capacity_factor is -0.5");
    REFUSED(capacity_factor, INFINITY, "capacity_factor is inf");
    cr_assert(moe_check_tokens(&fine, 0, &err) == -1 && strstr(err.text, "no tokens"), "%s",
              err.text);
    cr_assert(moe_check_tokens(&fine, 1LL << 31, &err) == -1 && strstr(err.text, "smaller batch"),
              "%s", err.text);
    cr_assert(moe_check_tokens(&fine, 1, &err) == 0);
}

CPU_TEST(moe, no_tokens_stop_the_program, .signal = SIGABRT) {
    Module m;
    module_init(&m, &ctx, moe_config(24, 10, 8, 2));
    forward(&ctx, &m, tensor_new(&ctx, "x", F32, SHAPE(1, 0, 24)));
}
