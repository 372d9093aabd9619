/*
 * The lesson's numbers: two heads over a latent of two numbers, checked against the module in both
 * modes. All weights and latents are integers, and every e^score is a power of two.
 */
#include "04_mla/mla.h"

#include "common/program/testing.h"

/*
 * x = c, for the down-projection is the identity and the mean square of (+-1, +-1) is 1, which the
 * norm leaves alone. W_q holds the factor sqrt(2) ln 2: with the scale 1 / sqrt(2) e^score is 2^(q
 * k).
 */
static const MlaConfig by_hand_cfg = {.hidden_size = 2,
                                      .num_attention_heads = 2,
                                      .kv_lora_rank = 2,
                                      .qk_nope_head_dim = 2,
                                      .v_head_dim = 1};
#define LN 0.980258143f /* sqrt(2) ln 2 */
static const float by_hand_x[] = {1, 1, 1, -1, -1, 1};
static const float by_hand_q[] = {-LN,     0, 0, LN, /* head 0: (1, 1) for the third token */
                                  -2 * LN, 0, 0, LN /* head 1: (2, 1) */};
static const float by_hand_one[] = {1, 0, 0, 1}, by_hand_norm[] = {1, 1};
static const float by_hand_kv[] = {2, 1, -1, 0,  1, 2, /* head 0: W_uk, then W_uv */
                                   0, 1, 1,  -2, 5, 1 /* head 1 */};
static const float by_hand_mix[] = {1, 1, 1, -1};
static const float by_hand_y[] = {9,    -3,    /* 3 + 6 and 3 - 6: token 1 sees only itself */
                                  4.8f, -5.2f, /* -1/5 + 5 */
                                  6,    -2 /* 2 + 4 */};

static Mla by_hand_weights(Context *ctx) {
    DType d = ctx->dtype;
    return (Mla){.q_proj = tensor_copy_in(ctx, "q", d, by_hand_q, SHAPE(4, 2)),
                 .kv_a_proj = tensor_copy_in(ctx, "kv_a", d, by_hand_one, SHAPE(2, 2)),
                 .kv_a_layernorm = tensor_copy_in(ctx, "norm", d, by_hand_norm, SHAPE(2)),
                 .kv_b_proj = tensor_copy_in(ctx, "kv_b", d, by_hand_kv, SHAPE(6, 2)),
                 .o_proj = tensor_copy_in(ctx, "o", d, by_hand_mix, SHAPE(2, 2))};
}

/* F32: a score is rounded some ten times, and e^score carries it on. BF16: W_q's sqrt(2) ln 2 is
 * rounded to 2^-9, a score of 4 passes on four times that, and so do o and y. */
static double by_hand_tolerance(DType dtype) { return dtype == F32 ? 1e-5 : 3e-2; }

CONTEXT_TEST(by_hand, naive) {
    Mla w = by_hand_weights(&ctx);
    Tensor *x = tensor_copy_in(&ctx, "x", dtype, by_hand_x, SHAPE(1, 3, 2));
    Tensor *y = mla_forward(&ctx, x, &w, &by_hand_cfg, NULL, NULL, NULL, MLA_NAIVE, (Residual){0});
    check_tensor(&ctx, "y", y, by_hand_y, by_hand_tolerance(dtype));
}

/* Token after token, from a cache that keeps two numbers of each. */
CONTEXT_TEST(by_hand, absorbed) {
    Pages pages;
    LatentCache cache;
    Mla w = by_hand_weights(&ctx);
    check_ok(pages_init(&pages, &ctx, 1, 3, 0, &err), &err);
    check_ok(latent_cache_init(&cache, &ctx, &pages, 2, &err), &err);
    for (int t = 0; t < 3; t++) {
        Tensor *x = tensor_copy_in(&ctx, "x", dtype, by_hand_x + 2 * t, SHAPE(1, 1, 2));
        check_ok(pages_begin(&pages, 1, &err), &err);
        Tensor *y =
            mla_forward(&ctx, x, &w, &by_hand_cfg, NULL, NULL, &cache, MLA_ABSORBED, (Residual){0});
        check_tensor(&ctx, "y", y, by_hand_y + 2 * t, by_hand_tolerance(dtype));
    }
    pages_free(&pages);
}
