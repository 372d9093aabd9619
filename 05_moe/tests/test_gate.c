/*
 * The gates: logits of three kinds against plain loops, and every kind of router by finite
 * differences through gate, scores, choice and weights.
 */
#include "05_moe/gate.h"
#include "05_moe/gate_kernels.h"

#include "05_moe/balance.h"
#include "05_moe/router.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t sizes[][3] = {
    {1, 1, 1}, {33, 31, 8}, {127, 64, 7}, {31, 128, 64}}; /* N, H, E */
enum { SIZES = sizeof sizes / sizeof *sizes };

/* An F32 tensor of Normal(0, 1), on any device and in any context. */
static Tensor *f32_normal(Context *ctx, const char *name, uint64_t stream, int64_t rows,
                          int64_t columns) {
    float *host = test_floats(rows * columns);
    for (int64_t i = 0; i < rows * columns; i++) host[i] = rng_normal(11, stream, (uint64_t)i);
    Tensor *t = tensor_copy_in(ctx, name, F32, host, SHAPE(rows, columns));
    t->requires_grad = true;
    return t;
}

/* A weight has an F32 gradient on every device: that is what Params gives it. */
static Tensor *weight_normal(Context *ctx, const char *name, uint64_t stream, int64_t rows,
                             int64_t columns) {
    Tensor *w = test_normal(ctx, name, stream, SHAPE(rows, columns));
    w->grad = tensor_new(ctx, name, F32, SHAPE(rows, columns));
    return w;
}

/* x W^T is F32 in BF16 too: only x and W are rounded, and the test reads them after that. */
DEVICE_TEST(gate, linear_by_plain_loops) {
    for (int k = 0; k < SIZES; k++) {
        int64_t N = sizes[k][0], H = sizes[k][1], E = sizes[k][2];
        Context ctx = test_context(device, dtype);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(N, H));
        Tensor *w = weight_normal(&ctx, "w", 2, E, H);
        float *xh = test_values(&ctx, x), *wh = test_values(&ctx, w);
        Tensor *c = f32_normal(&ctx, "c", 3, N, E);
        float *ch = test_values(&ctx, c);
        ctx.recording = true;
        Tensor *z = gate_linear(&ctx, x, w);
        cr_assert_eq(z->dtype, F32);
        tape_backward(&ctx, weighted_sum(&ctx, z, c));
        float *want = calloc((size_t)(N * E), sizeof *want);
        float *dx = calloc((size_t)(N * H), sizeof *dx), *dw = calloc((size_t)(E * H), sizeof *dw);
        for (int64_t n = 0; n < N; n++)
            for (int64_t e = 0; e < E; e++) {
                double sum = 0;
                for (int64_t i = 0; i < H; i++) {
                    sum += (double)xh[n * H + i] * wh[e * H + i];
                    dx[n * H + i] += ch[n * E + e] * wh[e * H + i];
                    dw[e * H + i] += ch[n * E + e] * xh[n * H + i];
                }
                want[n * E + e] = (float)sum;
            }
        check_tensor(&ctx, "z", z, want, 4 * tolerance_of(F32, H));
        /* dz goes into BF16 products in two parts, of 16 bits together; dx is rounded once */
        check_tensor(&ctx, "dx", x->grad, dx,
                     dtype == BF16 ? 2 * 0x1p-9 : 8 * tolerance_of(F32, E));
        check_tensor(&ctx, "dw", w->grad, dw,
                     dtype == BF16 && w->grad->dtype == BF16 ? 2 * 0x1p-9
                     : dtype == BF16                         ? 0x1p-14
                                                             : 8 * tolerance_of(F32, N));
        context_free(&ctx);
    }
}

