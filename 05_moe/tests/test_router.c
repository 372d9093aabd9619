/*
 * The router against transformers (goldens), a plain sort in double precision, finite differences,
 * and what must hold for any scores: the bias moves choices and never weights, ties go to the lower
 * index, a NaN is found and named.
 */
#include "05_moe/router.h"

#include "common/program/testing.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static RouterConfig config(int hidden, int experts, int k, ScoringFunc scoring, TopkMethod method) {
    return (RouterConfig){.hidden_size = hidden,
                          .n_routed_experts = experts,
                          .num_experts_per_tok = k,
                          .scoring_func = scoring,
                          .topk_method = method,
                          .n_group = 1,
                          .topk_group = 1,
                          .routed_scaling_factor = 1,
                          .temperature = 1};
}

MODULE(Router, RouterConfig, router_init(params, "model.layers.3.mlp.gate", cfg), 0.3f)

/* ---- goldens ---- */

/*
 * dense [N, E]: the weights of the chosen, zero for the others. The logits are F32 in both; 16
 * units of F32 for sums of 20 products and an exponential. BF16: inputs and weights are BF16
 * numbers, the forward pass is F32, and only the gradient of x is rounded, once.
 */
static void check_gate_golden(Device device, DType dtype, const char *path, RouterConfig cfg) {
    Context ctx = test_context(device, dtype);
    SafeTensors *golden = golden_open(path);
    Module m;
    module_init(&m, &ctx, cfg);
    params_set(&m.params, m.w.weight, golden_values(golden, "weight"));
    if (m.w.bias) params_set(&m.params, m.w.bias, golden_values(golden, "bias"));
    Tensor *x = golden_tensor(&ctx, golden, "x");
    int64_t N = x->shape[0], E = cfg.n_routed_experts, K = cfg.num_experts_per_tok;
    ctx.recording = true;
    Routing r = router_forward(&ctx, x, &m.w, &cfg);

    int32_t *chosen = test_ints(&ctx, r.indices);
    float *weights = test_values(&ctx, r.weights);
    float *dense = calloc((size_t)(N * E), sizeof *dense), *c = test_floats(N * K);
    const float *c_dense = golden_values(golden, "c");
    for (int64_t s = 0; s < N * K; s++) {
        int64_t at = s / K * E + chosen[s];
        dense[at] = weights[s];
        c[s] = c_dense[at];
    }
    double tolerance = 16 * tolerance_of(F32, 20);
    check_close("weights", dense, golden_values(golden, "dense"), N * E, tolerance);
    Tensor *ct = tensor_copy_in(&ctx, "c", F32, c, SHAPE(N, K));
    tape_backward(&ctx, weighted_sum(&ctx, r.weights, ct));
    check_tensor(&ctx, "gradient of x", x->grad, golden_values(golden, "grad.x"),
                 dtype == BF16 ? 3 * 0x1p-9 : tolerance);
    float *dw = test_weight_gradient(&m.params, m.w.weight);
    /* the GPU multiplies dz in two BF16 parts, 16 bits in all */
    check_close("gradient of the gate", dw, golden_values(golden, "grad.weight"),
                tensor_count(m.w.weight), dtype == BF16 ? 0x1p-14 : tolerance);
}

DEVICE_TEST(router, equals_transformers_v2_greedy) {
    check_gate_golden(device, dtype, "05_moe/goldens/v2_greedy.safetensors",
                      config(20, 12, 4, SCORING_SOFTMAX, TOPK_GREEDY));
}

DEVICE_TEST(router, equals_transformers_v2_groups) {
    RouterConfig cfg = config(20, 12, 3, SCORING_SOFTMAX, TOPK_GROUP_LIMITED_GREEDY);
    cfg.n_group = 3, cfg.topk_group = 2, cfg.routed_scaling_factor = 16;
    check_gate_golden(device, dtype, "05_moe/goldens/v2_groups.safetensors", cfg);
}

DEVICE_TEST(router, equals_transformers_v3_with_bias_and_groups) {
    RouterConfig cfg = config(20, 12, 3, SCORING_SIGMOID, TOPK_NOAUX_TC);
    cfg.n_group = 4, cfg.topk_group = 2, cfg.routed_scaling_factor = 1.5f;
    check_gate_golden(device, dtype, "05_moe/goldens/v3_gate.safetensors", cfg);
}

/* ---- the kernels against a plain sort ---- */

/* Sorts experts by value, descending; equal values by index. */
static void rank_experts(int *order, const double *value, int n) {
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && value[order[at - 1]] < value[i]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
}

