/* The numbers against the project's kernels and its module. */
#include "04_mla/mla.h"

#include <criterion/criterion.h>
#include <math.h>

extern const double absorbed0[2], absorbed1[2], scores0[2], latent0[2], head0, head1, turned0[2];

static const MlaShape shape = {.heads = 2, .nope = 2, .v = 1, .kv_lora_rank = 2};
static const float kv_b[] = {2, 1, -1, 0, 1, 2, 0, 1, 1, -2, 5, 1};

static void check(const char *name, double answer, double truth) {
    cr_assert(fabs(answer - truth) < 1e-4, "%s is not %g", name, answer);
}

Test(absorb_by_hand, queries_and_scores) {
    const float q[] = {-1, -1, -2, -1}, turned[] = {1, -1, 0, 0};
    float absorbed[4];
    mla_absorb_query_cpu(absorbed, q, kv_b, 1, shape);
    for (int i = 0; i < 2; i++) {
        check("absorbed0", absorbed0[i], absorbed[i]);
        check("absorbed1", absorbed1[i], absorbed[2 + i]);
    }
    check("scores0", scores0[0], absorbed[0] + absorbed[1]);
    check("scores0", scores0[1], absorbed[0] - absorbed[1]);
    mla_absorb_query_cpu(absorbed, turned, kv_b, 1, shape);
    for (int i = 0; i < 2; i++) check("turned0", turned0[i], absorbed[i]);
}

/* The module with the lesson's weights; o_proj leaves the heads as they are. */
Test(absorb_by_hand, heads) {
    const float f = sqrtf(2.0f) * logf(2.0f); /* cancels the scale, and makes e^ a 2^ */
    const float x[] = {1, 1, 1, -1, -1, 1}, one[] = {1, 0, 0, 1}, norm[] = {1, 1};
    const float q[] = {-f, 0, 0, f, -2 * f, 0, 0, f};
    const MlaConfig cfg = {.hidden_size = 2,
                           .num_attention_heads = 2,
                           .kv_lora_rank = 2,
                           .qk_nope_head_dim = 2,
                           .v_head_dim = 1};
    Context ctx;
    Error err;
    cr_assert(context_init(&ctx, CPU, F32, 1, &err) == 0);
    Mla w = {.q_proj = tensor_copy_in(&ctx, "q", F32, q, SHAPE(4, 2)),
             .kv_a_proj = tensor_copy_in(&ctx, "kv_a", F32, one, SHAPE(2, 2)),
             .kv_a_layernorm = tensor_copy_in(&ctx, "norm", F32, norm, SHAPE(2)),
             .kv_b_proj = tensor_copy_in(&ctx, "kv_b", F32, kv_b, SHAPE(6, 2)),
             .o_proj = tensor_copy_in(&ctx, "o", F32, one, SHAPE(2, 2))};
    float y[6];
    Tensor *input = tensor_copy_in(&ctx, "x", F32, x, SHAPE(1, 3, 2));
    tensor_download(&ctx, y,
                    mla_forward(&ctx, input, &w, &cfg, NULL, NULL, NULL, MLA_NAIVE, (Residual){0}));
    check("head0", head0, y[2]);
    check("head1", head1, y[3]);
    /* W_uv latent0 must be head 0's output, and its first number the weights' sum: both are 1 */
    check("latent0", latent0[0] + 2 * latent0[1], y[2]);
    check("latent0", latent0[0], 1);
    context_free(&ctx);
}
