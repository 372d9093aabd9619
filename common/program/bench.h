/*
 * Benchmarks: time a piece of work, print a row, say how far it is from what the machine can do.
 *
 * Every row gives the minimum and the median over repeats, and two shares of ceilings measured in
 * the same run: of the matrix peak (OpenBLAS sgemm; cuBLASLt in F32 or BF16) for its operations,
 * and of the copy bandwidth for its bytes. The shares are those of the minimum, and the ceilings
 * are minima too: on a shared machine the fastest repeat is the one that was disturbed the least.
 */
#ifndef COMMON_BENCH_H
#define COMMON_BENCH_H

#include "common/core/context.h"
#include "common/files/csv.h"
#include "common/program/options.h"

/* The work, once. It may allocate nothing in ctx's arena that it does not give back, for it is
 * called many times. */
typedef void (*BenchFunction)(Context *ctx, void *user);

typedef struct BenchTime {
    double min, median; /* seconds for one call */
    int repeats;
} BenchTime;

/*
 * Warms up, then repeats for about `seconds` (at least 5 times). On CUDA: events around several
 * calls at once, so that launches overlap with work as they do in a model.
 */
BenchTime bench_time(Context *ctx, BenchFunction function, void *user, double seconds);

/* A row of the table, and how much of its ceilings it reached. */
typedef struct BenchRow {
    BenchTime time;
    double flops, bytes;     /* per second; 0: not asked for */
    double of_peak, of_copy; /* percent; NaN where the row has no such number */
} BenchRow;

typedef struct Bench {
    CommonOptions common;
    Context own, *ctx;    /* ctx: own's address */
    Csv csv;              /* in use if common.csv */
    double copy_bytes;    /* bytes read + written per second by a large copy */
    double flops_f32;     /* per second: the best of 512^3 .. 2048^3 (CPU), or 8192^3 (CUDA) */
    double flops_bf16;    /* CUDA only, 8192^3; 0 on the CPU */
    double seconds;       /* per row; --seconds */
    bool microseconds;    /* the unit of the CSV's times; else milliseconds */
    const char *counters; /* --counters; NULL: all rows, and no profiler */
    int ranges;           /* rows that ran for it */
    BenchRow row;         /* the last one */
} Bench;

/*
 * The beginning of a benchmark: its command line (`flags`, or NULL, with --seconds, --csv and the
 * common ones), its context and its CSV, whose head says commit, compiler, device and seed. `path`
 * is where the CSV goes without --csv; NULL: nowhere. `columns` names what the caller says of a
 * row; before them stand device and dtype, behind them min_ms and median_ms (or _us), gflops,
 * percent_of_peak and percent_of_copy.
 * Prints the error and exits if one of them fails. `bench` is all zeros, or has another default
 * for --seconds than 0.5.
 */
void bench_open(Bench *bench, int argc, char **argv, const char *about, const Option *flags,
                const char *path, const char *columns);
/* Closes what bench_open opened; exits with a message if the CSV is not complete. */
void bench_close(Bench *bench);

/* Measures the ceilings, which takes a second or two, and prints them: CPU, cores, BLAS kernels,
 * GPU, ceilings. */
void bench_ceilings(Bench *bench);

/* Operations per second of the fastest product that is found within about `seconds`: the matrix
 * peak for those who cannot wait for bench_ceilings. */
double bench_peak(Context *ctx, DType dtype, double seconds);

/* ---- the table ---- */

void bench_head(const char *title, ...) __attribute__((format(printf, 1, 2)));

/*
 * Times the work and prints its row under this name. flop or bytes may be 0; ctx's dtype picks the
 * matrix peak.
 *
 * With --counters GLOB only rows count whose "title: name" fits (a pattern of the shell's, as in
 * bash with extglob). Each is timed, then runs once more, alone between cudaProfilerStart and
 * cudaProfilerStop: tools/counters.py has a profiler look there. For the others the time is NaN,
 * and bench_save leaves them out.
 */
BenchTime bench_row(Bench *bench, double flop, double bytes, BenchFunction function, void *user,
                    const char *name, ...) __attribute__((format(printf, 6, 7)));

/* Whether bench_row() would run it under this name: asked by those whose data take long to make. */
bool bench_wanted(const Bench *bench, const char *name, ...) __attribute__((format(printf, 2, 3)));

/* The last row in the CSV, if there is one: the format gives the caller's columns. */
void bench_save(Bench *bench, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One way of doing a piece of work. A ladder of them is an array that ends with {0}. */
typedef struct BenchRung {
    const char *name;
    Device device;
    double most; /* of what the caller calls its size; above, it is left out: too slow */
    BenchFunction run;
    int (*supports)(Context *ctx, const void *work); /* NULL: everything */
} BenchRung;

/* The next rung, from this one on, that runs here on work of this size; NULL behind the last. */
const BenchRung *bench_rung(const Bench *bench, const BenchRung *rung, double size,
                            const void *work);

/* Fills a tensor (F32 or BF16) with Normal(0, 1) numbers; large ones repeat. Zeros would let a GPU
 * run faster than data does. */
void bench_fill(Context *ctx, Tensor *t, uint64_t stream);

/* A new tensor, filled. */
Tensor *bench_tensor(Context *ctx, const char *name, DType dtype, uint64_t stream,
                     const int64_t *shape, int ndim);

/* "812 us", "12.3 ms", "1.20 s" in the caller's buffer; returns it. */
char *format_duration(char *buffer, size_t size, double seconds);

#endif
