/*
 * Linear layers for a few rows: what a step of decoding is made of.
 *
 * With a token of each of a few sequences, the matrices are read once and hardly computed with: a
 * layer of 512 x 512 takes the time of a launch and of one trip to memory. So what stands beside
 * such a product joins its kernel: the norm in front of it, which every block does again for
 * itself, and the addition behind it. Up to FEW_ROWS rows, on the GPU; linear(), linear_residual()
 * and rmsnorm_linear() (ops.h) use these kernels where they apply.
 *
 * Inside a captured graph the weights are fetched before the kernel in front has ended
 * (few_rows_launch.cuh): so no kernel of that graph may write them.
 */
#ifndef COMMON_FEW_ROWS_H
#define COMMON_FEW_ROWS_H

#include "common/core/context.h"

__BEGIN_DECLS

enum { FEW_ROWS = 32 };

/* y = x W^T + bias + residual; bias and residual may be NULL. */
typedef struct FewRowsPart {
    void *y;                         /* [rows, out] */
    const void *w, *bias, *residual; /* [out, in], [out], [rows, out] */
    int64_t out;
} FewRowsPart;

/* One or two products of the same x, in one kernel. */
typedef struct FewRowsLinear {
    const void *x, *norm; /* [rows, in]; [in], or NULL: x as it is */
    float eps;
    int64_t rows, in;
    FewRowsPart part[2]; /* the second with out 0: there is none */
    /* Counters that move on by the way: advance[i] += advance_by. The kernel does not read them. */
    int32_t *advance;
    int advance_count, advance_by;
} FewRowsLinear;

/* Rows of 1 .. FEW_ROWS, `in` a multiple of 32, all addresses of 16 bytes, and a GPU that has
 * tensor cores for the dtype. Rows that are normalised must fit shared memory. */
int few_rows_supports(const Gpu *gpu, DType dtype, const FewRowsLinear *s);
void few_rows_linear_cuda(Gpu *gpu, DType dtype, const FewRowsLinear *s);

__END_DECLS
#endif
