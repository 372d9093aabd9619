/*
 * The benchmark of linear(): forward and backward against the matrix peak of the same run.
 *
 * On the CPU linear() is three products, one forward and two backward, each with its own
 * layout of transposes. The question is whether the layouts and shapes of a model reach what the
 * best square product does.
 */
#include "common/core/ops_kernels.h"
#include "common/program/bench.h"

#include <math.h>
#include <stdio.h>

typedef enum Product { FORWARD, BACKWARD_INPUT, BACKWARD_WEIGHT, PRODUCTS } Product;
static const char *const product_names[] = {"y = x W^T", "dx = dy W", "dW = dy^T x"};

typedef struct Linear {
    Product product;
    int64_t rows, in, out;
    Tensor *x, *w, *y, *dx, *dw;
} Linear;

/* In backward y stands in for its own gradient: what the values are does not matter, that they are
 * random does. */
static void one_product(Context *ctx, void *user) {
    Linear *l = user;
    if (l->product == FORWARD)
        ON(ctx, linear_forward, l->y->data, l->x->data, l->w->data, NULL, l->rows, l->in, l->out);
    else
        ON(ctx, linear_backward, l->product == BACKWARD_INPUT ? l->dx->data : NULL, 0,
           l->product == BACKWARD_WEIGHT ? l->dw->data : NULL, 0, NULL, 0, l->y->data, l->x->data,
           l->w->data, l->rows, l->in, l->out);
}

/* Squares, and the shapes of a small model's layers: projections, SwiGLU's two directions, head. */
static const int64_t shapes[][3] = {
    {256, 256, 256},  {512, 512, 512},   {1024, 1024, 1024}, {2048, 2048, 2048},
    {2048, 256, 256}, {2048, 256, 1024}, {2048, 1024, 256},  {2048, 256, 2048},
    {4096, 512, 512}, {4096, 512, 1536}, {4096, 1536, 512},  {333, 500, 777},
};

/* The three products of one shape; returns the lowest share of the peak, in percent. */
static double measure_shape(Bench *bench, const int64_t *shape) {
    Context *ctx = bench->ctx;
    Linear l = {.rows = shape[0], .in = shape[1], .out = shape[2]};
    l.x = bench_tensor(ctx, "x", ctx->dtype, 0, SHAPE(l.rows, l.in));
    l.w = bench_tensor(ctx, "w", ctx->dtype, 1, SHAPE(l.out, l.in));
    l.y = bench_tensor(ctx, "y", ctx->dtype, 2, SHAPE(l.rows, l.out));
    l.dx = tensor_new(ctx, "dx", ctx->dtype, SHAPE(l.rows, l.in));
    l.dw = tensor_new(ctx, "dw", F32, SHAPE(l.out, l.in));

    double flop = 2.0 * (double)l.rows * (double)l.in * (double)l.out, lowest = 1e9;
    for (l.product = FORWARD; l.product < PRODUCTS; l.product++) {
        bench_row(bench, flop, 0, one_product, &l, "%lld x %lld -> %lld  %s", (long long)l.rows,
                  (long long)l.in, (long long)l.out, product_names[l.product]);
        lowest = fmin(lowest, bench->row.of_peak);
        bench_save(bench, "%lld,%lld,%lld,%s", (long long)l.rows, (long long)l.in, (long long)l.out,
                   product_names[l.product]);
    }
    context_reset(ctx);
    return lowest;
}

int main(int argc, char **argv) {
    Bench bench = {0};
    bench_open(&bench, argc, argv, "Times linear layers against the matrix peak.", NULL, NULL,
               "rows,in,out,product");
    bench_ceilings(&bench);
    bench_head("linear layers: rows x in -> out");
    double lowest = 1e9;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        lowest = fmin(lowest, measure_shape(&bench, shapes[i]));
    printf("\nlowest share of the peak: %.1f%%\n", lowest);
    bench_close(&bench);
    return 0;
}
