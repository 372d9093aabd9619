/*
 * Benchmarks: time a piece of work, print a row, and say how far it is from what the machine can do.
 *
 * Every row gives the minimum and the median over repeats, and a percentage of a ceiling measured in the same run: the
 * copy bandwidth, or the matrix peak (OpenBLAS sgemm; cuBLAS bf16 or f32).
 */
#ifndef COMMON_BENCH_H
#define COMMON_BENCH_H

#include "context.h"

typedef void (*BenchFunction)(Context *ctx, void *user);

typedef struct BenchTime {
    double min, median; /* seconds for one call */
    int repeats;
} BenchTime;

/* Warms up, then repeats for about `seconds` (at least 5 times). On CUDA: events around several calls at once. */
BenchTime bench_time(Context *ctx, BenchFunction function, void *user, double seconds);

/* The ceilings, measured on first use and remembered in *bench. */
typedef struct Bench {
    Context *ctx;
    double copy_bytes;     /* bytes read + written per second by a large copy */
    double flops_f32;      /* per second, 2048^3 sgemm (CPU) or 8192^3 (CUDA) */
    double flops_bf16;     /* CUDA only, 8192^3; 0 on the CPU */
    double seconds;        /* per row; --seconds */
} Bench;

void bench_init(Bench *bench, Context *ctx, double seconds);
void bench_print_machine(const Bench *bench); /* CPU, cores, BLAS kernels, GPU and the three ceilings */

/* Table: head, then rows. flop or bytes may be 0; dtype says which matrix peak the percentage is of. */
void bench_head(const char *title);
BenchTime bench_row(Bench *bench, const char *name, DType dtype, double flop, double bytes,
                    BenchFunction function, void *user);
/* A row for something else's time (a peer), in seconds. */
void bench_row_time(Bench *bench, const char *name, DType dtype, double flop, double bytes, BenchTime time);

#endif
