/*
 * Timing, ceilings and the table of bench.h.
 *
 * The ceilings are the libraries': OpenBLAS's sgemm or cuBLASLt for the matrix peak, memcpy or
 * CUDA's copy for the bandwidth.
 */
#include "common/program/bench.h"

#include "common/core/blas.h"
#include "common/core/ops_kernels.h"
#include "common/files/machine.h"
#include "common/program/progress.h"

#include <cblas.h>
#include <fnmatch.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- beginning and end ---- */

void bench_open(Bench *bench, int argc, char **argv, const char *about, const Option *flags,
                const char *path, const char *columns) {
    static const Option none[] = {OPT_END};
    if (bench->seconds == 0) bench->seconds = 0.5;
    bench->common.csv = path;
    const Option all[] = {
        OPT_TABLE(flags ? flags : none),
        OPT_FLOAT("seconds", 's', "X", &bench->seconds, 0, 1000, "Time for each row"),
        OPT_STRING("counters", 0, "GLOB", &bench->counters,
                   "Only rows whose 'title: name' fits, each once more for tools/counters.py"),
        OPT_CSV(&bench->common),
        OPT_COMMON(&bench->common),
        OPT_END,
    };
    options_parse(argc, argv, about, all);
    bench->ctx = &bench->own;
    options_open(&bench->common, bench->ctx);
    if (bench->counters && bench->ctx->device != CUDA)
        fatal("--counters is for the GPU's counters: add --device cuda");
    if (!bench->common.csv) return;
    Error err;
    char line[512];
    const char *unit = bench->microseconds ? "us" : "ms";
    snprintf(line, sizeof line,
             "device,dtype,%s,min_%s,median_%s,gflops,percent_of_peak,percent_of_copy", columns,
             unit, unit);
    if (csv_open(&bench->csv, bench->common.csv, line, device_describe(bench->ctx).text,
                 bench->common.seed, &err))
        fatal("%s", err.text);
}

void bench_save(Bench *bench, const char *format, ...) {
    char own[512];
    if (!bench->common.csv || isnan(bench->row.time.min)) return;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(own, sizeof own, format, args);
    va_end(args);
    CHECK(length < (int)sizeof own, "a row of %d characters", length);
    const BenchRow *row = &bench->row;
    double unit = bench->microseconds ? 1e6 : 1e3;
    csv_row(&bench->csv, "%s,%s,%s,%.6g,%.6g,%.5g,%.4g,%.4g", device_name(bench->ctx->device),
            dtype_name(bench->ctx->dtype), own, unit * row->time.min, unit * row->time.median,
            1e-9 * row->flops, row->of_peak, row->of_copy);
}

void bench_close(Bench *bench) {
    Error err;
    if (bench->common.csv && csv_close(&bench->csv, &err)) fatal("%s", err.text);
    if (bench->common.csv) printf("\nrows: %s\n", bench->common.csv);
    context_free(bench->ctx);
}

/* ---- time ---- */

enum { MIN_REPEATS = 5, MAX_REPEATS = 2000 };