/* One token by the formulas of router.h. */
static void reference_token(int32_t *indices, double *weights, double *scores, const float *z,
                            const float *bias, RouteShape shape) {
    int E = shape.experts, size = E / shape.groups, order[ROUTER_MAX_EXPERTS];
    double largest = -INFINITY, total = 0, sum = 0, choice[ROUTER_MAX_EXPERTS];
    for (int e = 0; e < E; e++) largest = fmax(largest, z[e]);
    for (int e = 0; e < E; e++) total += exp(z[e] - largest);
    for (int e = 0; e < E; e++) {
        scores[e] = shape.sigmoid ? 1 / (1 + exp(-(double)z[e])) : exp(z[e] - largest) / total;
        choice[e] = scores[e] + (bias ? bias[e] : 0);
    }
    double group[ROUTER_MAX_EXPERTS] = {0};
    for (int g = 0; g < shape.groups; g++) {
        rank_experts(order, choice + g * size, size);
        for (int i = 0; i < shape.group_best && i < size; i++)
            group[g] += choice[g * size + order[i]];
    }
    rank_experts(order, group, shape.groups);
    for (int i = shape.topk_groups; i < shape.groups; i++)
        for (int e = order[i] * size; e < (order[i] + 1) * size; e++) choice[e] = -INFINITY;
    rank_experts(order, choice, E);
    for (int j = 0; j < shape.top_k; j++) {
        indices[j] = order[j];
        sum += weights[j] = scores[order[j]];
    }
    for (int j = 0; j < shape.top_k; j++)
        weights[j] *= shape.scale / (shape.norm ? sum + 1e-20 : 1);
}

/* The kernels agree with the reference, forward and backward, for one set of sizes. */
static void check_route(Context *ctx, RouteShape shape, bool with_bias) {
    int64_t N = shape.tokens, E = shape.experts, K = shape.top_k;
    /* Logits on a grid of 1/256 with distinct values in a row: no two scores are nearly equal. */
    float *z = test_floats(N * E), *bias_host = test_floats(E);
    for (int64_t n = 0; n < N; n++)
        for (int64_t e = 0; e < E; e++)
            z[n * E + e] = (float)((e * 2 + 1) * (2 * n + 37) % 1024 - 512) / 256.0f;
    for (int64_t e = 0; e < E; e++) bias_host[e] = rng_normal(5, 1, (uint64_t)e) * 0.1f;
    Tensor *logits = tensor_copy_in(ctx, "logits", F32, z, SHAPE(N, E));
    Tensor *bias = tensor_copy_in(ctx, "bias", F32, bias_host, SHAPE(E));
    Tensor *scores = tensor_new(ctx, "scores", F32, SHAPE(N, E));
    Tensor *weights = tensor_new(ctx, "weights", F32, SHAPE(N, K));
    Tensor *indices = tensor_new(ctx, "indices", I32, SHAPE(N, K));
    test_poison(ctx, scores), test_poison(ctx, weights), test_poison(ctx, indices);
    ON(ctx, route_forward, scores->data, indices->data, weights->data, NULL, logits->data,
       with_bias ? bias->data : NULL, shape);

    int32_t *got = test_ints(ctx, indices), want[ROUTER_MAX_EXPERTS];
    float *want_scores = test_floats(N * E);
    float *want_weights = test_floats(N * K);
    for (int64_t n = 0; n < N; n++) {
        double w[ROUTER_MAX_EXPERTS], s[ROUTER_MAX_EXPERTS];
        reference_token(want, w, s, z + n * E, with_bias ? bias_host : NULL, shape);
        for (int64_t j = 0; j < K; j++) {
            cr_assert(got[n * K + j] == want[j],
                      "%lld tokens, %lld experts, k %lld: choice %lld of token %lld is %d, not %d",
                      (long long)N, (long long)E, (long long)K, (long long)j, (long long)n,
                      got[n * K + j], want[j]);
            want_weights[n * K + j] = (float)w[j];
        }
        for (int64_t e = 0; e < E; e++) want_scores[n * E + e] = (float)s[e];
    }
    double tolerance = 8 * tolerance_of(F32, E);
    check_tensor(ctx, "scores", scores, want_scores, tolerance);
    check_tensor(ctx, "weights", weights, want_weights, tolerance);
}

