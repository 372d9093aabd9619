/*
 * The feed-forward half for a few tokens: its two kernels give what norm, experts (or the dense
 * layer) and addition give. On the CPU nothing is there to test but that they say no.
 */
#include "05_moe/ffn_few_rows.h"

#include "common/core/ops.h"
#include "common/cuda/few_rows.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int rows[] = {1, 2, 3, 5, 8, 9, 31, FEW_ROWS};
enum { ROWS = sizeof rows / sizeof *rows };

/* Weights of a size that keeps every step of order 1; the router's are larger, so that no choice is
 * so close that the order of a sum decides it. */
static void module_init(Params *params, Context *ctx, Moe *moe, Mlp *mlp, const MoeConfig *cfg,
                        int hidden, int inner) {
    Error err = {0};
    params_init(params, ctx);
    if (cfg)
        *moe = moe_init(params, "mlp", cfg);
    else
        *mlp = mlp_init(params, "mlp", hidden, inner);
    if (params_allocate(params, true, &err)) cr_assert_fail("%s", err.text);
    if (cfg) {
        moe_randomize(params, moe, 1.0f / sqrtf((float)hidden), 0.1f);
        params_normal(params, moe->gate.weight, 1.0f);
        if (moe->gate.bias) params_normal(params, moe->gate.bias, 0.5f);
    } else {
        mlp_randomize(params, mlp, 1.0f / sqrtf((float)hidden), 0.1f);
    }
}

static void compare(Context *ctx, const MoeConfig *cfg, int hidden, int inner, int n) {
    Params params;
    Moe moe = {0};
    Mlp mlp = {0};
    module_init(&params, ctx, &moe, &mlp, cfg, hidden, inner);
    Ffn ffn = cfg ? (Ffn){.moe = &moe, .cfg = cfg} : (Ffn){.mlp = &mlp};
    Tensor *x = test_normal(ctx, "x", 1, SHAPE(1, n, hidden));
    Tensor *norm = test_normal(ctx, "norm", 2, SHAPE(hidden));
    cr_assert(ffn_few_rows_supports(ctx, x, norm, &ffn) == (ctx->device == CUDA));
    if (ctx->device == CUDA) {
        Tensor *h = rmsnorm(ctx, x, norm, 1e-5f);
        h = cfg ? moe_forward(ctx, h, &moe, cfg, NULL) : mlp_forward(ctx, h, &mlp);
        float *want = test_values(ctx, add(ctx, x, h));
        /* Sums in another order; in BF16 fewer roundings: gate and up, the experts' results and
         * their sum are not rounded here, and a single h may be rounded the other way. */
        check_tensor(ctx, "ffn_few_rows_forward", ffn_few_rows_forward(ctx, x, norm, 1e-5f, &ffn),
                     want, ctx->dtype == BF16 ? 4 * 0x1p-9 : 16 * tolerance_of(F32, hidden));
        free(want);
    }
    params_free(&params);
}

/* Many experts and few, groups, one or two choices and many, every shared width. */
static int router_cases(MoeConfig *cases) {
    int n = 0;
    MoeConfig c = moe_config(64, 32, 8, 2); /* V3: sigmoid and bias */
    c.n_shared_experts = 1;
    cases[n++] = c;
    c = moe_config(96, 64, 64, 6); /* in groups, of which half are open */
    c.router.n_group = 8, c.router.topk_group = 4, c.router.routed_scaling_factor = 2.5f;
    c.n_shared_experts = 2;
    cases[n++] = c;
    c = moe_config(64, 32, 20, 3); /* V2: softmax, groups by their best; no shared expert */
    c.router.scoring_func = SCORING_SOFTMAX, c.router.topk_method = TOPK_GROUP_LIMITED_GREEDY;
    c.router.n_group = 4, c.router.topk_group = 2, c.router.norm_topk_prob = false;
    cases[n++] = c;
    c = moe_config(32, 32, 5, 1); /* Switch */
    c.router.scoring_func = SCORING_SOFTMAX, c.router.topk_method = TOPK_GREEDY;
    cases[n++] = c;
    c.router.gate = GATE_NOISY, c.router.num_experts_per_tok = 5; /* silent off the tape; all */
    cases[n++] = c;
    c = moe_config(512, 512, 8, 2); /* the benchmark's */
    c.n_shared_experts = 1;
    cases[n++] = c;
    return n;
}