/* Seconds for one of `calls` calls. */
static double time_calls(Context *ctx, BenchFunction function, void *user, int calls) {
    if (ctx->device == CUDA) {
        gpu_timer_start(ctx->gpu);
        for (int i = 0; i < calls; i++) function(ctx, user);
        return 1e-3 * gpu_timer_stop(ctx->gpu) / calls;
    }
    double start = seconds_now();
    for (int i = 0; i < calls; i++) function(ctx, user);
    return (seconds_now() - start) / calls;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

BenchTime bench_time(Context *ctx, BenchFunction function, void *user, double seconds) {
    /* first touch of memory, cuBLASLt's choice of a kernel, ... */
    time_calls(ctx, function, user, 1);
    double once = time_calls(ctx, function, user, 1);
    /* A sample should be long beside the clock's resolution, on a GPU beside a kernel's start. */
    double sample = ctx->device == CUDA ? 5e-3 : 1e-4;
    int calls = once > 0 && once < sample ? (int)(sample / once) + 1 : 1;
    double wanted = once > 0 ? seconds / (once * calls) : MAX_REPEATS;
    int repeats = wanted < MIN_REPEATS   ? MIN_REPEATS
                  : wanted > MAX_REPEATS ? MAX_REPEATS
                                         : (int)wanted;

    double *times = must_alloc((size_t)repeats, sizeof *times);
    for (int i = 0; i < repeats; i++) times[i] = time_calls(ctx, function, user, calls);
    qsort(times, (size_t)repeats, sizeof *times, compare_doubles);
    BenchTime time = {times[0], times[repeats / 2], repeats};
    if (repeats % 2 == 0) time.median = (times[repeats / 2 - 1] + times[repeats / 2]) / 2;
    free(times);
    return time;
}

/* ---- data ---- */

void bench_fill(Context *ctx, Tensor *t, uint64_t stream) {
    enum { PERIOD = 1 << 20 }; /* numbers; making them all would take longer than the benchmark */
    int64_t n = tensor_count(t), first = n < PERIOD ? n : PERIOD;
    float *values = must_alloc((size_t)PERIOD, sizeof *values);
    for (int64_t i = 0; i < first; i++) values[i] = rng_normal(ctx->rng.seed, stream, (uint64_t)i);
    Tensor start = tensor_view(t->data, t->name, t->dtype, t->device, SHAPE(first));
    tensor_upload(ctx, &start, values);
    free(values);

    size_t size = dtype_size(t->dtype);
    for (int64_t done = first; done < n;) { /* doubling what is there */
        int64_t more = done < n - done ? done : n - done;
        char *to = (char *)t->data + (size_t)done * size;
        device_copy(ctx->gpu, to, t->data, (size_t)more * size);
        done += more;
    }
}

Tensor *bench_tensor(Context *ctx, const char *name, DType dtype, uint64_t stream,
                     const int64_t *shape, int ndim) {
    Tensor *t = tensor_new(ctx, name, dtype, shape, ndim);
    bench_fill(ctx, t, stream);
    return t;
}

/* ---- ceilings ---- */

typedef struct Copy {
    char *to, *from;
    size_t bytes;
} Copy;

static void copy_once(Context *ctx, void *user) {
    Copy *copy = user;
    if (ctx->device == CUDA) {
        gpu_copy(ctx->gpu, copy->to, copy->from, copy->bytes);
        return;
    }
    /* 1 MiB at a time: a static share for each thread, in sizes that memcpy streams. */
    enum { PIECE = 1 << 20 };
    int64_t pieces = (int64_t)(copy->bytes / PIECE);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < pieces; i++)
        memcpy(copy->to + i * PIECE, copy->from + i * PIECE, PIECE);
}

/* Bandwidth of a copy far above the caches: 256 MiB on the CPU, 4 GiB on a GPU, or what fits. */
static double measure_copy(Context *ctx, double seconds) {
    Copy copy = {.bytes = ctx->device == CUDA ? (size_t)4 << 30 : (size_t)256 << 20};
    for (;; copy.bytes /= 2) {
        copy.from = device_alloc(ctx->gpu, copy.bytes);
        copy.to = copy.from ? device_alloc(ctx->gpu, copy.bytes) : NULL;
        if (copy.to) break;
        device_free(ctx->gpu, copy.from);
        if (copy.bytes <= 32 << 20) fatal("out of memory: no room to measure the copy bandwidth");
    }
    /* Untouched pages are all the same page of zeros. */
    device_set(ctx->gpu, copy.from, 1, copy.bytes);
    BenchTime time = bench_time(ctx, copy_once, &copy, seconds);
    device_free(ctx->gpu, copy.from);
    device_free(ctx->gpu, copy.to);
    return 2 * (double)copy.bytes / time.min;
}

typedef struct Square {
    int64_t n;
    DType dtype;
    Tensor x, w, y;
} Square;

