/*
 * The benchmark of chapter 01: both ladders, rung by rung, and one attention head.
 *
 * Matrix products are judged by the library (OpenBLAS, cuBLASLt) in the same run, softmax by the
 * time of a copy. On CUDA both dtypes are measured. The numbers also go to figures/out/, from where
 * the charts are drawn.
 */
#include "common/program/bench.h"
#include "01_self_attention/attention.h"
#include "01_self_attention/matmul.h"
#include "01_self_attention/softmax.h"
#include "common/core/cpu_matmul.h"
#include "common/core/ops.h"
#include "common/program/plot.h"

#include <math.h>
#include <stdio.h>

/* ---- the rungs ---- */

typedef enum Ladder { MATMUL, SOFTMAX } Ladder;
static const char *const ladder_names[] = {"matmul", "softmax"};

typedef struct Work {
    int64_t rows, cols; /* equal for a product */
    void *a, *b, *c;
} Work;

static void library(Context *ctx, void *user) {
    Work *w = user;
    ON(ctx, matmul_batched, w->c, 0, w->a, 0, w->b, 0, 1, w->rows, w->rows, w->rows, 1);
}

#define PRODUCT w->b, w->rows, w->rows, w->rows
#define ROWS    w->rows, w->cols
#define CPU_RUNG(kernel, ...)                            \
    static void run_##kernel(Context *ctx, void *user) { \
        Work *w = user;                                  \
        (void)ctx;                                       \
        kernel(w->c, w->a, __VA_ARGS__);                 \
    }
CPU_RUNG(matmul_naive_cpu, PRODUCT)
CPU_RUNG(matmul_ordered_cpu, PRODUCT)
CPU_RUNG(matmul_blocked_cpu, PRODUCT)
CPU_RUNG(softmax_reference_forward_cpu, ROWS)
CPU_RUNG(softmax_forward_cpu, ROWS)

/* Not this chapter's own: linear() runs on it. */
static void run_simd(Context *ctx, void *user) {
    Work *w = user;
    int64_t n = w->rows;
    (void)ctx;
    cpu_matmul_by(MATMUL_PACKED, &(CpuMatmul){w->c, NULL, n, {w->a, n, 1}, {w->b, n, 1}, n, n, n});
}

#ifdef WITH_CUDA
#define CUDA_RUNG(kernel, ...)                                 \
    static void run_##kernel(Context *ctx, void *user) {       \
        Work *w = user;                                        \
        kernel(ctx->gpu, ctx->dtype, w->c, w->a, __VA_ARGS__); \
    }
CUDA_RUNG(matmul_naive_cuda, PRODUCT)
CUDA_RUNG(matmul_shared_cuda, PRODUCT)
CUDA_RUNG(matmul_registers_cuda, PRODUCT)
CUDA_RUNG(matmul_tensor_cuda, PRODUCT)
CUDA_RUNG(matmul_hopper_cuda, PRODUCT)
CUDA_RUNG(softmax_naive_cuda, ROWS)
CUDA_RUNG(softmax_warp_cuda, ROWS)
CUDA_RUNG(softmax_online_cuda, ROWS)
CUDA_RUNG(softmax_registers_cuda, ROWS)

static int tensor_takes(Context *ctx, const void *work) {
    (void)work;
    return matmul_tensor_available(ctx->gpu, ctx->dtype);
}
static int hopper_takes(Context *ctx, const void *work) {
    const Work *w = work;
    return matmul_hopper_available(ctx->gpu, ctx->dtype, w->rows, w->rows);
}
#endif

