/*
 * The benchmark of FP8 on CUDA: the ladder of the block-scaled product at the sizes of
 * DeepSeek-V3, beside cuBLASLt's own and our BF16; experts; quantising; and what Hopper's short
 * accumulator does to a sum.
 *
 * Operands rotate through copies of more than 256 MB together, so that no call finds the last one's
 * in the L2 cache. --shapes also times every shape of tiles that the persistent rung has; --figures
 * writes what the lesson's tables are made of.
 */
#include "05_moe/bench_choices.h"
#include "05_moe/dispatch.h"
#include "05_moe/grouped_rungs.h"
#include "08_quant/fp8.h"
#include "08_quant/fp8_rungs.h"
#include "common/core/ops_kernels.h"
#include "common/core/products.h"
#include "common/program/bench.h"
#include "common/program/plot.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

#ifdef WITH_CUDA
enum { COPIES = 16 };

/* The lesson's tables, if they are asked for: of times, and of sums. */
typedef struct Figures {
    bool wanted;
    Csv times, sums;
} Figures;

static void figures_open(Figures *f, const Context *ctx) {
    if (!f->wanted) return;
    f->times = figure_open(ctx, "08_quant/figures/fp8_cuda.csv",
                           "what,shape,bf16_us,blas_us,ours_us,bf16_over_ours");
    f->sums = figure_open(ctx, "08_quant/figures/accumulator_cuda.csv",
                          "numbers,k,every128,every256,every512,every1024,never");
}

static void figures_close(Figures *f) {
    if (!f->wanted) return;
    figure_close(&f->times, NULL);
    figure_close(&f->sums, NULL);
}

/* Seconds; blas is NaN where cuBLASLt has no such product. */
__attribute__((format(printf, 6, 7))) static void figure_times(Figures *f, const char *what,
                                                               double bf16, double blas,
                                                               double ours, const char *shape,
                                                               ...) {
    if (!f->wanted) return;
    char name[64], yardstick[32] = "";
    va_list args;
    va_start(args, shape);
    vsnprintf(name, sizeof name, shape, args);
    va_end(args);
    if (!isnan(blas)) snprintf(yardstick, sizeof yardstick, "%.4g", 1e6 * blas);
    csv_row(&f->times, "%s,%s,%.4g,%s,%.4g,%.3f", what, name, 1e6 * bf16, yardstick, 1e6 * ours,
            bf16 / ours);
}

/* A matrix in BF16 and in both kinds of FP8. */
typedef struct Matrix {
    Tensor *x, *codes, *scales, *codes_t, *scales_t;
} Matrix;

static Tensor *bytes(Context *ctx, int64_t n) { return tensor_new(ctx, "codes", U8, SHAPE(n)); }
static Tensor *floats(Context *ctx, int64_t n) { return tensor_new(ctx, "scales", F32, SHAPE(n)); }

/* Activations: scales of 1 x 128, and the transpose's if `offsets`. */
static Matrix activations(Context *ctx, uint64_t stream, int64_t rows, int64_t cols,
                          const Tensor *offsets, int experts) {
    Matrix m = {.x = bench_tensor(ctx, "x", BF16, stream, SHAPE(rows, cols))};
    m.codes = bytes(ctx, rows * cols);
    m.scales = floats(ctx, fp8_row_scales(rows, cols));
    fp8_quantise_rows_cuda(ctx->gpu, BF16, m.codes->data, m.scales->data, m.x->data, rows, cols, 0);
    if (!offsets) return m;
    int64_t padded = fp8_padded_rows(rows, experts);
    m.codes_t = bytes(ctx, padded * cols);
    m.scales_t = floats(ctx, padded / FP8_STEP * fp8_scale_stride(cols));
    fp8_quantise_columns_cuda(ctx->gpu, BF16, m.codes_t->data, m.scales_t->data, m.x->data,
                              offsets->data, experts, rows, cols, 0);
    return m;
}

static Matrix weights(Context *ctx, uint64_t stream, int experts, int64_t out, int64_t in) {
    Matrix m = {.x = bench_tensor(ctx, "w", BF16, stream, SHAPE(experts, out, in))};
    m.codes = bytes(ctx, experts * out * in);
    m.scales = floats(ctx, experts * fp8_blocks(out) * fp8_blocks(in));
    fp8_quantise_blocks_cuda(ctx->gpu, BF16, m.codes->data, m.scales->data, NULL, NULL, m.x->data,
                             experts, out, in, 0);
    return m;
}

