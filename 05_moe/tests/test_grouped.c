/*
 * The grouped product against plain loops: ragged sizes, experts with none, one, a few or many
 * rows, rows that belong to nobody, gradients that overwrite and that add.
 */
#include "05_moe/grouped.h"

#include "common/program/testing.h"

#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
    int64_t in, out;
    int experts;
    int rows[8]; /* of each expert, over and over */
    int spare;   /* rows past the last expert's */
} Case;

static const Case cases[] = {
    {1, 1, 1, {1, 1, 1, 1, 1, 1, 1, 1}, 0},
    {31, 33, 3, {0, 5, 1}, 2},
    {64, 128, 8, {33, 0, 1, 127, 0, 64, 31, 4}, 5},
    {128, 64, 4, {0, 0, 300, 0}, 0},
    {127, 31, 5, {31, 33, 1, 0, 2}, 1},
    {192, 256, 4, {128, 129, 127, 0}, 7},
    {40, 24, 64, {1, 0, 2, 0, 0, 0, 3, 1}, 0},
    {64, 64, 3, {0, 0, 0}, 4}, /* nobody has a token */
    {32, 600, 2, {700, 20}, 0},
    {513, 33, 3, {5, 65, 160}, 0}, /* sums in two and three parts, on the CPU */
    {1100, 17, 3, {160, 5, 65}, 0},
};
enum { CASES = sizeof cases / sizeof *cases };

/* A case on a device, and the same numbers on the host. */
typedef struct Setup {
    GroupedShape shape;
    int32_t *offsets; /* [E + 1] */
    Tensor *x, *w, *w2, *dy, *offsets_device;
    float *xh, *wh, *w2h, *dyh;
} Setup;

static int rows_of(const Case *c, int e) { return c->rows[e % 8]; }

static Setup setup(Context *ctx, const Case *c) {
    Setup s = {.shape = {.in = c->in, .out = c->out, .experts = c->experts}};
    s.offsets = calloc((size_t)c->experts + 1, sizeof *s.offsets);
    for (int e = 0; e < c->experts; e++) s.offsets[e + 1] = s.offsets[e] + rows_of(c, e);
    s.shape.rows = s.offsets[c->experts] + c->spare;
    s.x = test_normal(ctx, "x", 1, SHAPE(s.shape.rows, c->in));
    s.w = test_normal(ctx, "w", 2, SHAPE(c->experts, c->out, c->in));
    s.w2 = test_normal(ctx, "w2", 3, SHAPE(c->experts, c->out, c->in));
    s.dy = test_normal(ctx, "dy", 4, SHAPE(s.shape.rows, c->out));
    s.offsets_device = tensor_copy_in(ctx, "offsets", I32, s.offsets, SHAPE(c->experts + 1));
    s.xh = test_values(ctx, s.x), s.wh = test_values(ctx, s.w);
    s.w2h = test_values(ctx, s.w2), s.dyh = test_values(ctx, s.dy);
    return s;
}

static float *reference_forward(const Setup *s, const float *w) {
    float *y = test_floats(s->shape.rows * s->shape.out);
    grouped_reference_cpu(y, s->xh, w, s->offsets, s->shape);
    return y;
}

/* The rows that somebody owns must be right; the others must be as they were. */
static void check_rows(Context *ctx, const char *what, const Setup *s, const Tensor *y,
                       const float *want, double tolerance) {
    int64_t used = s->offsets[s->shape.experts], width = y->shape[1];
    float *got = test_values(ctx, y);
    if (used) check_close(what, got, want, used * width, tolerance);
    for (int64_t i = used * width; i < s->shape.rows * width; i++)
        cr_assert(isnan(got[i]), "%s: a row past the last expert's was written", what);
}

/* Sums of up to 1100 products: in F32 a few orders of summation; in BF16 y is rounded once more. */
DEVICE_TEST(grouped, forward_by_plain_loops) {
    for (int k = 0; k < CASES; k++) {
        Context ctx = test_context(device, dtype);
        Setup s = setup(&ctx, &cases[k]);
        Tensor *y = tensor_new(&ctx, "y", dtype, SHAPE(s.shape.rows, s.shape.out));
        test_poison(&ctx, y);
        ON(&ctx, grouped_forward, y->data, s.x->data, s.w->data, s.offsets_device->data, s.shape);
        float *want = reference_forward(&s, s.wh);
        check_rows(&ctx, "y", &s, y, want, 4 * tolerance_of(dtype, s.shape.in));
        context_free(&ctx);
    }
}

