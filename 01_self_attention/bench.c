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
#include "common/files/csv.h"
#include "common/files/machine.h"
#include "common/program/options.h"
#include "common/program/plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- one row of a ladder ---- */

typedef enum Ladder { MATMUL, SOFTMAX } Ladder;

typedef void (*CpuProduct)(float *, const float *, const float *, int64_t, int64_t, int64_t);
typedef void (*CpuSoftmax)(float *, const float *, int64_t, int64_t);
typedef void (*CudaProduct)(Gpu *, DType, void *, const void *, const void *, int64_t, int64_t,
                            int64_t);
typedef void (*CudaSoftmax)(Gpu *, DType, void *, const void *, int64_t, int64_t);

typedef struct Rung {
    const char *name;
    CpuProduct cpu_product; /* one of the four */
    CpuSoftmax cpu_softmax;
    CudaProduct cuda_product;
    CudaSoftmax cuda_softmax;
    int bf16_only;
} Rung;

typedef struct Work {
    const Rung *rung;
    DType dtype;
    int64_t rows, cols; /* equal for a product */
    void *a, *b, *c;
} Work;

static void run_rung(Context *ctx, void *user) {
    Work *w = user;
    const Rung *r = w->rung;
    if (r->cpu_product) r->cpu_product(w->c, w->a, w->b, w->rows, w->rows, w->rows);
    if (r->cpu_softmax) r->cpu_softmax(w->c, w->a, w->rows, w->cols);
    if (r->cuda_product)
        r->cuda_product(ctx->gpu, w->dtype, w->c, w->a, w->b, w->rows, w->rows, w->rows);
    if (r->cuda_softmax) r->cuda_softmax(ctx->gpu, w->dtype, w->c, w->a, w->rows, w->cols);
}

/* The last rung is not this chapter's own: linear() runs on it. */
static void simd(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k) {
    cpu_matmul_by(MATMUL_PACKED, &(CpuMatmul){c, NULL, n, {a, k, 1}, {b, n, 1}, m, n, k});
}

static void openblas(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k) {
    matmul_batched_cpu(c, 0, a, 0, b, 0, 1, m, n, k, 1);
}

static const Rung cpu_products[] = {{.name = "naive", .cpu_product = matmul_naive_cpu},
                                    {.name = "blocked", .cpu_product = matmul_blocked_cpu},
                                    {.name = "simd", .cpu_product = simd},
                                    {.name = "OpenBLAS", .cpu_product = openblas}};
static const Rung cpu_softmaxes[] = {
    {.name = "reference", .cpu_softmax = softmax_reference_forward_cpu},
    {.name = "simd", .cpu_softmax = softmax_forward_cpu}};
#ifdef WITH_CUDA
static void cublas(Gpu *gpu, DType dtype, void *c, const void *a, const void *b, int64_t m,
                   int64_t n, int64_t k) {
    matmul_batched_cuda(gpu, dtype, c, 0, a, 0, b, 0, 1, m, n, k, 1);
}

static const Rung cuda_products[] = {
    {.name = "naive", .cuda_product = matmul_naive_cuda},
    {.name = "shared", .cuda_product = matmul_shared_cuda},
    {.name = "registers", .cuda_product = matmul_registers_cuda},
    {.name = "tensor", .cuda_product = matmul_tensor_cuda, .bf16_only = 80},
    {.name = "hopper", .cuda_product = matmul_hopper_cuda, .bf16_only = 90},
    {.name = "cuBLAS", .cuda_product = cublas}};
static const Rung cuda_softmaxes[] = {
    {.name = "naive", .cuda_softmax = softmax_naive_cuda},
    {.name = "warp", .cuda_softmax = softmax_warp_cuda},
    {.name = "online", .cuda_softmax = softmax_online_cuda},
    {.name = "registers", .cuda_softmax = softmax_registers_cuda}};
#endif

static int available(Context *ctx, const Rung *rung, const Work *w) {
#ifdef WITH_CUDA
    if (rung->bf16_only == 80) return matmul_tensor_available(ctx->gpu, w->dtype);
    if (rung->bf16_only == 90) return matmul_hopper_available(ctx->gpu, w->dtype, w->rows, w->rows);
#endif
    (void)ctx, (void)rung, (void)w;
    return 1;
}

/* ---- a ladder: all rungs, then its rows for the chart ---- */

enum { MAX_RUNGS = 8 };

/*
 * All rungs of one ladder in one dtype. A softmax's share is of the copy bandwidth, a product's of
 * the library's speed. A GPU slows down when it gets hot, so the library (the last rung) is also
 * measured before the others, and the better of the two counts.
 */