/* ---- dense ---- */

typedef __typeof__(&fp8_product_cuda) ProductRung;

typedef struct Dense {
    int64_t m, n, k;
    ProductRung rung; /* NULL: BF16 by cuBLASLt */
    int shape;        /* of the persistent rung; -1: the rung's own choice */
    int copies, turn;
    Matrix a[COPIES], b[COPIES];
    Tensor *d;
} Dense;

static void run_dense(Context *ctx, void *user) {
    Dense *w = user;
    const Matrix *a = &w->a[w->turn], *b = &w->b[w->turn];
    w->turn = (w->turn + 1) % w->copies;
    if (!w->rung)
        linear_forward_cuda(ctx->gpu, BF16, w->d->data, a->x->data, b->x->data, NULL, w->m, w->k,
                            w->n);
    else if (w->shape >= 0)
        fp8_product_shape_cuda(ctx->gpu, w->shape, w->d->data, NULL, a->codes->data,
                               a->scales->data, b->codes->data, b->scales->data, w->m, w->n, w->k);
    else
        w->rung(ctx->gpu, BF16, w->d->data, NULL, a->codes->data, a->scales->data, b->codes->data,
                b->scales->data, w->m, w->n, w->k);
}

/* Every shape in a line of its own would be many: TFLOPS, seven shapes a line. */
static void bench_shapes(Bench *bench, BenchFunction run, void *work, int *shape, int count,
                         const char *(*name)(int), double flop) {
    for (*shape = 0; *shape < count; ++*shape) {
        BenchTime t = bench_time(bench->ctx, run, work, bench->seconds);
        printf("%s%14s %4.0f", *shape % 7 ? "" : "\n   ", name(*shape), 1e-12 * flop / t.min);
        fflush(stdout);
    }
    *shape = -1;
    printf("\n");
}

static void bench_dense(Bench *bench, Figures *figures, int64_t m, int64_t n, int64_t k,
                        bool shapes) {
    static const struct {
        const char *name;
        ProductRung rung;
        int64_t most; /* rows; above, it is left out: too slow */
    } rungs[] = {{"BF16, cuBLASLt", NULL, INT64_MAX},
                 {"FP8, cuBLASLt", fp8_product_blas_cuda, INT64_MAX},
                 {"mma", fp8_product_mma_cuda, INT64_MAX},
                 {"wgmma", fp8_product_wgmma_cuda, INT64_MAX},
                 {"persistent", fp8_product_persistent_cuda, INT64_MAX}};
    Context *ctx = bench->ctx;
    bench_head("%lld x %lld x %lld", (long long)m, (long long)n, (long long)k);
    Dense w = {.m = m, .n = n, .k = k, .shape = -1};
    double size = (double)(m + n) * (double)k;
    w.copies = (int)fmin(COPIES, fmax(1, ceil(256e6 / size)));
    for (int i = 0; i < w.copies; i++) {
        w.a[i] = activations(ctx, 2 * (uint64_t)i, m, k, NULL, 1);
        w.b[i] = weights(ctx, 2 * (uint64_t)i + 1, 1, n, k);
    }
    w.d = tensor_new(ctx, "d", BF16, SHAPE(m, n));
    double flop = 2 * (double)m * (double)n * (double)k, bf16 = NAN, blas = NAN;
    for (size_t i = 0; i < sizeof rungs / sizeof *rungs; i++) {
        w.rung = rungs[i].rung;
        const char *refusal =
            w.rung == fp8_product_blas_cuda ? fp8_blas_refusal(ctx->gpu, BF16, m, n, k) : NULL;
        if (refusal) {
            printf("  %s: %s\n", rungs[i].name, refusal);
            continue;
        }
        bool hopper = w.rung == fp8_product_wgmma_cuda || w.rung == fp8_product_persistent_cuda;
        if (hopper && !fp8_hopper_available(ctx->gpu, BF16, n, k)) continue;
        double moved = size * (w.rung ? 1 : 2) + 2 * (double)m * (double)n;
        BenchTime t = bench_row(bench, flop, moved, run_dense, &w, "%s", rungs[i].name);
        if (!w.rung) bf16 = t.min;
        if (w.rung == fp8_product_blas_cuda) blas = t.min;
        if (w.rung == fp8_product_persistent_cuda) {
            printf("  %s: %.2f of cuBLASLt\n", fp8_shape_name(fp8_shape_best(ctx->gpu, m, n, k)),
                   blas / t.min);
            figure_times(figures, "product", bf16, blas, t.min, "%lld x %lld x %lld", (long long)m,
                         (long long)n, (long long)k);
        }
        bench_save(bench, "%lld,%lld,%lld,1,%s", (long long)m, (long long)n, (long long)k,
                   rungs[i].name);
    }
    w.rung = fp8_product_persistent_cuda;
    if (shapes && fp8_hopper_available(ctx->gpu, BF16, n, k))
        bench_shapes(bench, run_dense, &w, &w.shape, fp8_shape_count(), fp8_shape_name, flop);
    context_reset(ctx);
}