/* The noise is what rng.h says, the same on every device. */
CONTEXT_TEST(gate, noise_by_its_formula) {
    enum { N = 33, E = 7 };
    Tensor *clean = f32_normal(&ctx, "clean", 1, N, E), *raw = f32_normal(&ctx, "raw", 2, N, E);
    float *ch = test_values(&ctx, clean), *rh = test_values(&ctx, raw), want[N * E], draw[N * E];
    Tensor *c = f32_normal(&ctx, "c", 3, N, E);
    float *dz = test_values(&ctx, c);
    uint64_t stream = ctx.rng.stream;
    ctx.recording = true;
    Tensor *z = gate_noise(&ctx, clean, raw);
    cr_assert_eq(ctx.rng.stream, stream + 1);
    tape_backward(&ctx, weighted_sum(&ctx, z, c));
    for (int i = 0; i < N * E; i++) {
        double eps = rng_normal(ctx.rng.seed, stream, (uint64_t)i);
        want[i] = (float)(ch[i] + eps * log1p(exp(rh[i])));
        draw[i] = (float)(dz[i] * eps / (1 + exp(-rh[i])));
    }
    /* The normal numbers come from the device's own log, sin and cos: some units of F32. */
    check_tensor(&ctx, "noisy", z, want, 20 * 0x1p-24);
    check_tensor(&ctx, "gradient of clean", clean->grad, dz, 0);
    check_tensor(&ctx, "gradient of raw", raw->grad, draw, 20 * 0x1p-24);
}

DEVICE_TEST(gate, cosines_by_plain_loops) {
    for (int k = 0; k < SIZES; k++) {
        int64_t N = sizes[k][0], H = sizes[k][1], E = sizes[k][2];
        Context ctx = test_context(device, dtype);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(N, H));
        Tensor *w = test_normal(&ctx, "centroids", 2, SHAPE(E, H));
        float *xh = test_values(&ctx, x), *wh = test_values(&ctx, w);
        float *want = test_floats(N * E);
        for (int64_t n = 0; n < N; n++)
            for (int64_t e = 0; e < E; e++) {
                double dot = 0, xx = 0, ww = 0;
                for (int64_t i = 0; i < H; i++) {
                    dot += (double)xh[n * H + i] * wh[e * H + i];
                    xx += (double)xh[n * H + i] * xh[n * H + i];
                    ww += (double)wh[e * H + i] * wh[e * H + i];
                }
                want[n * E + e] = (float)(dot / sqrt(xx * ww) / 0.25);
            }
        Tensor *z = gate_cosine(&ctx, x, w, 0.25f);
        check_tensor(&ctx, "cosines", z, want, 8 * tolerance_of(F32, H));
        context_free(&ctx);
    }
}

/* The devices agree on cosine's gradients: those of the CPU are checked by finite differences
 * below. */
DEVICE_TEST(gate, gradients_of_cosines_equal_the_cpus) {
    enum { N = 33, H = 31, E = 7 };
    Context ctx = test_context(device, dtype), cpu = test_context(CPU, F32);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(N, H)), *w = weight_normal(&ctx, "w", 2, E, H);
    float *xh = test_values(&ctx, x), *wh = test_values(&ctx, w);
    Tensor *x2 = tensor_copy_in(&cpu, "x", F32, xh, SHAPE(N, H));
    Tensor *w2 = tensor_copy_in(&cpu, "w", F32, wh, SHAPE(E, H));
    x2->requires_grad = w2->requires_grad = true;
    ctx.recording = cpu.recording = true;
    Tensor *c = f32_normal(&ctx, "c", 3, N, E), *c2 = f32_normal(&cpu, "c", 3, N, E);
    tape_backward(&ctx, weighted_sum(&ctx, gate_cosine(&ctx, x, w, 0.5f), c));
    tape_backward(&cpu, weighted_sum(&cpu, gate_cosine(&cpu, x2, w2, 0.5f), c2));
    /* BF16: the gradient is rounded after the product and again after the norm's share */
    double tolerance = dtype == BF16 ? 4 * 0x1p-9 : 16 * tolerance_of(F32, N);
    check_tensor(&ctx, "dx", x->grad, x2->grad->data, tolerance);
    check_tensor(&ctx, "dw", w->grad, w2->grad->data, tolerance);
}

