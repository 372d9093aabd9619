/*
 * The rotation on the tape, and the map between the layouts.
 *
 * A rotation is linear and orthogonal, so the gradient of sum(c . R x) with respect to x is R^T c:
 * numbers that the forward kernel, run backwards, must give. Finite differences through attention
 * prove that the in-place rotation composes with the operations around it.
 */
#include "07_rope/rope.h"

#include "02_causal/causal.h"
#include "common/program/testing.h"

#include <math.h>
#include <string.h>

static double rotation_tolerance(DType dtype) { return 2 * tolerance_of(dtype, 4); }

static Rope rope_new(Context *ctx, int dim, RopeLayout layout) {
    RopeConfig cfg = rope_config(dim, 64);
    Rope rope;
    cfg.layout = layout;
    check_ok(rope_init(&rope, ctx, &cfg, &err), &err);
    return rope;
}

/* ---- gradients ---- */

enum { B = 2, T = 9, H = 3, DIM = 6, OFFSET = 5, D = OFFSET + DIM + 2, ROWS = B * T * H * D };

/* What c becomes when it is turned back: the CPU kernel, which other tests prove. */
static float *turned_back(const Rope *rope, const float *c, const int32_t *positions, int inverse) {
    float *g = test_floats(ROWS);
    memcpy(g, c, ROWS * sizeof *g);
    Context cpu = test_context(CPU, F32);
    Rope on_cpu = rope_new(&cpu, DIM, rope->cfg.layout);
    rope_rotate_cpu((RopePart){g, H, D, OFFSET}, (RopePart){0}, on_cpu.cos, on_cpu.sin, positions,
                    B * T, DIM, 64, rope->cfg.layout, inverse);
    return g;
}

/* Which of q and k reach the loss. */
typedef enum Reach { BOTH, ONLY_Q, ONLY_K } Reach;

/* loss = sum(c . (rotated q + rotated k)), or of one of them. */
static void check_backward(Device device, DType dtype, RopeLayout layout, Reach reach) {
    Context ctx = test_context(device, dtype);
    Rope rope = rope_new(&ctx, DIM, layout);
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(B, T, H, D));
    Tensor *k = test_normal(&ctx, "k", 2, SHAPE(B, T, H, D));
    int32_t list[B * T];
    for (int i = 0; i < B * T; i++) list[i] = i * 29 % 64;
    Tensor *positions = tensor_copy_in(&ctx, "positions", I32, list, SHAPE(B, T));
    Tensor *rounded = test_normal(&ctx, "c", 3, SHAPE(B, T, H, D)); /* what ctx's dtype can hold */
    float *c_values = test_values(&ctx, rounded);
    Tensor *c = tensor_copy_in(&ctx, "c", F32, c_values, q->shape, q->ndim);

    ctx.recording = true;
    rope_rotate(&ctx, &rope, q, OFFSET, k, OFFSET, positions);
    Tensor *seen = reach == BOTH ? add(&ctx, q, k) : reach == ONLY_Q ? q : k;
    tape_backward(&ctx, weighted_sum(&ctx, seen, c));

    float *expected = turned_back(&rope, c_values, list, 1);
    cr_assert_eq(q->has_grad, reach != ONLY_K);
    cr_assert_eq(k->has_grad, reach != ONLY_Q);
    if (q->has_grad)
        check_tensor(&ctx, "gradient of q", q->grad, expected, rotation_tolerance(dtype));
    if (k->has_grad)
        check_tensor(&ctx, "gradient of k", k->grad, expected, rotation_tolerance(dtype));
}

DEVICE_TEST(backward, turns_the_gradients_back) {
    for (int layout = 0; layout < 2; layout++) check_backward(device, dtype, layout, BOTH);
}

DEVICE_TEST(backward, q_alone_may_have_a_gradient) {
    for (int layout = 0; layout < 2; layout++) check_backward(device, dtype, layout, ONLY_Q);
}

DEVICE_TEST(backward, k_alone_may_have_a_gradient) {
    for (int layout = 0; layout < 2; layout++) check_backward(device, dtype, layout, ONLY_K);
}

/* (R x) . y = x . (R^T y), for the table's attention factor too: it scales both ways. */
CONTEXT_TEST(backward, is_the_adjoint_with_an_attention_factor) {
    RopeConfig cfg = rope_config(DIM, 64);
    cfg.rope_type = ROPE_YARN;
    cfg.factor = 4, cfg.original_max_position_embeddings = 16, cfg.attention_factor = 1.5;
    Rope rope;
    check_ok(rope_init(&rope, &ctx, &cfg, &err), &err);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(B, T, H, DIM));
    Tensor *y = test_normal(&ctx, "y", 2, SHAPE(B, T, H, DIM));
    float *x0 = test_values(&ctx, x), *y0 = test_values(&ctx, y);
    Tensor *positions = positions_from(&ctx, B, T, 30);
    ctx.recording = true;
    rope_rotate(&ctx, &rope, x, 0, NULL, 0, positions);
    float *x1 = test_values(&ctx, x);
    tape_backward(&ctx,
                  weighted_sum(&ctx, x, tensor_copy_in(&ctx, "y", F32, y0, y->shape, y->ndim)));
    float *back = test_gradient(&ctx, x);
    double forward = 0, adjoint = 0, size = 0, turned = 0, was = 0;
    for (int i = 0; i < B * T * H * DIM; i++) {
        forward += (double)x1[i] * y0[i];
        adjoint += (double)x0[i] * back[i];
        size += fabs(x1[i] * y0[i]);
        turned += x1[i] * x1[i];
        was += x0[i] * x0[i];
    }
    cr_assert(fabs(forward - adjoint) <= size * rotation_tolerance(dtype), "%.9g against %.9g",
              forward, adjoint);
    cr_assert(fabs(turned / was / (1.5 * 1.5) - 1) <= 4 * rotation_tolerance(dtype),
              "the length grew by %.9g and not by 1.5", sqrt(turned / was));
}

