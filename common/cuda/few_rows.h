/*
 * Linear layers for a few rows: what a step of decoding is made of.
 *
 * With a token of each of a few sequences, the matrices are read once and hardly computed with: a
 * layer of 512 x 512 takes the time of a launch and of one trip to memory. So what stands beside
 * such a product joins its kernel: the norm in front of it, which every block does again for
 * itself, and the addition behind it. Up to FEW_ROWS rows, on the GPU; linear(), linear_residual()
 * and rmsnorm_linear() (ops.h) use these kernels where they apply.
 *
 * A weight may be codes with scales (common/core/quantised.h): the kernels turn them into numbers
 * on their way from memory to the tensor cores, and no copy of the numbers exists.
 *
 * Inside a captured graph the weights are fetched before the kernel in front has ended
 * (few_rows_launch.cuh): so no kernel of that graph may write them.
 */
#ifndef COMMON_FEW_ROWS_H
#define COMMON_FEW_ROWS_H

#include "common/core/quantised.h"

__BEGIN_DECLS

enum { FEW_ROWS = 32 };

/* A weight [out, in], or E of them, as the kernels see it. */
typedef struct FewRowsWeight {
    const void *data;   /* numbers, or codes; NULL: there is no such weight */
    const float *scale; /* of codes; NULL: numbers */
    int64_t out;        /* rows of each of the E */
    int in;
    DType dtype;
    int scales, scale_rows;  /* of each of the E: scales side by side, and rows of them */
    int in_shift, out_shift; /* a block has 2^in_shift columns (31: all) and 2^out_shift rows */
} FewRowsWeight;

/* t may be NULL. */
FewRowsWeight few_rows_weight(const Tensor *t);
FewRowsWeight few_rows_numbers(const void *data, DType dtype, int64_t out, int64_t in);

/*
 * Can the kernels take it? `in` a multiple of 32, at an address of 16 bytes; numbers of the dtype,
 * or, in BF16, codes whose blocks are powers of two, 32 columns or more, or whole rows. A weight
 * that is not there: yes.
 */
bool few_rows_weight_supports(const FewRowsWeight *w, DType dtype);
/* Are both numbers, or codes of one kind, or is one of them not there? */
bool few_rows_same_kind(const FewRowsWeight *a, const FewRowsWeight *b);

/* y = x W^T + bias + residual; bias and residual may be NULL. */
typedef struct FewRowsPart {
    void *y; /* [rows, out] */
    FewRowsWeight w;
    const void *bias, *residual; /* [out], [rows, out] */
} FewRowsPart;

/* One or two products of the same x, in one kernel. */
typedef struct FewRowsLinear {
    const void *x, *norm; /* [rows, in]; [in], or NULL: x as it is */
    float eps;
    int64_t rows, in;
    FewRowsPart part[2]; /* the second zeros: there is none */
    /* Counters that move on by the way: advance[i] += advance_by. The kernel does not read them. */
    int32_t *advance;
    int advance_count, advance_by;
} FewRowsLinear;

/* Rows of 1 .. FEW_ROWS, weights as above and of one kind, all addresses of 16 bytes, and a GPU
 * that has tensor cores for the dtype. Rows that are normalised must fit shared memory. */
int few_rows_supports(const Gpu *gpu, DType dtype, const FewRowsLinear *s);
void few_rows_linear_cuda(Gpu *gpu, DType dtype, const FewRowsLinear *s);

__END_DECLS
#endif