/* ---- experts ---- */

typedef enum GroupedRung { BF16_FORWARD, FP8_FORWARD, BF16_WEIGHT, FP8_WEIGHT } GroupedRung;

typedef struct Grouped {
    GroupedShape shape;
    GroupedRung rung;
    int tiles; /* shape of tiles, or -1 */
    Tensor *offsets, *y, *dw;
    Matrix x, w, dy;
} Grouped;

static void run_grouped(Context *ctx, void *user) {
    Grouped *g = user;
    const int32_t *offsets = g->offsets->data;
    Gpu *gpu = ctx->gpu;
    GroupedShape s = g->shape;
    if (g->rung == BF16_FORWARD)
        grouped_forward_cuda(gpu, BF16, g->y->data, g->x.x->data, g->w.x->data, offsets, s);
    else if (g->rung == BF16_WEIGHT)
        grouped_backward_weight_cuda(gpu, BF16, g->dw->data, 0, g->dy.x->data, g->x.x->data,
                                     offsets, s);
    else if (g->rung == FP8_FORWARD && g->tiles < 0)
        fp8_grouped_cuda(gpu, BF16, g->y->data, NULL, g->x.codes->data, g->x.scales->data,
                         g->w.codes->data, g->w.scales->data, offsets, s);
    else if (g->rung == FP8_FORWARD)
        fp8_grouped_shape_cuda(gpu, g->tiles, g->y->data, NULL, g->x.codes->data, g->x.scales->data,
                               g->w.codes->data, g->w.scales->data, offsets, s);
    else if (g->tiles < 0)
        fp8_weight_cuda(gpu, BF16, g->dw->data, 0, g->dy.codes_t->data, g->dy.scales_t->data,
                        g->x.codes_t->data, g->x.scales_t->data, offsets, s);
    else
        fp8_weight_shape_cuda(gpu, g->tiles, g->dw->data, 0, g->dy.codes_t->data,
                              g->dy.scales_t->data, g->x.codes_t->data, g->x.scales_t->data,
                              offsets, s);
}