/* The library itself, not linear(): what is measured must not be its own yardstick. */
static void square_sgemm(const Square *s, CBLAS_TRANSPOSE transpose) {
    int n = (int)s->n;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, transpose, n, n, n, 1, s->x.data, n, s->w.data, n, 0,
                s->y.data, n);
}

static void square_forward(Context *ctx, void *user) {
    Square *s = user;
#ifdef WITH_CUDA
    if (ctx->device == CUDA) {
        linear_forward_cuda(ctx->gpu, s->dtype, s->y.data, s->x.data, s->w.data, NULL, s->n, s->n,
                            s->n);
        return;
    }
#endif
    (void)ctx;
    square_sgemm(s, CblasTrans);
}

/* y = x w as well: OpenBLAS does not copy W^T and W into its tiles at the same speed. CPU only. */
static void square_backward(Context *ctx, void *user) {
    (void)ctx;
    square_sgemm(user, CblasNoTrans);
}

/* Operations per second of the product of n x n matrices of random numbers. */
static double measure_square(Context *ctx, DType dtype, int64_t n, double seconds) {
    Square s = {.n = n, .dtype = dtype};
    Tensor *all[] = {&s.x, &s.w, &s.y};
    const char *const names[] = {"x", "w", "y"};
    for (int i = 0; i < 3; i++) {
        void *data = device_alloc(ctx->gpu, (size_t)(n * n) * dtype_size(dtype));
        if (!data)
            fatal("out of memory: no room for a product of %lld x %lld matrices", (long long)n,
                  (long long)n);
        *all[i] = tensor_view(data, names[i], dtype, ctx->device, SHAPE(n, n));
        bench_fill(ctx, all[i], (uint64_t)i);
    }
    double best = bench_time(ctx, square_forward, &s, seconds).min;
    if (ctx->device == CPU) best = fmin(best, bench_time(ctx, square_backward, &s, seconds).min);
    for (int i = 0; i < 3; i++) device_free(ctx->gpu, all[i]->data);
    return 2.0 * (double)n * (double)n * (double)n / best;
}

/* The best of a few sizes. On the CPU a product that stays in the caches can be a little faster
 * than a large one. */
static double measure_matrix(Context *ctx, DType dtype, double seconds) {
    if (ctx->device == CUDA) return measure_square(ctx, dtype, 8192, seconds);
    double best = 0;
    for (int64_t n = 512; n <= 2048; n *= 2)
        best = fmax(best, measure_square(ctx, dtype, n, seconds / 2));
    return best;
}

static void print_machine(const Bench *bench) {
    printf("cpu       %s, %d in use; %s\n", cpu_describe().text, blas_threads(),
           blas_describe().text);
    if (bench->ctx->device == CUDA) printf("gpu       %s\n", gpu_describe(bench->ctx->gpu).text);
    printf("ceilings  copy %.4g GB/s (read + write), F32 %.4g GFLOP/s", 1e-9 * bench->copy_bytes,
           1e-9 * bench->flops_f32);
    if (bench->flops_bf16 > 0) printf(", BF16 %.4g GFLOP/s", 1e-9 * bench->flops_bf16);
    printf("\n");
}

void bench_ceilings(Bench *bench) {
    enum { CEILING_MILLISECONDS = 500 };
    double each = 1e-3 * CEILING_MILLISECONDS;
    bench->copy_bytes = measure_copy(bench->ctx, each);
    bench->flops_f32 = measure_matrix(bench->ctx, F32, each);
    if (bench->ctx->device == CUDA) bench->flops_bf16 = measure_matrix(bench->ctx, BF16, each);
    print_machine(bench);
}

double bench_peak(Context *ctx, DType dtype, double seconds) {
    if (ctx->device == CUDA) return measure_square(ctx, dtype, 8192, seconds);
    return measure_square(ctx, dtype, 1024, seconds / 2);
}

/* ---- table ---- */

