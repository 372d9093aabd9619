/*
 * The benchmark of the grouped product on CUDA: every rung and every direction at the sizes of
 * large models, 8192 tokens that choose 8 experts at random. Its peer is
 * tools/peers/moe_grouped.py.
 *
 * A direction has 2 * rows * in * out operations, SwiGLU's twice as many. Bytes count each number
 * once: rows of both sides, the weights (4 bytes each where they are gradients). --csv FILE
 * keeps the rows.
 */
#include "05_moe/bench_choices.h"
#include "05_moe/dispatch.h"
#include "05_moe/grouped_rungs.h"

#include "common/program/bench.h"

#include <stdlib.h>

#ifdef WITH_CUDA
enum { TOKENS = 8192, TOP_K = 8 };

typedef enum Product { FORWARD, SWIGLU, INPUT, TWO_INPUTS, WEIGHT, PRODUCTS } Product;
static const char *const product_names[] = {"y = x W^T", "swiglu (g and u kept)", "dx = dy W",
                                            "dx = dg W + du W2", "dW = dy^T x (F32)"};
typedef enum Rung { GATHER, BLAS, PLAIN, MMA, HOPPER, RUNGS } Rung;
static const char *const rung_names[] = {"gather", "blas", "plain", "mma", "hopper"};

typedef struct Group {
    GroupedShape shape;
    Product product;
    Rung rung;
    int32_t *host_offsets;
    Tensor *tokens, *token_of_row, *offsets, *x, *w, *w2, *y, *g, *u, *dw;
} Group;

/* Every token's choices at random, sorted by expert: offsets, and whose row it is. */
static void choose(Context *ctx, Group *g) {
    int E = g->shape.experts;
    size_t rows = (size_t)TOKENS * TOP_K;
    Dispatch plan = dispatch_plan(ctx, random_choices(ctx, TOKENS, TOP_K, E), E, 0);
    g->offsets = plan.offsets;
    g->host_offsets = must_alloc((size_t)E + 1, sizeof *g->host_offsets);
    int32_t *token = must_alloc(rows, sizeof *token);
    tensor_download_ints(ctx, g->host_offsets, plan.offsets);
    tensor_download_ints(ctx, token, plan.slot_of_row);
    for (size_t row = 0; row < rows; row++) token[row] /= TOP_K;
    g->token_of_row = tensor_copy_in(ctx, "token of row", I32, token, SHAPE((int64_t)rows));
    free(token);
}

static void run_host(Context *ctx, Group *g) {
    GroupedShape s = g->shape;
    const int32_t *offsets = g->host_offsets;
    if (g->rung == GATHER)
        grouped_forward_gather_cuda(ctx->gpu, ctx->dtype, g->y->data, g->x->data, g->tokens->data,
                                    g->token_of_row->data, g->w->data, offsets, s);
    else if (g->product == FORWARD)
        grouped_forward_blas_cuda(ctx->gpu, ctx->dtype, g->y->data, g->x->data, g->w->data, offsets,
                                  s);
    else if (g->product == INPUT)
        grouped_backward_input_blas_cuda(ctx->gpu, ctx->dtype, g->x->data, 0, g->y->data,
                                         g->w->data, offsets, s);
    else
        grouped_backward_weight_blas_cuda(ctx->gpu, ctx->dtype, g->dw->data, 0, g->y->data,
                                          g->x->data, offsets, s);
}

#define RUN_RUNG(rung)                                                                             \
    do {                                                                                           \
        if (g->product == FORWARD)                                                                 \
            grouped_forward_##rung##_cuda(gpu, dtype, g->y->data, g->x->data, g->w->data, offsets, \
                                          s);                                                      \
        else if (g->product == SWIGLU)                                                             \
            grouped_swiglu_forward_##rung##_cuda(gpu, dtype, g->y->data, g->g->data, g->u->data,   \
                                                 g->x->data, g->w->data, g->w2->data, offsets, s); \
        else if (g->product == INPUT)                                                              \
            grouped_backward_input_##rung##_cuda(gpu, dtype, g->x->data, 0, g->y->data,            \
                                                 g->w->data, offsets, s);                          \
        else                                                                                       \
            grouped_backward_weight_##rung##_cuda(gpu, dtype, g->dw->data, 0, g->y->data,          \
                                                  g->x->data, offsets, s);                         \
    } while (0)

static void run(Context *ctx, void *user) {
    Group *g = user;
    Gpu *gpu = ctx->gpu;
    DType dtype = ctx->dtype;
    GroupedShape s = g->shape;
    const int32_t *offsets = g->offsets->data;
    if (g->product == TWO_INPUTS)
        grouped_swiglu_backward_input_cuda(gpu, dtype, g->x->data, 0, g->g->data, g->w->data,
                                           g->u->data, g->w2->data, offsets, s);
    else if (g->rung == PLAIN)
        RUN_RUNG(plain);
    else if (g->rung == MMA)
        RUN_RUNG(mma);
    else if (g->rung == HOPPER)
        RUN_RUNG(hopper);
    else
        run_host(ctx, g);
}

