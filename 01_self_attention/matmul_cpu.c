/*
 * The matrix product on the CPU, a ladder of three, and OpenBLAS.
 *
 *     naive     the definition: each c_ij is a dot product, and B is read down its columns
 *     blocked   the loops reordered so that every access runs along a row, in tiles that stay in
 *               the cache
 *     simd      OpenBLAS's own idea (Goto & van de Geijn 2008) in a hundred lines: packed panels,
 *               a tile of C in registers, all threads
 */
#include "01_self_attention/matmul.h"

#include <cblas.h>
#include <omp.h>
#include <stdlib.h>
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

/* ---- rung 2: along the rows, in tiles ----
 * The same additions in another order: the inner loop now runs along a row of B and a row of C,
 * which gcc turns into SIMD, and a tile of B (64 x 256 numbers, 64 KiB) serves all rows of A before
 * the next is fetched. What limits: each multiplication still loads and stores its c from the
 * nearest cache. */
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

/* ---- rung 3: packed panels, a tile of C in registers, threads ----
 * A tile of MR x NR numbers of C stays in vector registers over KC steps; each step loads NR
 * numbers of B and MR of A and does MR * NR multiply-adds with them. To feed it without a wasted
 * byte, A and B are first copied ("packed") into the order in which the tile reads them. What
 * limits: the multiply-add units. (Where it falls behind OpenBLAS is small matrices, for which the
 * copies are not worth their time.) */

/* GCC's vectors: the operators work on all lanes, and the compiler maps them to whatever the
 * processor has. */
#ifdef __AVX512F__
enum { LANES = 16, MR = 12 }; /* 12 x 2 accumulators, 2 of B, 1 of A: 27 of 32 registers */
#else
enum { LANES = 8, MR = 6 }; /* 6 x 2 + 2 + 1 = 15 of 16 */
#endif
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
enum { NR = 2 * LANES, KC = 256, MC = 8 * MR, NC = 64 * NR };

/* C tile = packed A (KC x MR) times packed B (KC x NR), added to what c holds unless `first`. */
/* [tile] */
static void tile(float *c, int64_t ldc, int rows, int cols, const float *a, const float *b,
                 int64_t depth, int first) {
    Vector sum[MR][2] = {0};
    for (int64_t p = 0; p < depth; p++, a += MR, b += NR) {
        Vector b0 = *(const Vector *)b, b1 = *(const Vector *)(b + LANES);
        for (int i = 0; i < MR; i++) { /* unrolled: every sum[i][.] is a register */
            sum[i][0] += a[i] * b0;
            sum[i][1] += a[i] * b1;
        }
    }
    if (rows == MR && cols == NR) {
        for (int i = 0; i < MR; i++)
            for (int v = 0; v < 2; v++) {
                Vector *to = (Vector *)(c + i * ldc + v * LANES);
                *to = first ? sum[i][v] : *to + sum[i][v];
            }
        return;
    }
    const float *at = (const float *)sum; /* at the right and lower edge: number by number */
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++)
            c[i * ldc + j] = (first ? 0 : c[i * ldc + j]) + at[i * NR + j];
}
/* [/tile] */

static int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

/* Strips of MR rows, each step's MR numbers side by side; missing rows are zero. */
static void pack_a(float *to, const float *a, int64_t lda, int64_t rows, int64_t depth) {
    for (int64_t i = 0; i < rows; i += MR)
        for (int64_t p = 0; p < depth; p++)
            for (int64_t r = i; r < i + MR; r++) *to++ = r < rows ? a[r * lda + p] : 0;
}

/* One strip of NR columns. */
static void pack_b(float *to, const float *b, int64_t ldb, int64_t cols, int64_t depth) {
    for (int64_t p = 0; p < depth; p++, to += NR)
        for (int64_t j = 0; j < NR; j++) to[j] = j < cols ? b[p * ldb + j] : 0;
}

static float *buffer(size_t numbers) {
    float *p = aligned_alloc(64, (numbers * sizeof *p + 63) / 64 * 64);
    if (!p) fatal("out of memory: a matrix product needs %zu bytes for its panels", numbers * 4);
    return p;
}

/* Every tile of C belongs to one thread at a time and meets its k's in order, so the result does
 * not depend on the threads. */
void matmul_simd_cpu(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k) {
    if (k == 0) memset(c, 0, (size_t)(m * n) * sizeof *c);
    float *panel_b = buffer((size_t)KC * NC);
    int64_t work = m * n * k;
#pragma omp parallel if (work > 1 << 18) /* less is done before the threads are awake */
    {
        float *panel_a = buffer((size_t)MC * KC);
        for (int64_t j0 = 0; j0 < n; j0 += NC)
            for (int64_t p0 = 0; p0 < k; p0 += KC) {
                int64_t cols = min(NC, n - j0), depth = min(KC, k - p0);
#pragma omp for
                for (int64_t j = 0; j < cols; j += NR)
                    pack_b(panel_b + j * depth, b + p0 * n + j0 + j, n, cols - j, depth);
#pragma omp for schedule(dynamic)
                for (int64_t i0 = 0; i0 < m; i0 += MC) {
                    int64_t rows = min(MC, m - i0);
                    pack_a(panel_a, a + i0 * k + p0, k, rows, depth);
                    for (int64_t j = 0; j < cols; j += NR)
                        for (int64_t i = 0; i < rows; i += MR)
                            tile(c + (i0 + i) * n + j0 + j, n, (int)min(MR, rows - i),
                                 (int)min(NR, cols - j), panel_a + i * depth, panel_b + j * depth,
                                 depth, p0 == 0);
                }
            }
        free(panel_a);
    }
    free(panel_b);
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