/* P(e is among the best k when its own noise is drawn anew), and its sum over tokens. */
DEVICE_TEST(gate, noisy_load_by_its_definition) {
    enum { N = 127, E = 9 };
    for (int k = 1; k <= E; k += 4) {
        Context ctx = test_context(device, dtype);
        Tensor *clean = f32_normal(&ctx, "clean", 1, N, E), *raw = f32_normal(&ctx, "raw", 2, N, E);
        Tensor *noisy = f32_normal(&ctx, "noisy", 3, N, E);
        float *ch = test_values(&ctx, clean), *rh = test_values(&ctx, raw);
        float *nh = test_values(&ctx, noisy), want[E];
        /* Noise that has underflowed: where all are level each is as likely in as out, no NaN. */
        for (int e = 0; e < E; e++) ch[e] = nh[e] = 0.5f, rh[e] = -120;
        for (int e = 0; e < E; e++) nh[E + e] = ch[E + e], rh[E + e] = -120;
        tensor_upload(&ctx, clean, ch), tensor_upload(&ctx, raw, rh);
        tensor_upload(&ctx, noisy, nh);
        for (int e = 0; e < E; e++) {
            double sum = 0;
            for (int n = 0; n < N; n++) {
                double bar = -INFINITY; /* the k-th largest of the others */
                for (int i = 0; i < E; i++) {
                    int better = 0;
                    for (int j = 0; j < E; j++) /* with ties to the lower index */
                        better += j != e && (nh[n * E + j] > nh[n * E + i] ||
                                             (nh[n * E + j] == nh[n * E + i] && j < i));
                    if (i != e && better == k - 1) bar = nh[n * E + i];
                }
                double sigma = fmax(log1p(exp(rh[n * E + e])), 1e-6);
                sum += 0.5 * erfc(-(ch[n * E + e] - bar) / sigma / sqrt(2));
            }
            want[e] = (float)sum;
        }
        Tensor *load = gate_noisy_load(&ctx, clean, raw, noisy, k);
        check_tensor(&ctx, "load", load, want, 32 * 0x1p-24);
        if (k == E)
            for (int e = 0; e < E; e++) cr_assert_eq(want[e], N); /* nobody to beat */
        context_free(&ctx);
    }
}

/* On the device: the same gradients as on the CPU. */
DEVICE_TEST(gate, gradients_of_noisy_load_equal_the_cpus) {
    enum { N = 33, E = 9, K = 3 };
    Context ctx = test_context(device, dtype), cpu = test_context(CPU, F32);
    Context *contexts[2] = {&ctx, &cpu};
    Tensor *inputs[2][3];
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 3; j++)
            inputs[i][j] = f32_normal(contexts[i], "input", (uint64_t)j, N, E);
        Tensor *c = f32_normal(contexts[i], "c", 5, 1, E);
        Tensor *flat = reshape(contexts[i], c, SHAPE(E));
        contexts[i]->recording = true;
        Tensor *load = gate_noisy_load(contexts[i], inputs[i][0], inputs[i][1], inputs[i][2], K);
        tape_backward(contexts[i], weighted_sum(contexts[i], load, flat));
    }
    static const char *const names[] = {"dclean", "draw", "dnoisy"};
    for (int j = 0; j < 3; j++) /* erfc and exp of the device: some units of F32 */
        check_tensor(&ctx, names[j], inputs[0][j]->grad, inputs[1][j]->grad->data, 32 * 0x1p-24);
}

/*
 * Noise that has underflowed, and logits that are level: the derivative with respect to clean is as
 * steep as GATE_MIN_SIGMA lets it be, that with respect to raw is 0, and nothing is NaN. All are
 * added to what is there.
 */