/* ---- finite differences, through attention ---- */

typedef struct Attention {
    const Rope *rope;
    Tensor *qkv, *positions, *c;
} Attention;

enum { TOKENS = 5, HEADS = 2, WIDTH = 8 };

/* q (two heads) and k (one) are copied out of one tensor, rotated, and meet in attention. */
static Tensor *attention_loss(Context *ctx, void *user) {
    Attention *a = user;
    int64_t wide = HEADS * WIDTH;
    Tensor *q = reshape(ctx, slice(ctx, a->qkv, 0, wide), SHAPE(1, TOKENS, HEADS, WIDTH));
    Tensor *k = reshape(ctx, slice(ctx, a->qkv, wide, WIDTH), SHAPE(1, TOKENS, 1, WIDTH));
    Tensor *v = reshape(ctx, slice(ctx, a->qkv, wide + WIDTH, WIDTH), SHAPE(1, TOKENS, 1, WIDTH));
    rope_rotate(ctx, a->rope, q, 2, k, 2, a->positions);
    return weighted_sum(ctx, causal_attention(ctx, q, k, v, 0.0f), a->c);
}

Test(backward, agrees_with_finite_differences) {
    for (int layout = 0; layout < 2; layout++) {
        Context ctx = test_context(CPU, F32);
        Rope rope = rope_new(&ctx, 6, layout);
        Attention a = {.rope = &rope};
        a.qkv = test_normal(&ctx, "qkv", 1, SHAPE(1, TOKENS, (HEADS + 2) * WIDTH));
        a.c = test_normal(&ctx, "c", 2, SHAPE(1, TOKENS, HEADS, WIDTH));
        a.positions = positions_from(&ctx, 1, TOKENS, 7);
        /* Softmax is curved: the step's square, 1e-4, times a third derivative of order 10. */
        check_gradients(&ctx, "rotated attention", attention_loss, &a, &a.qkv, 1, 160, 1e-2, 1e-2);
        context_free(&ctx);
    }
}

/* ---- the two layouts ---- */

/* x [T, IN] times w [HEADS * WIDTH, IN]: then rotated, the last 6 of each head. */
static float *projected_and_turned(Context *ctx, const Tensor *x, const float *w, int heads,
                                   RopeLayout layout) {
    Rope rope = rope_new(ctx, 6, layout);
    int64_t in = tensor_dim(x, 1);
    Tensor *weight = tensor_copy_in(ctx, "w", F32, w, SHAPE(heads * WIDTH, in));
    Tensor *y =
        reshape(ctx, linear(ctx, (Tensor *)x, weight, NULL), SHAPE(1, TOKENS, heads, WIDTH));
    rope_rotate(ctx, &rope, y, WIDTH - 6, NULL, 0, positions_from(ctx, 1, TOKENS, 3));
    return test_values(ctx, y);
}

CPU_TEST(layout, converted_weights_give_the_same_scores) {
    enum { IN = 10 };
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(TOKENS, IN));
    float *wq = test_values(&ctx, test_normal(&ctx, "wq", 2, SHAPE(HEADS * WIDTH, IN)));
    float *wk = test_values(&ctx, test_normal(&ctx, "wk", 3, SHAPE(WIDTH, IN)));
    float scores[2][TOKENS * HEADS * TOKENS];
    for (int layout = 0; layout < 2; layout++) { /* interleaved as they are, then as halves */
        if (layout == ROPE_HALVES) {
            rope_layout_rows(wq, HEADS, WIDTH, 6, IN, ROPE_INTERLEAVED, ROPE_HALVES);
            rope_layout_rows(wk, 1, WIDTH, 6, IN, ROPE_INTERLEAVED, ROPE_HALVES);
        }
        float *q = projected_and_turned(&ctx, x, wq, HEADS, layout);
        float *k = projected_and_turned(&ctx, x, wk, 1, layout), *score = scores[layout];
        for (int t = 0; t < TOKENS * HEADS; t++)
            for (int s = 0; s < TOKENS; s++, score++) {
                *score = 0;
                for (int j = 0; j < WIDTH; j++) *score += q[t * WIDTH + j] * k[s * WIDTH + j];
            }
    }
    /* The same products in another order, of numbers that are themselves sums of IN products. */
    check_close("scores", scores[1], scores[0], TOKENS * HEADS * TOKENS, 8 * tolerance_of(F32, IN));
}

Test(layout, there_and_back_is_nothing) {
    enum { HEADS_ = 3, HEAD_DIM = 11, IN = 4, COUNT = HEADS_ * HEAD_DIM * IN };
    float w[COUNT], before[COUNT];
    for (int i = 0; i < COUNT; i++) before[i] = w[i] = (float)i;
    rope_layout_rows(w, HEADS_, HEAD_DIM, 8, IN, ROPE_HALVES, ROPE_HALVES);
    check_close("the same layout", w, before, COUNT, 0);
    rope_layout_rows(w, HEADS_, HEAD_DIM, 8, IN, ROPE_INTERLEAVED, ROPE_HALVES);
    /* Head 0's rotated rows are 3 .. 10: row 3 + 1 of the halves was row 3 + 2. */
    cr_assert_eq(w[4 * IN], before[5 * IN]);
    cr_assert_eq(w[7 * IN], before[4 * IN]);
    check_close("the rows before", w, before, 3 * IN, 0);
    rope_layout_rows(w, HEADS_, HEAD_DIM, 8, IN, ROPE_HALVES, ROPE_INTERLEAVED);
    check_close("there and back", w, before, COUNT, 0);
}
