/* The lesson's numbers: three tokens, four experts, top 2, and one update of the bias. */
#include "05_moe/moe.h"

#include "common/program/testing.h"

enum { N = 3, E = 4, K = 2 };

/* The choices and weights of the three tokens, and the load, must be these. */
static Dispatch check_choice(Context *ctx, Tensor *logits, const Tensor *bias,
                             const int32_t *indices, const float *weights, const int32_t *load) {
    RouterConfig cfg = moe_config(1, 1, E, K).router; /* sigmoid, bias, norm_topk_prob */
    Routing r = router_choose(ctx, logits, bias, NULL, &cfg);
    int32_t chosen[N * K], counts[E];
    tensor_download_ints(ctx, chosen, r.indices);
    cr_assert_arr_eq(chosen, indices, sizeof chosen);
    check_tensor(ctx, "weights", r.weights, weights, 1e-6); /* ln 3 and ln 9 are rounded */
    Dispatch plan = dispatch_plan(ctx, r.indices, E, 0);
    tensor_download_ints(ctx, counts, plan.counts);
    cr_assert_arr_eq(counts, load, sizeof counts);
    return plan;
}

/* sigmoid(ln 9), (ln 3), (0), (-ln 3), (-ln 9) are 0.9, 0.75, 0.5, 0.25 and 0.1 */
CONTEXT_TEST(lesson, three_tokens_by_hand) {
    static const float ln3 = 1.09861229f, ln9 = 2.19722458f;
    static const float z[N * E] = {ln3, 0, -ln3, -ln9, ln9, 0, ln3, -ln9, 0, -ln3, -ln9, ln3};
    static const int32_t first[N * K] = {0, 1, 0, 2, 3, 0}, crowded[E] = {3, 1, 1, 1};
    static const float weights[N * K] = {3 / 5.f, 2 / 5.f, 6 / 11.f, 5 / 11.f, 3 / 5.f, 2 / 5.f};
    static const int32_t rows[N * K] = {0, 3, 1, 4, 5, 2}, offsets[E + 1] = {0, 3, 4, 5, 6};
    static const float moved[E] = {-0.15f, 0.15f, 0.15f, 0.15f};
    static const int32_t second[N * K] = {1, 0, 2, 0, 3, 1}, better[E] = {2, 2, 1, 1};
    static const float after[N * K] = {2 / 5.f, 3 / 5.f, 5 / 11.f, 6 / 11.f, 3 / 4.f, 1 / 4.f};
    Tensor *logits = tensor_copy_in(&ctx, "logits", F32, z, SHAPE(N, E));
    Tensor *bias = tensor_copy_in(&ctx, "bias", F32, (float[E]){0}, SHAPE(E));
    Tensor *load = tensor_copy_in(&ctx, "load", I32, (int32_t[E]){0}, SHAPE(E));

    Dispatch plan = check_choice(&ctx, logits, bias, first, weights, crowded);
    int32_t got[N * K];
    tensor_download_ints(&ctx, got, plan.row_of_slot);
    cr_assert_arr_eq(got, rows, sizeof rows);
    tensor_download_ints(&ctx, got, plan.offsets);
    cr_assert_arr_eq(got, offsets, sizeof offsets);

    balance_count(&ctx, load, plan.counts);
    balance_update_bias(&ctx, bias, load, 0.15f); /* expert 0 has too much, all others too little */
    check_tensor(&ctx, "bias", bias, moved, 0);
    check_choice(&ctx, logits, bias, second, after, better);
}