static void measure_ladder(Bench *bench, Csv *csv, Ladder ladder, const Rung *rungs, int count,
                           Work *w) {
    double rows = (double)w->rows, cols = (double)w->cols;
    double flop = ladder == MATMUL ? 2 * rows * rows * rows : 0;
    double bytes = ladder == SOFTMAX ? 2 * rows * cols * (double)dtype_size(w->dtype) : 0;
    double work = ladder == MATMUL ? flop : bytes;
    BenchTime time[MAX_RUNGS] = {{0, 0, 0}};
    w->rung = &rungs[count - 1];
    double library = bench_time(bench->ctx, run_rung, w, bench->seconds).min;
    for (int i = 0; i < count; i++) {
        w->rung = &rungs[i];
        if (!available(bench->ctx, &rungs[i], w)) continue;
        char name[64];
        snprintf(name, sizeof name, "%s  %s", dtype_name(w->dtype), rungs[i].name);
        time[i] = bench_row(bench, name, w->dtype, flop, bytes, run_rung, w);
    }
    library = fmin(library, time[count - 1].min);
    double full = ladder == MATMUL ? work / library : bench->copy_bytes;
    for (int i = 0; i < count; i++) {
        if (time[i].min == 0) continue;
        int is_library = ladder == MATMUL && i == count - 1;
        double speed = is_library ? full : work / time[i].min;
        char row[160];
        snprintf(row, sizeof row, "%s,%s,%lld,%.5g,%.5g,%.5g,%.2f", rungs[i].name,
                 dtype_name(w->dtype), (long long)w->cols, 1e3 * work / speed, 1e3 * time[i].median,
                 1e-9 * speed, 100 * speed / full);
        csv_row(csv, "%s", row);
        bench_save(bench, "%s,%s", ladder == MATMUL ? "matmul" : "softmax", row);
    }
}

static void close_and_draw(Csv *csv, Context *ctx, Ladder ladder, const char *path) {
    Error err;
    if (csv_close(csv, &err)) fatal("%s", err.text);
    if (ladder == SOFTMAX && ctx->device == CPU) return; /* two rows make no chart */
    char script[128], out[128];
    const char *name = ladder == SOFTMAX     ? "softmax_cuda"
                       : ctx->device == CUDA ? "matmul_cuda"
                                             : "matmul_cpu";
    snprintf(script, sizeof script, "01_self_attention/figures/%s.gp", name);
    snprintf(out, sizeof out, "01_self_attention/figures/out/%s", name);
    plot_or_explain(script, path, out);
}

static const Rung *rungs_of(Context *ctx, Ladder kind, int *count) {
#ifdef WITH_CUDA
    if (ctx->device == CUDA) {
        *count = kind == MATMUL ? 6 : 4;
        return kind == MATMUL ? cuda_products : cuda_softmaxes;
    }
#endif
    (void)ctx;
    *count = kind == MATMUL ? 4 : 2;
    return kind == MATMUL ? cpu_products : cpu_softmaxes;
}

static Work new_work(Context *ctx, int size, Ladder kind, DType dtype) {
    Work w = {.dtype = dtype, .rows = 16384, .cols = 1024};
    if (ctx->device == CUDA) w.rows = w.cols = 8192;
    if (kind == MATMUL) {
        w.rows = ctx->device == CPU ? 1000 : dtype == BF16 ? 8192 : 4096;
        if (size) w.rows = size;
        w.cols = w.rows;
    }
    void **place[] = {&w.a, &w.b, &w.c};
    for (int i = 0; i < 3; i++) {
        Tensor *t = tensor_new(ctx, "matrix", dtype, SHAPE(w.rows, w.cols));
        bench_fill(ctx, t, (uint64_t)i);
        *place[i] = t->data;
    }
    return w;
}

static void measure(Bench *bench, int size, Ladder kind) {
    Context *ctx = bench->ctx;
    char path[256], title[128];
    int count;
    const Rung *rungs = rungs_of(ctx, kind, &count);
    Csv csv;
    snprintf(path, sizeof path, "01_self_attention/figures/out/%s_%s.csv",
             kind == MATMUL ? "matmul" : "softmax", device_name(ctx->device));
    Error err;
    if (csv_open(&csv, path,
                 kind == MATMUL ? "rung,dtype,n,min_ms,median_ms,gflops,percent"
                                : "rung,dtype,cols,min_ms,median_ms,gbytes,percent",
                 device_describe(ctx).text, bench->common.seed, &err))
        fatal("%s", err.text);
    const DType dtypes[] = {F32, BF16};
    for (int i = 0; i < (ctx->device == CUDA ? 2 : 1); i++) {
        Work w = new_work(ctx, size, kind, dtypes[i]);
        snprintf(title, sizeof title,
                 kind == MATMUL ? "C = A B, %lld x %lld" : "softmax of %lld rows of %lld",
                 (long long)w.rows, (long long)w.cols);
        bench_head(title);
        measure_ladder(bench, &csv, kind, rungs, count, &w);
        context_reset(ctx);
    }
    close_and_draw(&csv, ctx, kind, path);
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
    bench_row(&bench, "forward", ctx->dtype, projections + products, 0, run_head, &head);
    head.train = true;
    bench_row(&bench, "forward and backward", ctx->dtype, 2 * projections + 3 * products, 0,
              run_head, &head);
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
               NULL, "ladder,rung,dtype,n,min_ms,median_ms,giga_per_second,percent");
    bench_ceilings(&bench);
    measure(&bench, size, SOFTMAX);
    measure(&bench, size, MATMUL);
    attention_head(bench);
    bench_close(&bench);
    return 0;
}
