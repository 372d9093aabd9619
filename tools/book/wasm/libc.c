/*
 * What a page's program is linked with instead of glibc's extras and OpenBLAS: the product is
 * cpu_matmul(), the chapters' own.
 */
#include "common/core/cpu_matmul.h"
#include "common/core/memory.h"

#include <cblas.h>
#include <stdlib.h>

char *program_invocation_short_name = "the page";

void *reallocarray(void *memory, size_t count, size_t size) {
    return size && count > SIZE_MAX / size ? NULL : realloc(memory, count * size);
}

/* memory.c asks for large pages: a wish, no more. */
int madvise(void *memory, size_t size, int advice);
int madvise(void *memory, size_t size, int advice) {
    (void)memory, (void)size, (void)advice;
    return 0;
}

/* Who waits for other processes is watched over (common/comm); a page waits for nobody. */
void watchdog_enter(void *watchdog, const char *doing);
void watchdog_enter(void *watchdog, const char *doing) { (void)watchdog, (void)doing; }
void watchdog_leave(void *watchdog);
void watchdog_leave(void *watchdog) { (void)watchdog; }

/* C = alpha op(A) op(B) + beta C. cpu_matmul() adds A B to a base; factors other than 1 are put
 * into a copy of A and into C. */
void cblas_sgemm(CBLAS_ORDER order, CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k,
                 float alpha, const float *a, int lda, const float *b, int ldb, float beta,
                 float *c, int ldc) {
    (void)order;
    CpuMatrix left = ta == CblasTrans ? (CpuMatrix){a, 1, lda} : (CpuMatrix){a, lda, 1};
    CpuMatrix right = tb == CblasTrans ? (CpuMatrix){b, 1, ldb} : (CpuMatrix){b, ldb, 1};
    float *scaled = NULL;
    if (alpha != 1) {
        scaled = must_alloc((size_t)m * (size_t)k, sizeof *scaled);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < k; j++)
                scaled[i * k + j] = alpha * left.at[i * left.row + j * left.column];
        left = (CpuMatrix){scaled, k, 1};
    }
    for (int64_t i = 0; i < m && beta != 0 && beta != 1; i++)
        for (int64_t j = 0; j < n; j++) c[i * ldc + j] *= beta;
    cpu_matmul(&(CpuMatmul){c, beta != 0 ? c : NULL, ldc, left, right, m, n, k});
    free(scaled);
}