CONTEXT_TEST(gate, gradients_of_noisy_load_without_noise) {
    enum { N = 2, E = 9 };
    float level[N * E], no_noise[N * E], far[N * E], dload[E], old[N * E];
    float want_clean[N * E], want_noisy[N * E];
    for (int i = 0; i < N * E; i++) level[i] = 0.5f, no_noise[i] = -120, old[i] = (float)i;
    for (int i = 0; i < N * E; i++) far[i] = i < E ? 0.5f : (float)i; /* the second is not level */
    for (int e = 0; e < E; e++) dload[e] = rng_normal(11, 5, (uint64_t)e);
    for (int i = 0; i < N * E; i++) want_clean[i] = want_noisy[i] = old[i];
    for (int e = 0; e < E; e++) {
        double g = dload[e] * 0.39894228 / 1e-6;
        want_clean[e] += (float)g;
        want_noisy[e == 0] -= (float)g; /* the first is in and fears the second; all others it */
    }
    Tensor *noisy = tensor_copy_in(&ctx, "noisy", F32, far, SHAPE(N, E));
    memcpy(level + E, far + E, E * sizeof *far);
    Tensor *clean = tensor_copy_in(&ctx, "clean", F32, level, SHAPE(N, E));
    Tensor *raw = tensor_copy_in(&ctx, "raw", F32, no_noise, SHAPE(N, E));
    Tensor *d = tensor_copy_in(&ctx, "dload", F32, dload, SHAPE(E));
    Tensor *load = tensor_new(&ctx, "load", F32, SHAPE(E));
    Tensor *p = tensor_new(&ctx, "p", F32, SHAPE(N, E));
    Tensor *rivals = tensor_new(&ctx, "rivals", I32, SHAPE(N, 2));
    Tensor *dclean = tensor_copy_in(&ctx, "dclean", F32, old, SHAPE(N, E));
    Tensor *draw = tensor_copy_in(&ctx, "draw", F32, old, SHAPE(N, E));
    Tensor *dnoisy = tensor_copy_in(&ctx, "dnoisy", F32, old, SHAPE(N, E));
    ON(&ctx, gate_noisy_load_forward, load->data, p->data, rivals->data, clean->data, raw->data,
       noisy->data, N, E, 1);
    ON(&ctx, gate_noisy_load_backward, dclean->data, 1, draw->data, 1, dnoisy->data, 1, d->data,
       rivals->data, clean->data, raw->data, noisy->data, N, E, 1);
    check_tensor(&ctx, "dclean", dclean, want_clean, 1e-6);
    check_tensor(&ctx, "draw", draw, old, 0);
    check_tensor(&ctx, "dnoisy", dnoisy, want_noisy, 4e-6); /* a sum of eight */
}

/* With noise: what is there is added to. */
CONTEXT_TEST(gate, gradients_of_noisy_load_add) {
    enum { N = 33, E = 9, K = 3 };
    Tensor *in[3], *out[2][3];
    for (int j = 0; j < 3; j++) in[j] = f32_normal(&ctx, "input", (uint64_t)j, N, E);
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++) out[i][j] = f32_normal(&ctx, "old", 7 + (uint64_t)j, N, E);
    Tensor *d = f32_normal(&ctx, "dload", 5, 1, E);
    Tensor *load = tensor_new(&ctx, "load", F32, SHAPE(E));
    Tensor *p = tensor_new(&ctx, "p", F32, SHAPE(N, E));
    Tensor *rivals = tensor_new(&ctx, "rivals", I32, SHAPE(N, 2));
    ON(&ctx, gate_noisy_load_forward, load->data, p->data, rivals->data, in[0]->data, in[1]->data,
       in[2]->data, N, E, K);
    float *old[3];
    for (int j = 0; j < 3; j++) old[j] = test_values(&ctx, out[1][j]);
    for (int add = 0; add < 2; add++)
        ON(&ctx, gate_noisy_load_backward, out[add][0]->data, add, out[add][1]->data, add,
           out[add][2]->data, add, d->data, rivals->data, in[0]->data, in[1]->data, in[2]->data, N,
           E, K);
    static const char *const names[] = {"dclean", "draw", "dnoisy"};
    for (int j = 0; j < 3; j++) {
        float *fresh = test_values(&ctx, out[0][j]);
        for (int i = 0; i < N * E; i++) old[j][i] += fresh[i];
        check_tensor(&ctx, names[j], out[1][j], old[j], 32 * 0x1p-24);
    }
}