/* With g and u kept, and without. BF16: g and u are rounded before or after they meet. */
DEVICE_TEST(grouped, swiglu_by_plain_loops) {
    for (int k = 0; k < CASES; k++) {
        Context ctx = test_context(device, dtype);
        Setup s = setup(&ctx, &cases[k]);
        float *g = reference_forward(&s, s.wh), *u = reference_forward(&s, s.w2h);
        int64_t n = s.shape.rows * s.shape.out;
        float *want = test_floats(n);
        for (int64_t i = 0; i < n; i++) want[i] = (float)(g[i] / (1 + exp(-(double)g[i])) * u[i]);
        double close = 4 * tolerance_of(dtype, s.shape.in);
        for (int keep = 0; keep < 2; keep++) {
            Tensor *h = tensor_new(&ctx, "h", dtype, SHAPE(s.shape.rows, s.shape.out));
            Tensor *gt = tensor_new(&ctx, "g", dtype, SHAPE(s.shape.rows, s.shape.out));
            Tensor *ut = tensor_new(&ctx, "u", dtype, SHAPE(s.shape.rows, s.shape.out));
            test_poison(&ctx, h), test_poison(&ctx, gt), test_poison(&ctx, ut);
            ON(&ctx, grouped_swiglu_forward, h->data, keep ? gt->data : NULL,
               keep || device == CPU ? ut->data : NULL, s.x->data, s.w->data, s.w2->data,
               s.offsets_device->data, s.shape);
            check_rows(&ctx, "h", &s, h, want, 2 * close);
            if (keep)
                check_rows(&ctx, "g", &s, gt, g, close), check_rows(&ctx, "u", &s, ut, u, close);
        }
        context_free(&ctx);
    }
}

DEVICE_TEST(grouped, backward_by_plain_loops) {
    for (int k = 0; k < CASES; k++) {
        Context ctx = test_context(device, dtype);
        Setup s = setup(&ctx, &cases[k]);
        int64_t in = s.shape.in, out = s.shape.out, R = s.shape.rows, E = s.shape.experts;
        float *want_dx = calloc((size_t)(R * in), sizeof *want_dx);
        float *want_dw = test_floats(E * out * in);
        grouped_backward_reference_cpu(want_dx, want_dw, s.dyh, s.xh, s.wh, s.offsets, s.shape);
        Tensor *dx = tensor_new(&ctx, "dx", dtype, SHAPE(R, in));
        Tensor *dw = tensor_new(&ctx, "dw", F32, SHAPE(E, out, in));
        test_poison(&ctx, dx), test_poison(&ctx, dw);
        const int32_t *offsets = s.offsets_device->data;
        /* overwriting: rows of nobody and weights of experts without rows become zero */
        ON(&ctx, grouped_backward_input, dx->data, 0, s.dy->data, s.w->data, offsets, s.shape);
        ON(&ctx, grouped_backward_weight, dw->data, 0, s.dy->data, s.x->data, offsets, s.shape);
        double close_x = 8 * tolerance_of(dtype, out), close_w = 8 * tolerance_of(F32, R);
        check_tensor(&ctx, "dx", dx, want_dx, close_x);
        check_tensor(&ctx, "dw", dw, want_dw, close_w);
        ON(&ctx, grouped_backward_input, dx->data, 1, s.dy->data, s.w->data, offsets, s.shape);
        ON(&ctx, grouped_backward_weight, dw->data, 1, s.dy->data, s.x->data, offsets, s.shape);
        for (int64_t i = 0; i < R * in; i++) want_dx[i] *= 2;
        for (int64_t i = 0; i < E * out * in; i++) want_dw[i] *= 2;
        check_tensor(&ctx, "dx, added", dx, want_dx, close_x);
        check_tensor(&ctx, "dw, added", dw, want_dw, close_w);
        context_free(&ctx);
    }
}

/* ---- on the tape ---- */

typedef struct Graph {
    Tensor *x, *gate, *up, *down, *c;
    const Tensor *offsets;
} Graph;

