/* The numbers against the module itself, which gets the lesson's matrices. */
#include "03_multihead/multihead.h"

#include <criterion/criterion.h>
#include <math.h>

extern const double head0, head1, output0, output1, shared1;

/* Output for the second token; o [4] is the last matrix. */
static void second_token(const float *o, int kv_heads, float y[2]) {
    const float ln2 = 0.693147181f;
    float x[] = {1, 0, 2, 1, 1, 1}, one[] = {1, 0, 0, 1}, keys[] = {ln2, 0, 0, ln2};
    Context ctx;
    Error err;
    cr_assert(context_init(&ctx, CPU, F32, 1, &err) == 0);
    MultiheadConfig cfg = {2, 2, kv_heads, 1, false};
    /* With one key head only the first row of each is used: head 0's. */
    Multihead w = {.q_proj = tensor_copy_in(&ctx, "q", F32, one, SHAPE(2, 2)),
                   .k_proj = tensor_copy_in(&ctx, "k", F32, keys, SHAPE(kv_heads, 2)),
                   .v_proj = tensor_copy_in(&ctx, "v", F32, one, SHAPE(kv_heads, 2)),
                   .o_proj = tensor_copy_in(&ctx, "o", F32, o, SHAPE(2, 2))};
    float all[6];
    Tensor *input = tensor_copy_in(&ctx, "x", F32, x, SHAPE(1, 3, 2));
    tensor_download(&ctx, all, multihead_forward(&ctx, input, &w, &cfg, NULL, (Residual){0}));
    y[0] = all[2];
    y[1] = all[3];
    context_free(&ctx);
}

static void check(const char *name, double answer, double truth) {
    cr_assert(fabs(answer - truth) < 1e-4, "%s is not %g", name, answer);
}

Test(by_hand, two_heads) {
    const float identity[] = {1, 0, 0, 1}, sum_and_difference[] = {1, 1, 1, -1};
    float y[2];
    second_token(identity, 2, y);
    check("head0", head0, y[0]);
    check("head1", head1, y[1]);
    second_token(sum_and_difference, 2, y);
    check("output0", output0, y[0]);
    check("output1", output1, y[1]);
    second_token(identity, 1, y);
    check("shared1", shared1, y[1]);
}
