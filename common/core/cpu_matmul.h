/*
 * The CPU's matrix product:   C = A B, or C = base + A B
 *
 * For each size another way is the fastest, and cpu_matmul() is the one place where it is chosen,
 * from (m, n, k) and from how B lies: N, by rows of n, or T, by rows of k, as linear()'s weight
 * [out, in]. It shares the work among the threads, unless it is called inside a parallel region:
 * then it computes its product alone.
 *
 *     dots       T, up to CPU_FEW_ROWS rows of C: B is read once, nothing is copied
 *     unpacked   N, few rows, or all but square and small: B is read where it lies, by vectors
 *     turned     T, 25 to 64 rows, B large: A is copied into panels instead of B
 *     packed     everything else: B is copied into panels that stay in a cache
 *
 * GFLOP/s on one core of an AMD EPYC with AVX-512 (Zen 5, peak 265). Beside them OpenBLAS 0.3.21,
 * which copies both matrices and clears C; with its AVX-512 kernels, on the same core.
 *
 *         m     n     k     dots unpacked turned packed OpenBLAS
 *   T      1   512   512      78              7     19       62
 *   T      4   512   512     138             29     62       39
 *   T     16   512   512     148            111    142      105
 *   T     32  1024  1024     170            231    186      122
 *   T     64  2048  2048     140            207    162      149
 *   T    256   128   128     120                   239      219
 *   T    512   512   512     153                   238      234
 *   N      6   512   512            215             77       45
 *   N     64   128   128            226            212      201
 *   N     64  1024  1024            157            202      160
 *   N    512   256   256            252            249      238
 *   N    512   512   512            248            246      240
 *   N    128   128    64 (A^T)      236            224      206
 *   N    256   128  2048 (A^T)      240            233      225
 *   N    512   512  1024 (A^T)      187            237      228
 *
 * From 512 x 512 x 512 on OpenBLAS and packed are within 7 % of each other, either way. With AVX2
 * alone packed has 126 to 132 from 256 x 256 x 256 on, OpenBLAS 115 to 124.
 *
 * Invariant: the way follows from the sizes alone, and in each way an element of C is a sum over k
 * in one order that follows from k alone. So a product may be cut among threads in any way, and the
 * bits stay the same. And up to CPU_FEW_ROWS rows the way does not follow from m either: a row of a
 * few is, bit for bit, what it would be alone. Chapter 06 guesses tokens, looks at several rows
 * where plain decoding would look at one, and must find the same numbers in them.
 */
#ifndef COMMON_CPU_MATMUL_H
#define COMMON_CPU_MATMUL_H

#include <stdint.h>

enum { CPU_FEW_ROWS = 16 };

/* Element (i, j) is at[i * row + j * column]. Either row or column is 1. */
typedef struct CpuMatrix {
    const float *at;
    int64_t row, column;
} CpuMatrix;

typedef struct CpuMatmul {
    float *c;          /* [m, n], rows of contiguous numbers, c_row apart */
    const float *base; /* like c, may be c itself; NULL: zeros */
    int64_t c_row;
    CpuMatrix a, b; /* [m, k], [k, n] */
    int64_t m, n, k;
} CpuMatmul;

/* The definition: three loops, summed in double precision. The reference of all tests. */
void cpu_matmul_reference(const CpuMatmul *p);

/* The fastest way for these sizes, on all threads. */
void cpu_matmul(const CpuMatmul *p);

typedef enum CpuMatmulWay {
    MATMUL_DOTS,
    MATMUL_UNPACKED,
    MATMUL_TURNED,
    MATMUL_PACKED,
    MATMUL_WAYS
} CpuMatmulWay;

/*
 * On: products with a B by rows of k take the way of many rows for few, too, so that a row of C is,
 * bit for bit, what it is among any others. It is the program's, like the number of threads;
 * returns what it was. Chapter 09 draws texts token by token and then asks how likely they are all
 * at once.
 */
int cpu_matmul_rows_alike(int on);

/* A way of one's own choice, for tests and benchmarks; not every way takes every layout. */
void cpu_matmul_by(CpuMatmulWay way, const CpuMatmul *p);
int cpu_matmul_takes(const CpuMatmul *p, CpuMatmulWay way);

#endif