/* ---- whole routers by finite differences ---- */

enum { N = 6, H = 10, E = 8, K = 3 };

typedef struct Graph {
    Tensor *x, *c;
    Router w;
    RouterConfig cfg;
} Graph;

/* The noisy router by its parts: finite differences must see the noise, and they do not record. */
static Routing noisy_routing(Context *ctx, Graph *g) {
    Tensor *clean = gate_linear(ctx, g->x, g->w.weight);
    Tensor *raw = gate_linear(ctx, g->x, g->w.noise_weight);
    Tensor *noisy = gate_noise(ctx, clean, raw);
    Routing r = router_choose(ctx, noisy, NULL, NULL, &g->cfg);
    r.load = gate_noisy_load(ctx, clean, raw, noisy, g->cfg.num_experts_per_tok);
    return r;
}

/* The weights, scores and logits all count, and for the noisy router its load. */
static Tensor *router_loss(Context *ctx, void *user) {
    Graph *g = user;
    Routing r = g->cfg.gate_kind == GATE_NOISY ? noisy_routing(ctx, g)
                                               : router_forward(ctx, g->x, &g->w, &g->cfg);
    Tensor *loss = weighted_sum(ctx, r.weights, g->c);
    loss = add(ctx, loss, balance_z_loss(ctx, r.logits, 0.1f));
    loss = add(ctx, loss, balance_loss(ctx, r.scores, r.indices, 2, 1.0f));
    if (r.load) loss = add(ctx, loss, balance_variation(ctx, r.load, 1.0f));
    return loss;
}

/*
 * Inputs come from `stream`. A choice that flips within the step would be no derivative, so streams
 * were picked whose choices are clear: check_gradients fails loudly on the others.
 */
static void check_router_gradients(RouterConfig cfg, uint64_t stream) {
    Context ctx = test_context(CPU, F32);
    cfg.hidden_size = H, cfg.n_routed_experts = E, cfg.num_experts_per_tok = K;
    cfg.routed_scaling_factor = 1.5f, cfg.temperature = 0.3f;
    Graph g = {.cfg = cfg};
    g.x = test_normal(&ctx, "x", stream, SHAPE(N, H));
    g.c = test_normal(&ctx, "c", stream + 1, SHAPE(N, K));
    g.w.weight = test_normal(&ctx, "weight", stream + 2, SHAPE(E, H));
    Tensor *inputs[3] = {g.x, g.w.weight};
    int count = 2;
    if (cfg.gate_kind == GATE_NOISY)
        inputs[count++] = g.w.noise_weight = test_normal(&ctx, "noise", stream + 3, SHAPE(E, H));
    float bias[E];
    for (int e = 0; e < E; e++) bias[e] = 0.05f * (float)(e % 3);
    if (cfg.topk_method == TOPK_NOAUX_TC)
        g.w.bias = tensor_copy_in(&ctx, "bias", F32, bias, SHAPE(E));
    /* A step of 2e-3 moves a logit by less than the distance of the choices; F32 rounds a loss of
     * order 1 to 1e-7, which is 3e-5 of a derivative. */
    check_gradients(&ctx, "router", router_loss, &g, inputs, count, 40, 2e-3, 1e-2);
}

