/*
 * Every rung of the grouped product on CUDA against the CPU's, on sizes around their tiles. (The
 * one in use is tested with all others' cases in test_grouped.c.)
 */
#include "05_moe/grouped_rungs.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>

#ifdef WITH_CUDA
typedef struct Rung {
    const char *name;
    int (*available)(Gpu *, DType, GroupedShape); /* NULL: always */
    __typeof__(grouped_forward_cuda) *forward;
    __typeof__(grouped_swiglu_forward_cuda) *swiglu;
    __typeof__(grouped_backward_input_cuda) *input;
    __typeof__(grouped_backward_weight_cuda) *weight;
} Rung;

static const Rung rungs[] = {
    {"plain", NULL, grouped_forward_plain_cuda, grouped_swiglu_forward_plain_cuda,
     grouped_backward_input_plain_cuda, grouped_backward_weight_plain_cuda},
    {"mma", grouped_mma_available, grouped_forward_mma_cuda, grouped_swiglu_forward_mma_cuda,
     grouped_backward_input_mma_cuda, grouped_backward_weight_mma_cuda},
    {"hopper", grouped_hopper_available, grouped_forward_hopper_cuda,
     grouped_swiglu_forward_hopper_cuda, grouped_backward_input_hopper_cuda,
     grouped_backward_weight_hopper_cuda},
};

/* Rows of the experts, over and over: none, one, around 64, 128 and 256, and more than one tile. */
static const int rows_of[] = {0, 1, 63, 64, 65, 127, 129, 0, 255, 257, 31, 270, 520, 0};
static const struct {
    int64_t in, out;
    int experts, spare, times; /* times: so many times rows_of. With many rows for few experts dW is
                                  summed in parts */
} sizes[] = {{64, 128, 14, 0, 1}, {136, 264, 14, 70, 1}, {8, 8, 9, 5, 1},
             {33, 31, 7, 3, 1},   {72, 520, 28, 1, 1},   {40, 72, 9, 2, 13}};
enum { SIZES = sizeof sizes / sizeof *sizes, KINDS = sizeof rows_of / sizeof *rows_of };

typedef struct Setup {
    GroupedShape shape;
    int32_t *host_offsets;
    const int32_t *offsets;
    Tensor *x, *w, *w2, *dy, *dy2, *y, *g, *u, *dx, *dw;
    float *want_y, *want_h, *want_g, *want_u, *want_dx, *want_dx2, *want_dw;
} Setup;

static float *zeros(int64_t n) { return calloc((size_t)n + 1, sizeof(float)); }