static const BenchRung products[] = {
    {"naive", CPU, INFINITY, run_matmul_naive_cpu, NULL},
    {"ordered", CPU, INFINITY, run_matmul_ordered_cpu, NULL},
    {"blocked", CPU, INFINITY, run_matmul_blocked_cpu, NULL},
    {"simd", CPU, INFINITY, run_simd, NULL},
    {"OpenBLAS", CPU, INFINITY, library, NULL},
#ifdef WITH_CUDA
    {"naive", CUDA, INFINITY, run_matmul_naive_cuda, NULL},
    {"shared", CUDA, INFINITY, run_matmul_shared_cuda, NULL},
    {"registers", CUDA, INFINITY, run_matmul_registers_cuda, NULL},
    {"tensor", CUDA, INFINITY, run_matmul_tensor_cuda, tensor_takes},
    {"hopper", CUDA, INFINITY, run_matmul_hopper_cuda, hopper_takes},
    {"cuBLAS", CUDA, INFINITY, library, NULL},
#endif
    {0}};
static const BenchRung softmaxes[] = {
    {"reference", CPU, INFINITY, run_softmax_reference_forward_cpu, NULL},
    {"simd", CPU, INFINITY, run_softmax_forward_cpu, NULL},
#ifdef WITH_CUDA
    {"naive", CUDA, INFINITY, run_softmax_naive_cuda, NULL},
    {"warp", CUDA, INFINITY, run_softmax_warp_cuda, NULL},
    {"online", CUDA, INFINITY, run_softmax_online_cuda, NULL},
    {"registers", CUDA, INFINITY, run_softmax_registers_cuda, NULL},
#endif
    {0}};

/* ---- a ladder: all rungs, then its rows for the chart ---- */

enum { MAX_RUNGS = 8 };

/*
 * All rungs of one ladder in ctx's dtype. A softmax's share is of the copy bandwidth, a product's
 * of the library's speed. A GPU slows down when it gets hot, so the library is also measured before
 * the others, and the better of the two counts.
 */
static void measure_ladder(Bench *bench, Csv *csv, Ladder ladder, Work *w) {
    const char *names[MAX_RUNGS], *dtype = dtype_name(bench->ctx->dtype);
    BenchTime times[MAX_RUNGS], before = {INFINITY, 0, 0};
    int count = 0;
    double rows = (double)w->rows, cols = (double)w->cols;
    double flop = ladder == MATMUL ? 2 * rows * rows * rows : 0;
    double bytes = ladder == SOFTMAX ? 2 * rows * cols * (double)dtype_size(bench->ctx->dtype) : 0;
    double work = flop + bytes, full = bench->copy_bytes;
    if (ladder == MATMUL) before = bench_time(bench->ctx, library, w, bench->seconds);
    const BenchRung *r = ladder == MATMUL ? products : softmaxes;
    for (; (r = bench_rung(bench, r, 0, w)); r++) {
        BenchTime t = bench_row(bench, flop, bytes, r->run, w, "%s  %s", dtype, r->name);
        if (isnan(t.min)) continue; /* --counters asks for others */
        bench_save(bench, "%s,%s,%lld", ladder_names[ladder], r->name, (long long)w->cols);
        if (r->run == library) {
            t.min = fmin(t.min, before.min);
            full = work / t.min;
        }
        names[count] = r->name;
        times[count++] = t;
    }
    for (int i = 0; i < count; i++)
        csv_row(csv, "%s,%s,%lld,%.5g,%.5g,%.5g,%.2f", names[i], dtype, (long long)w->cols,
                1e3 * times[i].min, 1e3 * times[i].median, 1e-9 * work / times[i].min,
                100 * work / times[i].min / full);
}

static Work new_work(Context *ctx, int size, Ladder kind) {
    Work w = {.rows = 16384, .cols = 1024};
    if (ctx->device == CUDA) w.rows = w.cols = 8192;
    if (kind == MATMUL) {
        w.rows = ctx->device == CPU ? 1000 : ctx->dtype == BF16 ? 8192 : 4096;
        if (size) w.rows = size;
        w.cols = w.rows;
    }
    void **place[] = {&w.a, &w.b, &w.c};
    for (int i = 0; i < 3; i++)
        *place[i] =
            bench_tensor(ctx, "matrix", ctx->dtype, (uint64_t)i, SHAPE(w.rows, w.cols))->data;
    return w;
}