Test(router, gradients_softmax) {
    check_router_gradients((RouterConfig){.scoring_func = SCORING_SOFTMAX}, 10);
}
Test(router, gradients_softmax_norm) {
    check_router_gradients((RouterConfig){.scoring_func = SCORING_SOFTMAX, .norm_topk_prob = true},
                           20);
}
Test(router, gradients_groups) {
    check_router_gradients((RouterConfig){.scoring_func = SCORING_SOFTMAX,
                                          .topk_method = TOPK_GROUP_LIMITED_GREEDY,
                                          .n_group = 4,
                                          .topk_group = 2},
                           30);
}
Test(router, gradients_sigmoid_bias_groups_norm) {
    check_router_gradients((RouterConfig){.scoring_func = SCORING_SIGMOID,
                                          .topk_method = TOPK_NOAUX_TC,
                                          .n_group = 4,
                                          .topk_group = 2,
                                          .norm_topk_prob = true},
                           40);
}
Test(router, gradients_centroid) {
    check_router_gradients(
        (RouterConfig){.scoring_func = SCORING_SOFTMAX, .gate_kind = GATE_CENTROID}, 50);
}
Test(router, gradients_noisy) {
    check_router_gradients((RouterConfig){.scoring_func = SCORING_SOFTMAX,
                                          .norm_topk_prob = true,
                                          .gate_kind = GATE_NOISY},
                           60);
}

/* ---- what the gates promise ---- */

/* A token's length does not matter to a centroid, and a logit is within +-1 / temperature. */
CONTEXT_TEST(router, centroids_see_directions_only) {
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(33, 16)),
           *w = test_normal(&ctx, "w", 2, SHAPE(8, 16));
    float *xh = test_values(&ctx, x);
    float *before = test_values(&ctx, gate_cosine(&ctx, x, w, 0.5f));
    for (int i = 0; i < 33 * 16; i++) xh[i] *= 8; /* a power of two: exact in BF16 too */
    tensor_upload(&ctx, x, xh);
    check_tensor(&ctx, "longer tokens", gate_cosine(&ctx, x, w, 0.5f), before, 8 * 0x1p-24);
    for (int i = 0; i < 33 * 8; i++) cr_assert(fabsf(before[i]) <= 2.00001f);
    tensor_upload(&ctx, x, memset(xh, 0, 33 * 16 * sizeof *xh));
    float zeros[33 * 8] = {0}; /* a token of zeros is equally far from all, not NaN */
    check_tensor(&ctx, "zero tokens", gate_cosine(&ctx, x, w, 0.5f), zeros, 0);
}

/* Noise is for training only; and an answer draws no random numbers. */
CONTEXT_TEST(router, noise_is_drawn_only_while_recording) {
    RouterConfig cfg = {.hidden_size = 16,
                        .n_routed_experts = 8,
                        .num_experts_per_tok = 2,
                        .routed_scaling_factor = 1,
                        .norm_topk_prob = true,
                        .gate_kind = GATE_NOISY};
    Params params;
    params_init(&params, &ctx);
    Router w = router_init(&params, "gate", &cfg);
    cr_assert(params_allocate(&params, true, &err) == 0);
    router_randomize(&params, &w, 1);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(33, 16));
    uint64_t stream = ctx.rng.stream;
    Routing quiet = router_forward(&ctx, x, &w, &cfg);
    check_all(ctx.rng.stream == stream, !quiet.load);
    float *clean = test_values(&ctx, gate_linear(&ctx, x, w.weight));
    check_tensor(&ctx, "logits", quiet.logits, clean, 0);
    ctx.recording = true;
    Routing r = router_forward(&ctx, x, &w, &cfg);
    float *noisy = test_values(&ctx, r.logits), *load = test_values(&ctx, r.load), total = 0;
    double distance = 0;
    for (int i = 0; i < 33 * 8; i++) distance += fabs(noisy[i] - clean[i]);
    cr_assert(distance / (33 * 8) > 0.3, "softplus(0) = 0.69 times noise should show");
    for (int e = 0; e < 8; e++) total += load[e];
    /* Each is a probability given the others' noise; together they come near k for every token. */
    cr_assert(total > 0.6f * 2 * 33 && total < 1.4f * 2 * 33, "load %g", total);
}
