/*
 * The part of `make doctor` that must run to know: which kernels OpenBLAS picked, which it uses
 * after the correction of common/core/blas.c, and how fast a matrix product is with them.
 */
#include "../common/core/blas.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1536 };

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "kernels") == 0) return puts(blas_corename()) < 0;
    float *a = malloc(sizeof(float) * N * N), *b = malloc(sizeof(float) * N * N);
    float *c = malloc(sizeof(float) * N * N);
    if (!a || !b || !c) return 1;
    for (int i = 0; i < N * N; i++) a[i] = (float)(i % 7), b[i] = (float)(i % 5);
    double best = 1e30;
    for (int repeat = 0; repeat < 5; repeat++) {
        double start = omp_get_wtime();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N, N, N, 1, a, N, b, N, 0, c, N);
        double seconds = omp_get_wtime() - start;
        if (seconds < best) best = seconds;
    }
    printf("%s, %d threads, %.0f GFLOP/s in a %d^3 sgemm\n", blas_corename(), blas_threads(),
           2e-9 * N * N * N / best, N);
    free(a);
    free(b);
    free(c);
    return 0;
}