static void bench_grouped(Bench *bench, Figures *figures, int tokens, int experts, int64_t in,
                          int64_t out, bool shapes) {
    static const char *const names[] = {"y = x W^T, BF16", "y = x W^T, FP8", "dW, BF16", "dW, FP8"};
    Context *ctx = bench->ctx;
    Grouped g = {.shape = {8 * (int64_t)tokens, in, out, experts}, .tiles = -1};
    int64_t rows = g.shape.rows;
    bench_head("%d experts, %lld rows, %lld -> %lld", experts, (long long)rows, (long long)in,
               (long long)out);
    g.offsets = dispatch_plan(ctx, random_choices(ctx, tokens, 8, experts), experts, 0).offsets;
    g.x = activations(ctx, 1, rows, in, g.offsets, experts);
    g.dy = activations(ctx, 2, rows, out, g.offsets, experts);
    g.w = weights(ctx, 3, experts, out, in);
    g.y = tensor_new(ctx, "y", BF16, SHAPE(rows, out));
    g.dw = floats(ctx, experts * out * in);
    double n = (double)rows, matrix = (double)experts * (double)in * (double)out, bf16 = NAN;
    for (g.rung = BF16_FORWARD; g.rung <= FP8_WEIGHT; g.rung++) {
        bool forward = g.rung <= FP8_FORWARD, fp8 = g.rung % 2;
        double number = fp8 ? 1 : 2, flop = 2 * n * (double)(in * out);
        double moved = forward ? number * (n * (double)in + matrix) + 2 * n * (double)out
                               : number * n * (double)(in + out) + 4 * matrix;
        BenchTime t = bench_row(bench, flop, moved, run_grouped, &g, "%s", names[g.rung]);
        if (fp8) {
            printf("  %.2f of BF16\n", bf16 / t.min);
            figure_times(figures, forward ? "experts" : "experts dW", bf16, NAN, t.min,
                         "%d of %lld -> %lld", experts, (long long)in, (long long)out);
        }
        bf16 = t.min;
        bench_save(bench, "%lld,%lld,%lld,%d,%s", (long long)rows, (long long)out, (long long)in,
                   experts, names[g.rung]);
        if (shapes && fp8 && fp8_hopper_available(ctx->gpu, BF16, out, in))
            bench_shapes(bench, run_grouped, &g, &g.tiles,
                         forward ? fp8_shape_count() : fp8_weight_shape_count(),
                         forward ? fp8_shape_name : fp8_weight_shape_name, flop);
    }
    context_reset(ctx);
}

/* ---- a layer in training: forward and both gradients, quantising included ---- */

typedef struct Layer {
    int64_t rows;
    GroupedShape shape;
    bool fp8;
    Tensor *offsets, *x, *w, *y, *dy, *dx, *dw; /* offsets NULL: a linear layer */
} Layer;

static void run_layer(Context *ctx, void *user) {
    Layer *l = user;
    Gpu *gpu = ctx->gpu;
    GroupedShape s = l->shape;
    const int32_t *offsets = l->offsets ? l->offsets->data : NULL;
    if (l->fp8) {
        ProductRows rows = {.x = l->x->data, .rows = s.rows, .offsets = offsets};
        ProductTerm term = {
            .w = l->w, .y = l->y->data, .dy = l->dy->data, .dw = l->dw->data, .add = 0};
        fp8_products.forward(ctx, &term, 1, rows);
        fp8_products.backward(ctx, l->dx->data, 0, &term, 1, rows);
    } else if (offsets) {
        grouped_forward_cuda(gpu, BF16, l->y->data, l->x->data, l->w->data, offsets, s);
        grouped_backward_input_cuda(gpu, BF16, l->dx->data, 0, l->dy->data, l->w->data, offsets, s);
        grouped_backward_weight_cuda(gpu, BF16, l->dw->data, 0, l->dy->data, l->x->data, offsets,
                                     s);
    } else {
        linear_forward_cuda(gpu, BF16, l->y->data, l->x->data, l->w->data, NULL, s.rows, s.in,
                            s.out);
        linear_backward_cuda(gpu, BF16, l->dx->data, 0, l->dw->data, 0, NULL, 0, l->dy->data,
                             l->x->data, l->w->data, s.rows, s.in, s.out);
    }
}

static void bench_layer(Bench *bench, Figures *figures, int64_t rows, int64_t in, int64_t out,
                        int experts) {
    Context *ctx = bench->ctx;
    Layer l = {.shape = {rows, in, out, experts}};
    if (experts > 1)
        l.offsets =
            dispatch_plan(ctx, random_choices(ctx, (int)rows / 8, 8, experts), experts, 0).offsets;
    l.x = bench_tensor(ctx, "x", BF16, 1, SHAPE(rows, in));
    l.dy = bench_tensor(ctx, "dy", BF16, 2, SHAPE(rows, out));
    l.w = experts > 1 ? bench_tensor(ctx, "w", BF16, 3, SHAPE(experts, out, in))
                      : bench_tensor(ctx, "w", BF16, 3, SHAPE(out, in));
    l.y = tensor_new(ctx, "y", BF16, SHAPE(rows, out));
    l.dx = tensor_new(ctx, "dx", BF16, SHAPE(rows, in));
    l.dw = floats(ctx, experts * out * in);
    double bf16 = NAN, flop = 6 * (double)rows * (double)(in * out);
    for (int fp8 = 0; fp8 < 2; fp8++) {
        l.fp8 = fp8;
        BenchTime t = bench_row(bench, flop, 0, run_layer, &l, "%s, %lld rows, %lld -> %lld x %d",
                                fp8 ? "FP8" : "BF16", (long long)rows, (long long)in,
                                (long long)out, experts);
        if (fp8) {
            printf("  %.2f of BF16\n", bf16 / t.min);
            figure_times(figures, experts > 1 ? "training experts" : "training", bf16, NAN, t.min,
                         experts > 1 ? "%lld -> %lld x %d" : "%lld -> %lld", (long long)in,
                         (long long)out, experts);
        }
        bf16 = t.min;
        bench_save(bench, "%lld,%lld,%lld,%d,%s", (long long)rows, (long long)out, (long long)in,
                   experts, fp8 ? "training FP8" : "training BF16");
    }
    context_reset(ctx);
}

