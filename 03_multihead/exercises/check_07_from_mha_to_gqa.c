/*
 * A model whose key heads are equal within each group loses nothing by pooling; and a mean is a
 * mean.
 */
#include "03_multihead/multihead.h"

#include "common/program/testing.h"

#include <stdlib.h>

void pool_heads(float *narrow, const float *wide, int H, int H_kv, int D, int hidden);

enum { HIDDEN = 20, H = 6, H_KV = 2, D = 5, HEAD = D * HIDDEN };

Test(pool_heads, means) {
    float wide[H * HEAD], narrow[H_KV * HEAD];
    for (int i = 0; i < H * HEAD; i++) wide[i] = rng_normal(1, 1, (uint64_t)i);
    pool_heads(narrow, wide, H, H_KV, D, HIDDEN);
    float expected[H_KV * HEAD];
    for (int i = 0; i < H_KV * HEAD; i++) {
        int first = i / HEAD * (H / H_KV) * HEAD + i % HEAD;
        expected[i] = (wide[first] + wide[first + HEAD] + wide[first + 2 * HEAD]) / 3;
    }
    check_close("means", narrow, expected, H_KV * HEAD, 1e-6); /* F32, sums of 3 */
}

Test(pool_heads, nothing_is_lost_where_heads_are_equal) {
    Context ctx = test_context(CPU, F32);
    Multihead mha = {0}, gqa = {0};
    mha.q_proj = gqa.q_proj = test_normal(&ctx, "q", 1, SHAPE(H * D, HIDDEN));
    mha.o_proj = gqa.o_proj = test_normal(&ctx, "o", 2, SHAPE(HIDDEN, H * D));
    Tensor **wide[] = {&mha.k_proj, &mha.v_proj}, **narrow[] = {&gqa.k_proj, &gqa.v_proj};
    for (int i = 0; i < 2; i++) {
        *wide[i] = test_normal(&ctx, "wide", 3 + (uint64_t)i, SHAPE(H * D, HIDDEN));
        *narrow[i] = tensor_new(&ctx, "narrow", F32, SHAPE(H_KV * D, HIDDEN));
        float *rows = (*wide[i])->data;
        for (int j = 0; j < H * HEAD; j++) {
            rows[j] *= 0.2f;                                     /* scores of order 1 */
            if (j / HEAD % (H / H_KV)) rows[j] = rows[j - HEAD]; /* copies of the group's first */
        }
        pool_heads((*narrow[i])->data, rows, H, H_KV, D, HIDDEN);
    }
    Tensor *x = test_normal(&ctx, "x", 5, SHAPE(1, 9, HIDDEN));
    MultiheadConfig many = {HIDDEN, H, H, D, false}, few = {HIDDEN, H, H_KV, D, false};
    float *expected =
        test_values(&ctx, multihead_forward(&ctx, x, &mha, &many, NULL, (Residual){0}));
    check_tensor(&ctx, "pooled", multihead_forward(&ctx, x, &gqa, &few, NULL, (Residual){0}),
                 expected, 1e-5);
    free(expected);
    context_free(&ctx);
}