static bool exists(Context *ctx, const Group *g) {
    if (g->product == TWO_INPUTS) /* on the lower rungs it is two products */
        return g->rung == HOPPER && grouped_hopper_available(ctx->gpu, ctx->dtype, g->shape);
    if (g->rung == GATHER) return g->product == FORWARD;
    if (g->rung == BLAS) return g->product != SWIGLU;
    if (g->rung == MMA) return grouped_mma_available(ctx->gpu, ctx->dtype, g->shape);
    if (g->rung == HOPPER) return grouped_hopper_available(ctx->gpu, ctx->dtype, g->shape);
    return true;
}

#define ROW_NAME "%s  %s", rung_names[g.rung], product_names[g.product]

/* The plain rung and cuBLAS with the host's help are slow: `all` asks for them. */
static void bench_shape(Bench *bench, int experts, int64_t in, int64_t out, bool all) {
    Context *ctx = bench->ctx;
    Group g = {.shape = {(int64_t)TOKENS * TOP_K, in, out, experts}};
    int64_t R = g.shape.rows;
    bench_head("%d experts, %lld rows, %lld -> %lld", experts, (long long)R, (long long)in,
               (long long)out);
    choose(ctx, &g);
    g.x = tensor_new(ctx, "x", ctx->dtype, SHAPE(R, in));
    g.y = tensor_new(ctx, "y", ctx->dtype, SHAPE(R, out));
    g.g = tensor_new(ctx, "g", ctx->dtype, SHAPE(R, out));
    g.u = tensor_new(ctx, "u", ctx->dtype, SHAPE(R, out));
    g.w = tensor_new(ctx, "w", ctx->dtype, SHAPE(experts, out, in));
    g.w2 = tensor_new(ctx, "w2", ctx->dtype, SHAPE(experts, out, in));
    g.tokens = tensor_new(ctx, "tokens", ctx->dtype, SHAPE(TOKENS, in));
    g.dw = tensor_new(ctx, "dw", F32, SHAPE(experts, out, in));
    double n = (double)R, matrix = (double)experts * (double)in * (double)out;
    for (g.product = FORWARD; g.product < PRODUCTS; g.product++)
        for (g.rung = all ? GATHER : MMA; g.rung < RUNGS; g.rung++) {
            if (!exists(ctx, &g) || !bench_wanted(bench, ROW_NAME)) continue;
            /* results would grow, or be zero */
            Tensor *fresh[] = {g.x, g.y, g.w, g.w2, g.tokens, g.g, g.u};
            for (int i = 0; i < 7; i++) bench_fill(ctx, fresh[i], (uint64_t)i);
            int three = g.product == SWIGLU; /* results; and two matrices */
            int twice = three || g.product == TWO_INPUTS;
            double size = (double)dtype_size(ctx->dtype);
            double bytes = size * n * (double)(in + (1 + twice + three) * out) +
                           matrix * (g.product == WEIGHT ? 4 : size * (1 + twice));
            double flop = (1 + twice) * 2 * n * (double)(in * out);
            bench_row(bench, flop, bytes, run, &g, ROW_NAME);
            bench_save(bench, "%d,%lld,%lld,%s,%s", experts, (long long)in, (long long)out,
                       product_names[g.product], rung_names[g.rung]);
        }
    free(g.host_offsets);
    context_reset(ctx);
}
#endif

int main(int argc, char **argv) {
    Bench bench = {0};
    bench_open(&bench, argc, argv,
               "Times the rungs of the grouped product on CUDA (--device cuda --dtype bf16).", NULL,
               NULL, "experts,in,out,product,rung");
#ifdef WITH_CUDA
    if (!bench.ctx->gpu) fatal("this benchmark is for --device cuda; 05_moe/bench has the CPU");
    bench_ceilings(&bench);
    bench_shape(&bench, 64, 2048, 1024, true);
    bench_shape(&bench, 8, 512, 1024, true);
    bench_shape(&bench, 8, 512, 512, false); /* chapter 10's 109m */
    bench_shape(&bench, 64, 7168, 4096, false);
    bench_shape(&bench, 256, 2048, 1024, false);
    static const int64_t hidden[] = {2048, 7168}, width[] = {512, 2048};
    for (int experts = 64; experts <= 256; experts += 192)
        for (int h = 0; h < 2; h++)
            for (int m = 0; m < 2; m++) {
                bench_shape(&bench, experts, hidden[h], width[m], false);
                bench_shape(&bench, experts, width[m], hidden[h], false);
            }
    bench_close(&bench);
    return 0;
#else
    fatal("this benchmark is for CUDA, and this program was built without nvcc");
#endif
}
