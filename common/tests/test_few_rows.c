/*
 * Linear layers for a few rows against plain loops: as many rows as have kernels of their own and
 * one more, sizes that fit these kernels and sizes that do not.
 */
#include "common/cuda/few_rows.h"
#include "common/tests/test_ops.h"

static const int64_t rows[] = {1, 2, 7, 8, 9, 31, FEW_ROWS, FEW_ROWS + 1};
static const int64_t layers[][2] = {{32, 1}, {64, 16}, {96, 33}, {192, 127}, {544, 48}, {33, 31}};
enum { ROWS = sizeof rows / sizeof *rows, LAYERS = sizeof layers / sizeof *layers };

typedef struct Case {
    Tensor *x, *w, *norm, *bias, *residual;
    int64_t n, in, out;
} Case;

static Case make(Context *ctx, int64_t n, int64_t in, int64_t out) {
    return (Case){.x = test_normal(ctx, "x", 1, SHAPE(n, 1, in)),
                  .w = test_normal(ctx, "w", 2, SHAPE(out, in)),
                  .norm = test_normal(ctx, "norm", 3, SHAPE(in)),
                  .bias = test_normal(ctx, "bias", 4, SHAPE(out)),
                  .residual = test_normal(ctx, "residual", 5, SHAPE(n, 1, out)),
                  .n = n,
                  .in = in,
                  .out = out};
}

/* y = x W^T + bias + residual in double precision; bias and residual may be NULL. */
static float *plain(Context *ctx, const Case *c, const Tensor *x, const Tensor *bias,
                    const Tensor *residual) {
    float *xh = test_values(ctx, x), *wh = test_values(ctx, c->w);
    float *bh = bias ? test_values(ctx, bias) : NULL;
    float *rh = residual ? test_values(ctx, residual) : NULL;
    float *y = test_floats(c->n * c->out);
    linear_reference_cpu(y, rh, xh, wh, bh, c->n, c->in, c->out);
    return y;
}

/* Twice the rounding of such a sum, whose order is the kernel's choice; where a composition rounds
 * between its parts (the norm, the product before the addition), each is one rounding more. */
static double tolerance(DType dtype, int64_t in) { return 3 * tolerance_of(dtype, in); }

DEVICE_TEST(few_rows, linear_agrees_with_plain_loops) {
    for (int i = 0; i < ROWS * LAYERS; i++) {
        Context ctx = test_context(device, dtype);
        Case c = make(&ctx, rows[i % ROWS], layers[i / ROWS][0], layers[i / ROWS][1]);
        float *want = plain(&ctx, &c, c.x, c.bias, NULL);
        check_tensor(&ctx, "linear", linear(&ctx, c.x, c.w, c.bias), want, tolerance(dtype, c.in));
        context_free(&ctx);
    }
}

DEVICE_TEST(few_rows, linear_residual_agrees_with_plain_loops) {
    for (int i = 0; i < ROWS * LAYERS; i++) {
        Context ctx = test_context(device, dtype);
        Case c = make(&ctx, rows[i % ROWS], layers[i / ROWS][0], layers[i / ROWS][1]);
        Tensor *bias = i % 2 ? c.bias : NULL;
        float *want = plain(&ctx, &c, c.x, bias, c.residual);
        check_tensor(&ctx, "linear_residual",
                     linear_residual(&ctx, c.x, c.w, bias, (Residual){.x = c.residual}), want,
                     tolerance(dtype, c.in));
        context_free(&ctx);
    }
}

/* The norm alone is what test_ops.c proves right: here it is the oracle's first half. */
DEVICE_TEST(few_rows, rmsnorm_linear_agrees_with_its_parts) {
    for (int i = 0; i < ROWS * LAYERS; i++) {
        Context ctx = test_context(device, dtype);
        Case c = make(&ctx, rows[i % ROWS], layers[i / ROWS][0], layers[i / ROWS][1]);
        float *want = plain(&ctx, &c, rmsnorm(&ctx, c.x, c.norm, 1e-5f), NULL, NULL);
        check_tensor(&ctx, "rmsnorm_linear", rmsnorm_linear(&ctx, c.x, c.norm, 1e-5f, c.w), want,
                     tolerance(dtype, c.in));
        context_free(&ctx);
    }
}

/* A vocabulary: more tiles than blocks, so that each block takes several. */
CONTEXT_TEST(few_rows, a_block_takes_many_tiles) {
    Case c = make(&ctx, 3, 64, 20011);
    float *want = plain(&ctx, &c, rmsnorm(&ctx, c.x, c.norm, 1e-5f), NULL, NULL);
    check_tensor(&ctx, "logits", rmsnorm_linear(&ctx, c.x, c.norm, 1e-5f, c.w), want,
                 tolerance(dtype, c.in));
}

/* While recording they compose, and the gradient of each part arrives. */
static Tensor *loss_of_both(Context *ctx, void *user) {
    Case *c = user;
    Tensor *y = rmsnorm_linear(ctx, c->x, c->norm, 1e-5f, c->w);
    y = linear_residual(ctx, c->x, c->w, c->bias, (Residual){.x = y});
    return weighted_sum(ctx, y, c->residual);
}

CPU_TEST(few_rows, gradients_agree_with_finite_differences) {
    Case c = make(&ctx, 3, 32, 5);
    Tensor *const inputs[] = {c.x, c.norm, c.w, c.bias};
    check_gradients(&ctx, "few rows", loss_of_both, &c, inputs, 4, 12, 1e-2, 1e-2);
}

#ifdef WITH_CUDA
/* Two products of one x, and a counter that moves on by the way. */
DEVICE_TEST(few_rows, two_products_and_a_counter) {
    if (device == CPU) return; /* a kernel of the GPU alone */
    for (int i = 0; i < ROWS - 1; i++) {
        Context ctx = test_context(device, dtype);
        Case a = make(&ctx, rows[i], 96, 33), b = a;
        int32_t counts[3] = {5, 0, -2};
        b.out = 48, b.w = test_normal(&ctx, "w2", 12, SHAPE(b.out, b.in));
        Tensor *ya = tensor_new(&ctx, "a", dtype, SHAPE(a.n, a.out));
        Tensor *yb = tensor_new(&ctx, "b", dtype, SHAPE(b.n, b.out));
        Tensor *counters = tensor_copy_in(&ctx, "counters", I32, counts, SHAPE(3));
        test_poison(&ctx, ya), test_poison(&ctx, yb);
        FewRowsLinear s = {
            .x = a.x->data,
            .norm = a.norm->data,
            .eps = 1e-5f,
            .rows = a.n,
            .in = a.in,
            .part = {{.y = ya->data, .w = few_rows_weight(a.w), .bias = a.bias->data},
                     {.y = yb->data, .w = few_rows_weight(b.w)}},
            .advance = counters->data,
            .advance_count = 3,
            .advance_by = 4};
        few_rows_linear_cuda(ctx.gpu, dtype, &s);
        Tensor *normed = rmsnorm(&ctx, a.x, a.norm, 1e-5f);
        float *want_a = plain(&ctx, &a, normed, a.bias, NULL);
        float *want_b = plain(&ctx, &b, normed, NULL, NULL);
        check_tensor(&ctx, "first", ya, want_a, tolerance(dtype, a.in));
        check_tensor(&ctx, "second", yb, want_b, tolerance(dtype, b.in));
        tensor_download_ints(&ctx, counts, counters);
        check_all(counts[0] == 9, counts[1] == 4, counts[2] == 2);
        context_free(&ctx);
    }
}
#endif
