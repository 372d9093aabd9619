/*
 * The matrix product on the CPU: a ladder of four, of which three stand here, and OpenBLAS.
 *
 *     naive     the definition: each c_ij is a dot product, and B is read down its columns
 *     ordered   the loops reordered so that every access runs along a row, in tiles that stay in
 *               the cache; one number at a time
 *     blocked   the same loops, and the compiler may use vectors
 *     simd      OpenBLAS's own idea (Goto & van de Geijn 2008): packed panels, a tile of C in
 *               registers, all threads; it is what linear() runs on, common/core/cpu_matmul.c
 */
#include "01_self_attention/matmul.h"

#include <cblas.h>
#include <omp.h>
#include <string.h>

/* ---- rung 1: the definition ----
 * Each step of the inner loop takes a number of B that lies n numbers after the last: of the 64
 * bytes that the memory delivers, 4 are used. And it is one chain of dependent additions, so SIMD
 * has nothing to do. */
void matmul_naive_cpu(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float sum = 0;
            for (int64_t p = 0; p < k; p++) sum += a[i * k + p] * b[p * n + j];
            c[i * n + j] = sum;
        }
}

/* ---- rungs 2 and 3: along the rows, in tiles ----
 * The same additions in another order: the inner loop now runs along a row of B and a row of C, and
 * a tile of B (64 x 256 numbers, 64 KiB) serves all rows of A before the next is fetched.
 * Neighbouring numbers of C do not wait for each other, so gcc turns the loop into SIMD. What
 * limits: each multiplication still loads and stores its c from the nearest cache. */
/* [blocked] */
void matmul_blocked_cpu(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k) {
    enum { TILE_K = 64, TILE_N = 256 };
    memset(c, 0, (size_t)(m * n) * sizeof *c);
    for (int64_t p0 = 0; p0 < k; p0 += TILE_K)
        for (int64_t j0 = 0; j0 < n; j0 += TILE_N) {
            int64_t p1 = p0 + TILE_K < k ? p0 + TILE_K : k;
            int64_t j1 = j0 + TILE_N < n ? j0 + TILE_N : n;
            for (int64_t i = 0; i < m; i++)
                for (int64_t p = p0; p < p1; p++) {
                    float a_ip = a[i * k + p];
                    for (int64_t j = j0; j < j1; j++) c[i * n + j] += a_ip * b[p * n + j];
                }
        }
}
/* [/blocked] */

/* Rung 2 is that function, compiled without vectors: what the order alone is worth. */
__attribute__((optimize("no-tree-vectorize"), flatten)) void matmul_ordered_cpu(
    float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k) {
    matmul_blocked_cpu(c, a, b, m, n, k);
}

/* ---- in use: OpenBLAS ---- */

void matmul_batched_cpu(float *c, int add, const float *a, int transpose_a, const float *b,
                        int transpose_b, int64_t batch, int64_t m, int64_t n, int64_t k,
                        float scale) {
    /* Many small products: one for each thread (OpenBLAS sees that it is inside a parallel
     * region and works alone). Few: OpenBLAS shares out each of them, and how it rounds a long sum
     * may then depend on the number of threads. */
    if (m == 0 || n == 0) return;
#pragma omp parallel for schedule(static) if (batch >= omp_get_max_threads())
    for (int64_t i = 0; i < batch; i++)
        cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                    transpose_b ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, scale,
                    a + i * m * k, (int)(transpose_a ? m : k), b + i * k * n,
                    (int)(transpose_b ? k : n), (float)add, c + i * m * n, (int)n);
}