DEVICE_TEST(ffn_few_rows, experts_equal_moe_forward) {
    MoeConfig cases[6];
    int count = router_cases(cases);
    for (int i = 0; i < count * ROWS; i++) {
        Context ctx = test_context(device, dtype);
        const MoeConfig *cfg = &cases[i / ROWS];
        compare(&ctx, cfg, cfg->router.hidden_size, 0, rows[i % ROWS]);
        test_context_free(&ctx);
    }
}

DEVICE_TEST(ffn_few_rows, dense_equals_mlp_forward) {
    static const int sizes[][2] = {{32, 32}, {64, 96}, {512, 1408}};
    for (int i = 0; i < 3 * ROWS; i++) {
        Context ctx = test_context(device, dtype);
        compare(&ctx, NULL, sizes[i / ROWS][0], sizes[i / ROWS][1], rows[i % ROWS]);
        test_context_free(&ctx);
    }
}

/* A token with a NaN: its own row is NaN, the others are not, and the router knows which it was. */
DEVICE_TEST(ffn_few_rows, a_nan_is_reported) {
    if (device == CPU) return; /* moe_forward() does it there: test_router.c */
    Context ctx = test_context(device, dtype);
    enum { N = 12, HIDDEN = 64 };
    MoeConfig cfg = moe_config(HIDDEN, 32, 8, 2);
    Params params;
    Moe moe;
    Error err = {0};
    module_init(&params, &ctx, &moe, NULL, &cfg, HIDDEN, 0);
    Ffn ffn = {.moe = &moe, .cfg = &cfg};
    Tensor *norm = test_normal(&ctx, "norm", 2, SHAPE(HIDDEN));
    float *x = test_values(&ctx, test_normal(&ctx, "x", 1, SHAPE(1, N, HIDDEN)));
    x[7 * HIDDEN + 3] = NAN;
    Tensor *t = tensor_copy_in(&ctx, "x", dtype, x, SHAPE(1, N, HIDDEN));
    float *y = test_values(&ctx, ffn_few_rows_forward(&ctx, t, norm, 1e-5f, &ffn));
    for (int i = 0; i < N * HIDDEN; i++) cr_assert(isnan(y[i]) == (i / HIDDEN == 7), "%d", i);
    cr_assert(router_healthy(&ctx, &moe.gate, &err) == -1);
    cr_assert(strstr(err.text, "token 7 "), "%s", err.text);
    free(x), free(y);
    params_free(&params);
    test_context_free(&ctx);
}

/* What it does not take, it refuses: then moe_forward() is asked. */
DEVICE_TEST(ffn_few_rows, says_no) {
    Context ctx = test_context(device, dtype);
    for (int i = 0; i < 6; i++) {
        MoeConfig cfg = moe_config(64, i == 0 ? 33 : 32, i == 1 ? 65 : 8, 2);
        if (i == 2) cfg.router.gate = GATE_CENTROID;
        if (i == 3) cfg.capacity_factor = 1;
        Params params;
        Moe moe;
        module_init(&params, &ctx, &moe, NULL, &cfg, 64, 0);
        Ffn ffn = {.moe = &moe, .cfg = &cfg};
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, i == 4 ? FEW_ROWS + 1 : 2, 64));
        Tensor *norm = test_normal(&ctx, "norm", 2, SHAPE(64));
        ctx.recording = i == 5;
        cr_assert(!ffn_few_rows_supports(&ctx, x, norm, &ffn), "case %d", i);
        ctx.recording = false;
        params_free(&params);
    }
    test_context_free(&ctx);
}