/* Tensors on the GPU, NaN in rows that nobody owns, and what the CPU makes of them. */
static Setup setup(Context *ctx, int size) {
    Setup s = {.shape = {.in = sizes[size].in, .out = sizes[size].out}};
    int64_t E = s.shape.experts = sizes[size].experts, in = s.shape.in, out = s.shape.out;
    int32_t *offsets = s.host_offsets = calloc((size_t)E + 1, sizeof *offsets);
    for (int e = 0; e < E; e++)
        offsets[e + 1] = offsets[e] + rows_of[e % KINDS] * sizes[size].times;
    int64_t used = offsets[E], R = s.shape.rows = used + sizes[size].spare;
    s.offsets = tensor_copy_in(ctx, "offsets", I32, offsets, SHAPE(E + 1))->data;
    s.x = test_normal(ctx, "x", 1, SHAPE(R, in)), s.dy = test_normal(ctx, "dy", 2, SHAPE(R, out));
    s.dy2 = test_normal(ctx, "dy2", 5, SHAPE(R, out));
    s.w = test_normal(ctx, "w", 3, SHAPE(E, out, in));
    s.w2 = test_normal(ctx, "w2", 4, SHAPE(E, out, in));
    s.y = tensor_new(ctx, "y", ctx->dtype, SHAPE(R, out));
    s.g = tensor_new(ctx, "g", ctx->dtype, SHAPE(R, out));
    s.u = tensor_new(ctx, "u", ctx->dtype, SHAPE(R, out));
    s.dx = tensor_new(ctx, "dx", ctx->dtype, SHAPE(R, in));
    s.dw = tensor_new(ctx, "dw", F32, SHAPE(E, out, in));
    float *x = test_values(ctx, s.x), *w = test_values(ctx, s.w), *w2 = test_values(ctx, s.w2),
          *dy = test_values(ctx, s.dy), *dy2 = test_values(ctx, s.dy2);
    s.want_y = zeros(R * out), s.want_h = zeros(R * out), s.want_g = zeros(R * out);
    s.want_u = zeros(R * out), s.want_dx = zeros(R * in), s.want_dx2 = zeros(R * in),
    s.want_dw = zeros(E * out * in);
    grouped_forward_cpu(s.want_y, x, w, offsets, s.shape);
    grouped_swiglu_forward_cpu(s.want_h, s.want_g, s.want_u, x, w, w2, offsets, s.shape);
    grouped_backward_input_cpu(s.want_dx, 0, dy, w, offsets, s.shape);
    grouped_swiglu_backward_input_cpu(s.want_dx2, 0, dy, w, dy2, w2, offsets, s.shape);
    grouped_backward_weight_cpu(s.want_dw, 0, dy, x, offsets, s.shape);
    size_t number = dtype_size(ctx->dtype), spare = (size_t)(R - used);
    gpu_set(ctx->gpu, (char *)s.x->data + (size_t)(used * in) * number, 0xFF,
            spare * (size_t)in * number);
    gpu_set(ctx->gpu, (char *)s.dy->data + (size_t)(used * out) * number, 0xFF,
            spare * (size_t)out * number);
    gpu_set(ctx->gpu, (char *)s.dy2->data + (size_t)(used * out) * number, 0xFF,
            spare * (size_t)out * number);
    return s;
}

/* Rows that somebody owns are right, the others as they were: poisoned. */
static void check_rows(Context *ctx, const char *what, const Setup *s, const Tensor *y,
                       const float *want, double tolerance) {
    int64_t used = s->host_offsets[s->shape.experts] * y->shape[1];
    float *got = test_values(ctx, y);
    check_close(what, got, want, used, tolerance);
    for (int64_t i = used; i < s->shape.rows * y->shape[1]; i++)
        cr_assert(isnan(got[i]), "%s: a row past the last expert's was written", what);
}

static void scale(float *x, int64_t n, float by) {
    for (int64_t i = 0; i < n; i++) x[i] *= by;
}

/* Sums of up to 700 products in another order; BF16 results are rounded once, added ones twice. */
static void check_rung(Context *ctx, const Rung *r, Setup *s) {
    Gpu *gpu = ctx->gpu;
    DType dtype = ctx->dtype;
    GroupedShape shape = s->shape;
    double close = 4 * tolerance_of(dtype, shape.in), close_dw = 8 * tolerance_of(F32, shape.rows);
    test_poison(ctx, s->y);
    r->forward(gpu, dtype, s->y->data, s->x->data, s->w->data, s->offsets, shape);
    check_rows(ctx, r->name, s, s->y, s->want_y, close);

    test_poison(ctx, s->y), test_poison(ctx, s->g), test_poison(ctx, s->u);
    r->swiglu(gpu, dtype, s->y->data, s->g->data, s->u->data, s->x->data, s->w->data, s->w2->data,
              s->offsets, shape);
    check_rows(ctx, r->name, s, s->y, s->want_h, 2 * close);
    check_rows(ctx, r->name, s, s->g, s->want_g, close);
    check_rows(ctx, r->name, s, s->u, s->want_u, close);
    /* The other way round: up's weights lie before gate's in memory. Without g and u. */
    r->swiglu(gpu, dtype, s->y->data, NULL, NULL, s->x->data, s->w2->data, s->w->data, s->offsets,
              shape);
    int64_t n = shape.rows * shape.out;
    float *h = zeros(n);
    for (int64_t i = 0; i < n; i++)
        h[i] = (float)(s->want_u[i] / (1 + exp(-(double)s->want_u[i])) * s->want_g[i]);
    check_rows(ctx, r->name, s, s->y, h, 2 * close);

    int64_t dx_count = shape.rows * shape.in, dw_count = tensor_count(s->dw);
    test_poison(ctx, s->dx), test_poison(ctx, s->dw);
    for (int add = 0; add < 2; add++) { /* the second time twice as much */
        r->input(gpu, dtype, s->dx->data, add, s->dy->data, s->w->data, s->offsets, shape);
        r->weight(gpu, dtype, s->dw->data, add, s->dy->data, s->x->data, s->offsets, shape);
        scale(s->want_dx, dx_count, add ? 2 : 1), scale(s->want_dw, dw_count, add ? 2 : 1);
        check_tensor(ctx, r->name, s->dx, s->want_dx, 2 * 4 * tolerance_of(dtype, shape.out));
        check_tensor(ctx, r->name, s->dw, s->want_dw, close_dw);
    }
    scale(s->want_dx, dx_count, 0.5f), scale(s->want_dw, dw_count, 0.5f);
    if (r->input != grouped_backward_input_hopper_cuda) return;
    test_poison(ctx, s->dx);
    for (int add = 0; add < 2; add++) {
        grouped_swiglu_backward_input_hopper_cuda(gpu, dtype, s->dx->data, add, s->dy->data,
                                                  s->w->data, s->dy2->data, s->w2->data, s->offsets,
                                                  shape);
        scale(s->want_dx2, dx_count, add ? 2 : 1);
        check_tensor(ctx, r->name, s->dx, s->want_dx2, 2 * 4 * tolerance_of(dtype, 2 * shape.out));
    }
}