static void bench_training(Bench *bench, Figures *figures) {
    bench_head("a layer in training: forward and both gradients, quantising included");
    static const int64_t widths[] = {512, 1024, 2048, 4096, 7168};
    for (int i = 0; i < 5; i++) bench_layer(bench, figures, 16384, widths[i], widths[i], 1);
    bench_layer(bench, figures, 65536, 512, 512, 8);
    bench_layer(bench, figures, 65536, 2048, 1024, 64);
    bench_layer(bench, figures, 65536, 2048, 1024, 8);
}

/* ---- quantising ---- */

typedef struct Quantising {
    int64_t rows, cols;
    int way;
    Tensor *x, *codes, *scales, *codes_t, *scales_t;
} Quantising;

static void run_quantising(Context *ctx, void *user) {
    Quantising *q = user;
    if (q->way == 0)
        fp8_quantise_rows_cuda(ctx->gpu, BF16, q->codes->data, q->scales->data, q->x->data, q->rows,
                               q->cols, 1);
    else if (q->way == 1)
        fp8_quantise_columns_cuda(ctx->gpu, BF16, q->codes->data, q->scales->data, q->x->data, NULL,
                                  1, q->rows, q->cols, 1);
    else
        fp8_quantise_blocks_cuda(ctx->gpu, BF16, q->codes->data, q->scales->data, q->codes_t->data,
                                 q->scales_t->data, q->x->data, 1, q->rows, q->cols, 1);
}

static void bench_quantising(Bench *bench) {
    static const char *const names[] = {"1 x 128", "1 x 128 of the transpose",
                                        "128 x 128 and the transpose"};
    Context *ctx = bench->ctx;
    Quantising q = {.rows = 16384, .cols = 7168};
    int64_t n = q.rows * q.cols;
    bench_head("quantising %lld x %lld", (long long)q.rows, (long long)q.cols);
    q.x = bench_tensor(ctx, "x", BF16, 1, SHAPE(q.rows, q.cols));
    q.codes = bytes(ctx, n), q.codes_t = bytes(ctx, n);
    q.scales = floats(ctx, n / FP8_STEP), q.scales_t = floats(ctx, n / FP8_STEP);
    for (q.way = 0; q.way < 3; q.way++) {
        bench_row(bench, 0, (double)n * (q.way == 2 ? 4 : 3), run_quantising, &q, "%s",
                  names[q.way]);
        bench_save(bench, "%lld,%lld,1,1,%s", (long long)q.rows, (long long)q.cols, names[q.way]);
    }
    context_reset(ctx);
}

/* ---- the short accumulator ---- */