static void measure(Bench *bench, int size, Ladder kind) {
    Context *ctx = bench->ctx;
    char name[64], path[256], figure[128];
    snprintf(name, sizeof name, "%s_%s", ladder_names[kind], device_name(ctx->device));
    snprintf(path, sizeof path, "01_self_attention/figures/out/%s.csv", name);
    snprintf(figure, sizeof figure, "01_self_attention/figures/%s", name);
    Csv csv = figure_open(ctx, path,
                          kind == MATMUL ? "rung,dtype,n,min_ms,median_ms,gflops,percent"
                                         : "rung,dtype,cols,min_ms,median_ms,gbytes,percent");
    const DType dtypes[] = {F32, BF16};
    for (int i = 0; i < (ctx->device == CUDA ? 2 : 1); i++) {
        ctx->dtype = dtypes[i];
        Work w = new_work(ctx, size, kind);
        bench_head(kind == MATMUL ? "C = A B, %lld x %lld" : "softmax of %lld rows of %lld",
                   (long long)w.rows, (long long)w.cols);
        measure_ladder(bench, &csv, kind, &w);
        context_reset(ctx);
    }
    /* a CPU's softmax has two rows, and --counters picks some: no chart */
    bool whole = !bench->counters && (kind == MATMUL || ctx->device == CUDA);
    figure_close(&csv, whole ? figure : NULL);
}

/* ---- one attention head, as a model uses it ---- */

typedef struct Head {
    Params params; /* outlives the steps; x stands among the weights for that reason alone */
    Tensor *x;
    SelfAttention w;
    bool train;
} Head;

static void run_head(Context *ctx, void *user) {
    Head *h = user;
    context_reset(ctx);
    params_zero_grad(&h->params);
    ctx->recording = h->train;
    Tensor *y = self_attention_forward(ctx, h->x, &h->w, NULL);
    if (h->train) tape_backward(ctx, mean(ctx, y));
}

/* In a context of its own, so that its peak memory is the head's. */
static void attention_head(Bench bench) {
    enum { B = 8, T = 512, C = 512, D = 64 };
    Context own, *ctx = &own;
    options_open(&bench.common, ctx);
    bench.ctx = ctx;
    Head head = {.train = false};
    Error err;
    params_init(&head.params, ctx);
    head.x = params_new(&head.params, NULL, "x", SHAPE(B, T, C));
    head.w = self_attention_init(&head.params, "attn", &(SelfAttentionConfig){C, D});
    if (params_allocate(&head.params, true, &err)) fatal("%s", err.text);
    bench_fill(ctx, head.x, 1);
    head.x->requires_grad = false;
    self_attention_randomize(&head.params, &head.w, 1 / sqrtf(C));
    /* Backward: the projections' weights once, both factors of both products. */
    double projections = 3 * 2.0 * B * T * C * D, products = 2 * 2.0 * B * T * T * D;
    bench_head("self-attention, batch 8, 512 tokens of 512 numbers, head of 64");
    bench_row(&bench, projections + products, 0, run_head, &head, "forward");
    head.train = true;
    bench_row(&bench, 2 * projections + 3 * products, 0, run_head, &head, "forward and backward");
    printf("  memory of the step: %.1f MiB, of which the T x T matrices and their gradients are "
           "%.1f\n",
           (double)context_peak_bytes(ctx) / 1048576,
           4.0 * B * T * T * (double)dtype_size(ctx->dtype) / 1048576);
    params_free(&head.params);
    context_free(ctx);
}

int main(int argc, char **argv) {
    Bench bench = {0};
    int size = 0;
    const Option flags[] = {
        OPT_INT("size", 'n', "N", &size, 1, 32768,
                "Matrices of N x N (default 1000; on CUDA 4096 in F32, 8192 in BF16)"),
        OPT_END};
    bench_open(&bench, argc, argv, "Times the rungs of the matrix product and of softmax.", flags,
               NULL, "ladder,rung,n");
    bench_ceilings(&bench);
    measure(&bench, size, SOFTMAX);
    measure(&bench, size, MATMUL);
    attention_head(bench);
    bench_close(&bench);
    return 0;
}
