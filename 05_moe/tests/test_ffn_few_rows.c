/*
 * The feed-forward half for a few tokens: its two kernels give what norm, experts (or the dense
 * layer) and addition give. On the CPU nothing is there to test but that they say no.
 */
#include "05_moe/decoder/ffn_few_rows.h"

#include "common/core/ops.h"
#include "common/cuda/few_rows.h"
#include "common/program/testing.h"

#include <math.h>
#include <string.h>

static const int rows[] = {1, 2, 3, 5, 8, 9, 31, FEW_ROWS};
enum { ROWS = sizeof rows / sizeof *rows };

/* The second half of a block; without `moe` a dense one. */
typedef struct Half {
    Params params;
    BlockConfig cfg;
    Block w;
} Half;

/* Weights of a size that keeps every step of order 1; the router's are larger, so that no choice is
 * so close that the order of a sum decides it. */
static void half_init(Half *half, Context *ctx, const MoeConfig *moe, int hidden, int inner) {
    Params *params = &half->params;
    Block *w = &half->w;
    *half = (Half){.cfg = {.hidden_size = hidden, .rms_norm_eps = 1e-5f}, .w.dense = !moe};
    params_init(params, ctx);
    if (moe)
        half->cfg.moe = *moe, w->moe = moe_init(params, "mlp", moe);
    else
        w->mlp = mlp_init(params, "mlp", hidden, inner);
    check_ok(params_allocate(params, true, &err), &err);
    w->post_attention_layernorm = test_normal(ctx, "norm", 2, SHAPE(hidden));
    float std = 1.0f / sqrtf((float)hidden);
    if (!moe) {
        mlp_randomize(params, &w->mlp, std, 0.1f);
        return;
    }
    moe_randomize(params, &w->moe, std, 0.1f);
    params_normal(params, w->moe.router.weight, 1.0f);
    if (w->moe.router.bias) params_normal(params, w->moe.router.bias, 0.5f);
}

static void compare(Context *ctx, const MoeConfig *moe, int hidden, int inner, int n) {
    Half half;
    half_init(&half, ctx, moe, hidden, inner);
    const Block *w = &half.w;
    Tensor *x = test_normal(ctx, "x", 1, SHAPE(1, n, hidden));
    cr_assert(ffn_few_rows_supports(ctx, x, w, &half.cfg) == (ctx->device == CUDA));
    if (ctx->device == CUDA) {
        Tensor *h = rmsnorm(ctx, x, w->post_attention_layernorm, 1e-5f);
        h = block_feed_forward(ctx, h, w, &half.cfg, &(BlockRun){0}, (Residual){0});
        float *want = test_values(ctx, add(ctx, x, h));
        /* Sums in another order; in BF16 fewer roundings: gate and up, the experts' results and
         * their sum are not rounded here, and a single h may be rounded the other way. */
        check_tensor(ctx, "ffn_few_rows_forward", ffn_few_rows_forward(ctx, x, w, &half.cfg), want,
                     ctx->dtype == BF16 ? 4 * 0x1p-9 : 16 * tolerance_of(F32, hidden));
    }
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
    c.router.gate_kind = GATE_NOISY; /* silent off the tape; all, divided by their sum */
    c.router.num_experts_per_tok = 5, c.router.norm_topk_prob = true;
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
        context_free(&ctx);
    }
}

DEVICE_TEST(ffn_few_rows, dense_equals_mlp_forward) {
    static const int sizes[][2] = {{32, 32}, {64, 96}, {512, 1408}};
    for (int i = 0; i < 3 * ROWS; i++) {
        Context ctx = test_context(device, dtype);
        compare(&ctx, NULL, sizes[i / ROWS][0], sizes[i / ROWS][1], rows[i % ROWS]);
        context_free(&ctx);
    }
}

/* A token with a NaN: its own row is NaN, the others are not, and the router knows which it was. */
CONTEXT_TEST(ffn_few_rows, a_nan_is_reported) {
    if (device == CPU) return; /* moe_forward() does it there: test_router.c */
    enum { N = 12, HIDDEN = 64 };
    MoeConfig cfg = moe_config(HIDDEN, 32, 8, 2);
    Half half;
    half_init(&half, &ctx, &cfg, HIDDEN, 0);
    float *x = test_values(&ctx, test_normal(&ctx, "x", 1, SHAPE(1, N, HIDDEN)));
    x[7 * HIDDEN + 3] = NAN;
    Tensor *t = tensor_copy_in(&ctx, "x", dtype, x, SHAPE(1, N, HIDDEN));
    float *y = test_values(&ctx, ffn_few_rows_forward(&ctx, t, &half.w, &half.cfg));
    for (int i = 0; i < N * HIDDEN; i++) cr_assert(isnan(y[i]) == (i / HIDDEN == 7), "%d", i);
    cr_assert(router_healthy(&ctx, &half.w.moe.router, &err) == -1);
    cr_assert(strstr(err.text, "token 7 "), "%s", err.text);
}

/* What it does not take: then block_feed_forward() is asked. One feature at a time; with none of
 * them it takes it. */
CONTEXT_TEST(ffn_few_rows, features_that_decline) {
    enum {
        ODD_WIDTH = 1,
        MANY_EXPERTS,
        CENTROIDS,
        CAPACITY,
        MANY_ROWS,
        RECORDING,
        OTHER_DTYPE,
        END
    };
    for (int i = 0; i < END; i++) {
        MoeConfig cfg = moe_config(64, i == ODD_WIDTH ? 33 : 32, i == MANY_EXPERTS ? 65 : 8, 2);
        if (i == CENTROIDS) cfg.router.gate_kind = GATE_CENTROID;
        if (i == CAPACITY) cfg.capacity_factor = 1;
        Half half;
        half_init(&half, &ctx, &cfg, 64, 0);
        if (i == OTHER_DTYPE) half.w.moe.up_proj->dtype = dtype == BF16 ? F32 : BF16;
        Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, i == MANY_ROWS ? FEW_ROWS + 1 : 2, 64));
        ctx.recording = i == RECORDING;
        cr_assert_eq(ffn_few_rows_supports(&ctx, x, &half.w, &half.cfg), device == CUDA && i == 0,
                     "case %d", i);
        ctx.recording = false;
    }
}