static void check_rungs(DType dtype) {
    for (int i = 0; i < SIZES; i++) {
        Context ctx = test_context(CUDA, dtype);
        Setup s = setup(&ctx, i);
        for (size_t r = 0; r < sizeof rungs / sizeof *rungs; r++)
            if (!rungs[r].available || rungs[r].available(ctx.gpu, dtype, s.shape))
                check_rung(&ctx, &rungs[r], &s);
        context_free(&ctx);
    }
}

CUDA_TEST(grouped_rungs, every_rung) { check_rungs(dtype); }

/* The rungs that want offsets on the host. cuBLASLt's BF16 products want multiples of 8. */
static void check_blas(DType dtype) {
    for (int i = 0; i < SIZES; i++) {
        if (dtype == BF16 && (sizes[i].in % 8 || sizes[i].out % 8)) continue;
        Context ctx = test_context(CUDA, dtype);
        Setup s = setup(&ctx, i);
        double close = 4 * tolerance_of(dtype, s.shape.in);
        int32_t *tokens = malloc((size_t)s.shape.rows * sizeof *tokens); /* as they stand */
        for (int64_t row = 0; row < s.shape.rows; row++) tokens[row] = (int32_t)row;
        Tensor *token_of_row = tensor_copy_in(&ctx, "tokens", I32, tokens, SHAPE(s.shape.rows));
        Tensor *gathered = tensor_new(&ctx, "gathered", dtype, SHAPE(s.shape.rows, s.shape.in));
        test_poison(&ctx, s.y);
        grouped_forward_gather_cuda(ctx.gpu, dtype, s.y->data, gathered->data, s.x->data,
                                    token_of_row->data, s.w->data, s.host_offsets, s.shape);
        check_rows(&ctx, "gather", &s, s.y, s.want_y, close);
        test_poison(&ctx, s.dx), test_poison(&ctx, s.dw);
        grouped_backward_input_blas_cuda(ctx.gpu, dtype, s.dx->data, 0, s.dy->data, s.w->data,
                                         s.host_offsets, s.shape);
        grouped_backward_weight_blas_cuda(ctx.gpu, dtype, s.dw->data, 0, s.dy->data, s.x->data,
                                          s.host_offsets, s.shape);
        check_tensor(&ctx, "blas dx", s.dx, s.want_dx, 4 * tolerance_of(dtype, s.shape.out));
        check_tensor(&ctx, "blas dw", s.dw, s.want_dw, 8 * tolerance_of(F32, s.shape.rows));
        context_free(&ctx);
    }
}

CUDA_TEST(grouped_rungs, gather_and_blas) { check_blas(dtype); }
#endif
