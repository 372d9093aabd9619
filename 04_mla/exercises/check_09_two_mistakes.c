/* The loops against the module, at sizes that tell every index from every other. */
#include "04_mla/exercises/plain_mla.h"

#include "common/program/testing.h"

/* size: of the numbers in x */
static void compare(int T, int H, int rank, int nope, int rope, int v, float size) {
    enum { HIDDEN = 24 };
    Context ctx = test_context(CPU, F32);
    MlaConfig cfg = {.hidden_size = HIDDEN,
                     .num_attention_heads = H,
                     .kv_lora_rank = rank,
                     .qk_nope_head_dim = nope,
                     .qk_rope_head_dim = rope,
                     .v_head_dim = v};
    Mla w = {.q_proj = test_normal(&ctx, "q", 1, SHAPE(H * (nope + rope), HIDDEN)),
             .kv_a_proj = test_normal(&ctx, "kv_a", 2, SHAPE(rank + rope, HIDDEN)),
             .kv_a_layernorm = test_normal(&ctx, "norm", 3, SHAPE(rank)),
             .kv_b_proj = test_normal(&ctx, "kv_b", 4, SHAPE(H * (nope + v), rank)),
             .o_proj = test_normal(&ctx, "o", 5, SHAPE(HIDDEN, H * v))};
    Tensor *x = test_normal(&ctx, "x", 6, SHAPE(1, T, HIDDEN));
    float *const rows = x->data;
    for (int64_t i = 0; i < tensor_count(x); i++) rows[i] *= size;
    float *expected = test_values(
        &ctx, mla_forward(&ctx, x, &w, &cfg, NULL, NULL, NULL, MLA_NAIVE, (Residual){0}));
    Tensor *y = tensor_new(&ctx, "y", F32, SHAPE(1, T, HIDDEN));
    test_poison(&ctx, y);
    PlainWeights plain = {w.q_proj->data, w.kv_a_proj->data, w.kv_a_layernorm->data,
                          w.kv_b_proj->data, w.o_proj->data};
    plain_mla(y->data, x->data, plain, &cfg, T);
    check_tensor(&ctx, "y", y, expected, 1e-5); /* F32, sums of up to 40 and an exponential */
    free(expected);
    context_free(&ctx);
}

/* Scores of order 1: with larger ones a softmax is nearly a maximum, and scales hardly show. */
Test(two_mistakes, no_part_for_positions) { compare(9, 3, 7, 5, 0, 4, 0.1f); }
Test(two_mistakes, with_a_part_for_positions) {
    compare(1, 2, 6, 5, 2, 3, 0.1f);
    compare(9, 3, 7, 5, 4, 6, 0.1f);
    compare(33, 2, 16, 8, 6, 5, 0.1f);
}
/* And of hundreds, where the maximum must have been subtracted. */
Test(two_mistakes, large_scores) { compare(33, 2, 16, 8, 6, 5, 30.0f); }