CONTEXT_TEST(router, agrees_with_a_plain_sort) {
    static const struct {
        int tokens, experts, k, groups, topk_groups, best, sigmoid, norm;
    } cases[] = {
        {1, 1, 1, 1, 1, 1, 0, 0},      {1, 8, 2, 1, 1, 1, 0, 1},    {33, 8, 2, 1, 1, 1, 0, 1},
        {31, 8, 8, 1, 1, 2, 1, 1},     {127, 7, 3, 1, 1, 1, 0, 0},  {33, 64, 6, 1, 1, 1, 0, 0},
        {33, 160, 6, 8, 3, 1, 0, 0},   {33, 256, 8, 8, 4, 2, 1, 1}, {127, 33, 5, 11, 3, 2, 1, 1},
        {31, 512, 10, 16, 3, 2, 1, 1}, {33, 12, 5, 12, 5, 2, 1, 1}, {5, 100, 100, 4, 4, 1, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        RouteShape shape = {.tokens = cases[i].tokens,
                            .experts = cases[i].experts,
                            .top_k = cases[i].k,
                            .groups = cases[i].groups,
                            .topk_groups = cases[i].topk_groups,
                            .group_best = cases[i].best,
                            .sigmoid = cases[i].sigmoid,
                            .norm = cases[i].norm,
                            .scale = 2.5f};
        check_route(&ctx, shape, cases[i].best == 2);
    }
}

/* dlogits by the chain rule in double precision, with add 0 and 1, over poison. */
DEVICE_TEST(router, backward_by_plain_loops) {
    enum { N = 33, E = 13, K = 4 };
    for (int variant = 0; variant < 4; variant++) {
        Context ctx = test_context(device, dtype);
        RouteShape shape = {N, E, K, 1, 1, 1, variant & 1, variant >> 1, 1.5f};
        float zh[N * E], dwh[N * K], dsh[N * E];
        for (int i = 0; i < N * E; i++) zh[i] = rng_normal(1, 2, (uint64_t)i);
        for (int i = 0; i < N * K; i++) dwh[i] = rng_normal(1, 3, (uint64_t)i);
        for (int i = 0; i < N * E; i++) dsh[i] = rng_normal(1, 4, (uint64_t)i);
        Tensor *z = tensor_copy_in(&ctx, "logits", F32, zh, SHAPE(N, E));
        Tensor *s = tensor_new(&ctx, "scores", F32, SHAPE(N, E));
        Tensor *w = tensor_new(&ctx, "weights", F32, SHAPE(N, K));
        Tensor *chosen = tensor_new(&ctx, "indices", I32, SHAPE(N, K));
        Tensor *dw = tensor_copy_in(&ctx, "dweights", F32, dwh, SHAPE(N, K));
        Tensor *ds = tensor_copy_in(&ctx, "dscores", F32, dsh, SHAPE(N, E));
        Tensor *dz = tensor_new(&ctx, "dlogits", F32, SHAPE(N, E));
        test_poison(&ctx, dz);
        ON(&ctx, route_forward, s->data, chosen->data, w->data, NULL, z->data, NULL, shape);
        ON(&ctx, route_weights_backward, ds->data, 1, dw->data, w->data, s->data, chosen->data,
           shape);
        ON(&ctx, route_scores_backward, dz->data, 0, ds->data, s->data, shape);

        int32_t *index = test_ints(&ctx, chosen);
        float want_ds[N * E], want_dz[N * E];
        for (int n = 0; n < N; n++) {
            double score[E], ranked[K], sum = 0, dot = 0, inner = 0, d[E];
            reference_token((int32_t[K]){0}, ranked, score, zh + n * E, NULL, shape);
            for (int e = 0; e < E; e++) d[e] = dsh[n * E + e];
            for (int j = 0; j < K; j++) sum += score[index[n * K + j]];
            for (int j = 0; j < K; j++) dot += dwh[n * K + j] * ranked[j];
            for (int j = 0; j < K; j++)
                d[index[n * K + j]] +=
                    shape.norm ? (1.5 * dwh[n * K + j] - dot) / sum : 1.5 * dwh[n * K + j];
            for (int e = 0; e < E; e++) inner += d[e] * score[e];
            for (int e = 0; e < E; e++) {
                want_ds[n * E + e] = (float)d[e];
                want_dz[n * E + e] = (float)(shape.sigmoid ? d[e] * score[e] * (1 - score[e])
                                                           : score[e] * (d[e] - inner));
            }
        }
        check_tensor(&ctx, "dscores", ds, want_ds, 16 * tolerance_of(F32, E));
        check_tensor(&ctx, "dlogits", dz, want_dz, 16 * tolerance_of(F32, E));
        ON(&ctx, route_scores_backward, dz->data, 1, ds->data, s->data, shape);
        for (int i = 0; i < N * E; i++) want_dz[i] *= 2;
        check_tensor(&ctx, "dlogits, added", dz, want_dz, 16 * tolerance_of(F32, E));

        test_poison(&ctx, ds); /* overwriting clears what was not chosen */
        ON(&ctx, route_weights_backward, ds->data, 0, dw->data, w->data, s->data, chosen->data,
           shape);
        for (int i = 0; i < N * E; i++) want_ds[i] -= dsh[i];
        check_tensor(&ctx, "dscores, overwritten", ds, want_ds, 64 * tolerance_of(F32, E));
        context_free(&ctx);
    }
}

/* ---- what must hold for any scores ---- */

CONTEXT_TEST(router, the_bias_changes_choices_and_never_weights) {
    enum { N = 127, E = 16, K = 3 };
    RouterConfig cfg = config(1, E, K, SCORING_SIGMOID, TOPK_NOAUX_TC);
    float z[N * E], push[E] = {0};
    for (int i = 0; i < N * E; i++) z[i] = rng_normal(3, 1, (uint64_t)i);
    push[5] = 10; /* more than any score: everybody takes expert 5 */
    push[7] = -10;
    Tensor *logits = tensor_copy_in(&ctx, "logits", F32, z, SHAPE(N, E));
    Tensor *bias = tensor_copy_in(&ctx, "bias", F32, push, SHAPE(E));
    Routing r = router_choose(&ctx, logits, bias, NULL, &cfg);
    int32_t *chosen = test_ints(&ctx, r.indices);
    float *weights = test_values(&ctx, r.weights), *scores = test_values(&ctx, r.scores);
    for (int n = 0; n < N; n++) {
        cr_assert_eq(chosen[n * K], 5);
        for (int j = 0; j < K; j++) {
            cr_assert_neq(chosen[n * K + j], 7);
            cr_assert_eq(weights[n * K + j], scores[n * E + chosen[n * K + j]]);
            check_all(weights[n * K + j] > 0, weights[n * K + j] < 1);
        }
    }
}

CONTEXT_TEST(router, of_equal_scores_the_lower_index_wins) {
    enum { N = 33, E = 12, K = 4 };
    float z[N * E];
    for (int i = 0; i < N * E; i++) z[i] = 0.5f;
    for (int n = 0; n < N; n++) z[n * E + 9] = z[n * E + 10] = 0.75f; /* the last group is better */
    for (int method = 0; method < 3; method++) {
        RouterConfig cfg = config(1, E, K, SCORING_SIGMOID, (TopkMethod)method);
        cfg.n_group = 4, cfg.topk_group = 2;
        Tensor *logits = tensor_copy_in(&ctx, "logits", F32, z, SHAPE(N, E));
        Routing r = router_choose(&ctx, logits, NULL, NULL, &cfg);
        int32_t *chosen = test_ints(&ctx, r.indices);
        static const int32_t want[K] = {9, 10, 0, 1}; /* with groups: those of groups 3 and 0 */
        for (int n = 0; n < N; n++) cr_assert_arr_eq(chosen + n * K, want, sizeof want);
    }
}

DEVICE_TEST(router, a_nan_is_found_and_named) {
    enum { N = 127, E = 16, K = 3 };
    for (int sigmoid = 0; sigmoid < 2; sigmoid++) {
        Context ctx = test_context(device, dtype);
        RouterConfig cfg = config(8, E, K, (ScoringFunc)sigmoid, TOPK_NOAUX_TC);
        cfg.n_group = 4, cfg.topk_group = 2, cfg.norm_topk_prob = true;
        Module m;
        module_init(&m, &ctx, cfg);
        Error err = {0};
        float *values = calloc(N * 8, sizeof *values);
        Tensor *x = tensor_copy_in(&ctx, "x", dtype, values, SHAPE(N, 8));
        router_forward(&ctx, x, &m.w, &cfg);
        check_ok(router_healthy(&ctx, &m.w, &err), &err);
        values[100 * 8] = values[17 * 8 + 3] = NAN;
        tensor_upload(&ctx, x, values);
        Routing r = router_forward(&ctx, x, &m.w, &cfg);
        int32_t *chosen = test_ints(&ctx, r.indices);
        float *weights = test_values(&ctx, r.weights);
        for (int n = 0; n < N; n++)
            for (int j = 0; j < K; j++) {
                int32_t e = chosen[n * K + j];
                cr_assert(e >= 0 && e < E, "token %d: expert %d", n, e);
                for (int i = 0; i < j; i++) cr_assert_neq(chosen[n * K + i], e);
                cr_assert_eq(isnan(weights[n * K + j]) != 0, n == 17 || n == 100);
            }
        cr_assert(router_healthy(&ctx, &m.w, &err) == -1);
        cr_assert(strstr(err.text, "model.layers.3.mlp.gate") && strstr(err.text, "token 17"), "%s",
                  err.text);
        cr_assert(router_healthy(&ctx, &m.w, &err) == 0, "it was reported: asking clears it");
        /* of several calls the lowest token, whether the first or the second had it */
        for (int order = 0; order < 2; order++) {
            for (int call = 0; call < 2; call++) {
                values[100 * 8] = call == order ? 0 : NAN;
                values[17 * 8 + 3] = call == order ? NAN : 0;
                tensor_upload(&ctx, x, values);
                router_forward(&ctx, x, &m.w, &cfg);
            }
            cr_assert(router_healthy(&ctx, &m.w, &err) == -1);
            cr_assert(strstr(err.text, "token 17"), "%s", err.text);
        }
        context_free(&ctx);
    }
}

Test(router, threads_do_not_change_results) {
    enum { N = 999, E = 64, H = 40, K = 6 };
    static float results[2][E * H];
    RouterConfig cfg = config(H, E, K, SCORING_SOFTMAX, TOPK_GROUP_LIMITED_GREEDY);
    cfg.n_group = 8, cfg.topk_group = 3, cfg.norm_topk_prob = true;
    for (int round = 0; round < 2; round++) {
        omp_set_num_threads(round ? 4 : 1);
        Context ctx = test_context(CPU, F32);
        Module m;
        module_init(&m, &ctx, cfg);
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(N, H));
        ctx.recording = true;
        Routing r = router_forward(&ctx, x, &m.w, &cfg);
        Tensor *c = test_normal(&ctx, "c", 2, SHAPE(N, K));
        tape_backward(&ctx, weighted_sum(&ctx, r.weights, c));
        params_get_grad(&m.params, m.w.weight, results[round]);
        context_free(&ctx);
    }
    cr_assert(!memcmp(results[0], results[1], sizeof results[0]));
}