static Tensor *experts_loss(Context *ctx, void *user) {
    Graph *g = user;
    Tensor *h = grouped_swiglu(ctx, g->x, g->gate, g->up, g->offsets);
    return weighted_sum(ctx, grouped_linear(ctx, h, g->down, g->offsets), g->c);
}

CPU_TEST(grouped, gradients_agree_with_finite_differences) {
    enum { E = 4, IN = 7, INNER = 5, R = 9 };
    static const int32_t offsets[E + 1] = {0, 3, 3, 8, 9};
    Graph g = {.x = test_normal(&ctx, "x", 1, SHAPE(R, IN)),
               .gate = test_normal(&ctx, "gate", 2, SHAPE(E, INNER, IN)),
               .up = test_normal(&ctx, "up", 3, SHAPE(E, INNER, IN)),
               .down = test_normal(&ctx, "down", 4, SHAPE(E, IN, INNER)),
               .c = test_normal(&ctx, "c", 5, SHAPE(R, IN)),
               .offsets = tensor_copy_in(&ctx, "offsets", I32, offsets, SHAPE(E + 1))};
    Tensor *inputs[] = {g.x, g.gate, g.up, g.down};
    check_gradients(&ctx, "grouped", experts_loss, &g, inputs, 4, 40, 3e-3, 1e-2);
}

/* Forward, SwiGLU with g and u and without, both gradients, one after the other in `out`. */
static int64_t all_products(float *out, int threads, GroupedShape s, const int32_t *offsets) {
    omp_set_num_threads(threads);
    Context ctx = test_context(CPU, F32);
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(s.rows, s.in));
    Tensor *w = test_normal(&ctx, "w", 2, SHAPE(s.experts, s.out, s.in));
    Tensor *w2 = test_normal(&ctx, "w2", 3, SHAPE(s.experts, s.out, s.in));
    Tensor *dy = test_normal(&ctx, "dy", 4, SHAPE(s.rows, s.out));
    int64_t n = s.rows * s.out;
    float *dx = out + 5 * n, *dw = dx + s.rows * s.in;
    grouped_forward_cpu(out, x->data, w->data, offsets, s);
    grouped_swiglu_forward_cpu(out + n, out + 2 * n, out + 3 * n, x->data, w->data, w2->data,
                               offsets, s);
    Tensor *u = tensor_new(&ctx, "u", F32, SHAPE(s.rows, s.out));
    grouped_swiglu_forward_cpu(out + 4 * n, NULL, u->data, x->data, w->data, w2->data, offsets, s);
    grouped_backward_input_cpu(dx, 0, dy->data, w->data, offsets, s);
    grouped_backward_weight_cpu(dw, 0, dy->data, x->data, offsets, s);
    return dw + s.experts * s.out * s.in - out;
}

/* The same bits from one thread, two and four; also where all rows are one expert's, whose product
 * may be one piece. */
Test(grouped, threads_do_not_change_results) {
    static const struct {
        GroupedShape shape; /* rows, in, out, experts */
        int32_t offsets[5];
    } sizes[] = {{{1500, 200, 300, 4}, {0, 700, 703, 1400, 1500}},
                 {{300, 1000, 300, 1}, {0, 300}},
                 {{161, 333, 77, 1}, {0, 161}},
                 {{500, 700, 40, 1}, {0, 500}},
                 {{500, 40, 700, 1}, {0, 500}}};
    enum { MOST = 1500 * 300 * 5 + 1500 * 200 + 4 * 300 * 200 };
    float *one = test_floats(MOST), *more = test_floats(MOST);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t n = all_products(one, 1, sizes[i].shape, sizes[i].offsets);
        cr_assert(n <= MOST);
        for (int threads = 2; threads <= 4; threads += 2) {
            all_products(more, threads, sizes[i].shape, sizes[i].offsets);
            cr_assert(!memcmp(one, more, (size_t)n * sizeof *one), "case %zu, %d threads", i,
                      threads);
        }
    }
}

CPU_TEST(grouped, a_wrong_shape_stops_the_program, .signal = SIGABRT) {
    static const int32_t offsets[3] = {0, 1, 2};
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(2, 5)),
           *w = test_normal(&ctx, "w", 2, SHAPE(2, 3, 4));
    grouped_linear(&ctx, x, w, tensor_copy_in(&ctx, "offsets", I32, offsets, SHAPE(3)));
}