char *format_duration(char *buffer, size_t size, double seconds) {
    if (seconds < 1e-3)
        snprintf(buffer, size, "%.4g us", 1e6 * seconds);
    else if (seconds < 1)
        snprintf(buffer, size, "%.4g ms", 1e3 * seconds);
    else
        snprintf(buffer, size, "%.4g s", seconds);
    return buffer;
}

/* Of the table that is being printed: a program has one standard output. */
static char table_title[160];

void bench_head(const char *title, ...) {
    va_list args;
    va_start(args, title);
    vsnprintf(table_title, sizeof table_title, title, args);
    va_end(args);
    printf("\n%s\n  %-40s %9s %9s %10s %7s %8s %7s\n", table_title, "", "min", "median", "GFLOP/s",
           "of peak", "GB/s", "of copy");
}

static void print_row(const char *name, const BenchRow *row) {
    char min[32], median[32];
    printf("  %-40s %9s %9s", name, format_duration(min, sizeof min, row->time.min),
           format_duration(median, sizeof median, row->time.median));
    if (row->flops > 0)
        printf(" %10.1f", 1e-9 * row->flops);
    else
        printf(" %10s", "-");
    if (!isnan(row->of_peak))
        printf(" %6.1f%%", row->of_peak);
    else
        printf(" %7s", "-");
    if (!isnan(row->of_copy))
        printf(" %8.1f %6.1f%%\n", 1e-9 * row->bytes, row->of_copy);
    else
        printf(" %8s %7s\n", "-", "-");
    fflush(stdout);
}

/* ---- for a profiler ---- */

static bool fits(const Bench *bench, const char *name) {
    char whole[sizeof table_title + 128];
    if (!bench->counters) return true;
    snprintf(whole, sizeof whole, "%s: %s", table_title, name);
    return fnmatch(bench->counters, whole, FNM_EXTMATCH) == 0;
}

bool bench_wanted(const Bench *bench, const char *name, ...) {
    char text[96];
    va_list args;
    va_start(args, name);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    return fits(bench, text);
}

/* The last row's work, alone; tools/counters.py reads the line and finds the mark. */
static void run_for_profiler(Bench *bench, BenchFunction function, void *user, const char *name) {
    Gpu *gpu = bench->ctx->gpu;
    const BenchRow *row = &bench->row;
    printf("range %d|%s|%s|%.6g|%.4g|%.4g\n", ++bench->ranges, table_title, name,
           1e6 * row->time.min, row->of_peak, row->of_copy);
    fflush(stdout);
    gpu_profile_start(gpu);
    gpu_mark(gpu, bench->ranges);
    function(bench->ctx, user);
    gpu_profile_stop(gpu);
}

BenchTime bench_row(Bench *bench, double flop, double bytes, BenchFunction function, void *user,
                    const char *name, ...) {
    char text[96];
    va_list args;
    va_start(args, name);
    vsnprintf(text, sizeof text, name, args);
    va_end(args);
    if (!fits(bench, text)) {
        bench->row = (BenchRow){{NAN, NAN, 0}, NAN, NAN, NAN, NAN};
        return bench->row.time;
    }
    BenchTime time = bench_time(bench->ctx, function, user, bench->seconds);
    double peak = bench->ctx->dtype == BF16 ? bench->flops_bf16 : bench->flops_f32;
    BenchRow row = {time, flop / time.min, bytes / time.min, NAN, NAN};
    if (flop > 0 && peak > 0) row.of_peak = 100 * row.flops / peak;
    if (bytes > 0) row.of_copy = 100 * row.bytes / bench->copy_bytes;
    print_row(text, &row);
    bench->row = row;
    if (bench->counters) run_for_profiler(bench, function, user, text);
    return time;
}

const BenchRung *bench_rung(const Bench *bench, const BenchRung *rung, double size,
                            const void *work) {
    for (; rung->name; rung++)
        if (rung->device == bench->ctx->device && size <= rung->most &&
            (!rung->supports || rung->supports(bench->ctx, work)))
            return rung;
    return NULL;
}