/* ---- settings ---- */

Test(router, a_wrong_config_is_named) {
    static const struct {
        int experts, k, groups, topk_group;
        float scaling;
        const char *says;
    } cases[] = {
        {0, 1, 1, 1, 1, "n_routed_experts is 0"},
        {513, 1, 1, 1, 1, "n_routed_experts is 513"},
        {8, 0, 1, 1, 1, "num_experts_per_tok is 0"},
        {8, 9, 1, 1, 1, "num_experts_per_tok is 9"},
        {8, 2, 0, 1, 1, "n_group is 0"},
        {8, 2, 3, 1, 1, "n_group (3) does not divide n_routed_experts (8)"},
        {8, 2, 4, 0, 1, "topk_group is 0"},
        {8, 2, 4, 5, 1, "topk_group is 5"},
        {8, 3, 4, 1, 1, "topk_group (1) groups of 2 experts hold 2, fewer"},
        {8, 2, 4, 2, 0, "routed_scaling_factor is 0"},
        {8, 2, 4, 2, NAN, "routed_scaling_factor is nan"},
        {8, 2, 4, 2, INFINITY, "routed_scaling_factor is inf"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        RouterConfig cfg = config(16, cases[i].experts, cases[i].k, SCORING_SIGMOID, TOPK_NOAUX_TC);
        cfg.n_group = cases[i].groups, cfg.topk_group = cases[i].topk_group;
        cfg.routed_scaling_factor = cases[i].scaling;
        Error err = {0};
        cr_assert(router_check(&cfg, &err) == -1, "case %zu is accepted", i);
        cr_assert(strstr(err.text, cases[i].says), "case %zu says: %s", i, err.text);
    }
    RouterConfig v3 = config(7168, 256, 8, SCORING_SIGMOID, TOPK_NOAUX_TC);
    v3.n_group = 8, v3.topk_group = 4;
    check_ok(router_check(&v3, &err), &err);
    v3.hidden_size = 0;
    cr_assert(router_check(&v3, &err) == -1 && strstr(err.text, "hidden_size is 0"), "%s",
              err.text);
    v3.hidden_size = 8, v3.gate_kind = GATE_CENTROID, v3.temperature = 0;
    cr_assert(router_check(&v3, &err) == -1 && strstr(err.text, "temperature is 0"), "%s",
              err.text);
    v3.temperature = INFINITY;
    cr_assert(router_check(&v3, &err) == -1 && strstr(err.text, "temperature is inf"), "%s",
              err.text);
}

Test(router, settings_have_names) {
    cr_assert_str_eq(router_scoring_names[SCORING_SIGMOID], "sigmoid");
    cr_assert_str_eq(router_method_names[TOPK_NOAUX_TC], "noaux_tc");
    cr_assert_str_eq(router_gate_names[GATE_CENTROID], "centroid");
}