/* Of numbers from 1 to 2, whose sums grow, and of both signs. */
static void measure_accumulator(Context *ctx, Figures *figures) {
    enum { M = 128, N = 128, MOST = 16384 };
    if (!fp8_hopper_available(ctx->gpu, BF16, N, MOST)) return;
    printf("\nSums of k products in E4M3: root mean square error, relative to the sums' own\n"
           "  numbers     promoted every      128       256       512      1024         k\n");
    uint8_t *a = must_alloc(M * MOST, 1), *b = must_alloc(N * MOST, 1);
    float *ones = must_alloc((size_t)fp8_row_scales(M, MOST), sizeof *ones);
    float *want = must_alloc(M * N, sizeof *want), *got = must_alloc(M * N, sizeof *got);
    for (int64_t i = 0; i < fp8_row_scales(M, MOST); i++) ones[i] = 1;
    Tensor *ta = bytes(ctx, M * MOST), *tb = bytes(ctx, N * MOST), *d = floats(ctx, M * N);
    for (int64_t k = 1024; k <= MOST; k *= 4)
        for (int both = 0; both < 2; both++) {
            for (int64_t i = 0; i < M * k; i++) {
                float x = rng_normal(1, 1, (uint64_t)i), y = rng_normal(1, 2, (uint64_t)i);
                a[i] = e4m3_from_float(both ? x : fabsf(x)),
                b[i] = e4m3_from_float(both ? y : fabsf(y));
            }
            fp8_product_reference_cpu(want, NULL, a, ones, b, ones, M, N, k);
            gpu_upload(ctx->gpu, ta->data, a, (size_t)(M * k));
            gpu_upload(ctx->gpu, tb->data, b, (size_t)(N * k));
            printf("  %-11s k = %-8lld", both ? "both signs" : "positive", (long long)k);
            static const int every[] = {128, 256, 512, 1024, 0};
            double lost[5];
            for (int i = 0; i < 5; i++) {
                fp8_accumulate_cuda(ctx->gpu, d->data, ta->data, tb->data, M, N, k, every[i]);
                gpu_download(ctx->gpu, got, d->data, M * N * sizeof *got);
                double error = 0, norm = 0;
                for (int j = 0; j < M * N; j++) {
                    error += pow((double)got[j] - want[j], 2);
                    norm += (double)want[j] * want[j];
                }
                lost[i] = sqrt(error / norm);
                printf("  %8.2g", lost[i]);
            }
            printf("\n");
            if (figures->wanted)
                csv_row(&figures->sums, "%s,%lld,%.2g,%.2g,%.2g,%.2g,%.2g",
                        both ? "both signs" : "positive", (long long)k, lost[0], lost[1], lost[2],
                        lost[3], lost[4]);
        }
    free(a), free(b), free(ones), free(want), free(got);
    context_reset(ctx);
}
#endif

int main(int argc, char **argv) {
    Bench bench = {0};
    bool shapes = false, few = false, wanted = false;
    const Option flags[] = {OPT_FLAG("figures", 0, &wanted, "Write 08_quant/figures/*_cuda.csv"),
                            OPT_FLAG("shapes", 0, &shapes, "Time every shape of tiles, too"),
                            OPT_FLAG("few", 0, &few, "Only the first three matrices"), OPT_END};
    bench_open(&bench, argc, argv, "Times the FP8 products on CUDA (--device cuda --dtype bf16).",
               flags, NULL, "m,n,k,experts,rung");
#ifdef WITH_CUDA
    if (!bench.ctx->gpu) fatal("this benchmark is for --device cuda; 08_quant/bench has the CPU");
    if (bench.ctx->dtype != BF16) fatal("this benchmark is for --dtype bf16");
    Figures figures = {.wanted = wanted};
    figures_open(&figures, bench.ctx);
    if (!bench.counters) measure_accumulator(bench.ctx, &figures);
    bench_ceilings(&bench);
    static const int64_t nk[][2] = {{7168, 16384}, {4096, 7168}, {7168, 2048},
                                    {24576, 1536}, {2112, 7168}, {32768, 512}};
    static const int64_t rows[] = {4096, 128, 64};
    for (size_t i = 0; i < (few ? 3 : sizeof nk / sizeof *nk); i++)
        for (int r = 0; r < 3; r++)
            bench_dense(&bench, &figures, rows[r], nk[i][0], nk[i][1], shapes);
    bench_grouped(&bench, &figures, 8192, 64, 2048, 1024, shapes);
    bench_grouped(&bench, &figures, 8192, 64, 7168, 4096, shapes);
    bench_training(&bench, &figures);
    bench_quantising(&bench);
    figures_close(&figures);
    bench_close(&bench);
    return 0;
#else
    (void)shapes, (void)few, (void)wanted;
    fatal("this benchmark is for CUDA, and this program was built without nvcc");
#endif
}
