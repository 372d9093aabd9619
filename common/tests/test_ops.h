/*
 * What the tests of the common operations share: ragged sizes, what rounding may do to one element,
 * and a constant that makes a scalar of any output.
 */
#ifndef COMMON_TEST_OPS_H
#define COMMON_TEST_OPS_H

#include "common/core/ops_kernels.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t sizes[][2] = {{1, 1}, {1, 33}, {31, 5}, {33, 31}, {127, 129}, {300, 64}};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

/*
 * Elementwise results carry the rounding of their dtype and, on the GPU, the few units in the last
 * place of __expf (2^-21 relative at |x| < 8): ten roundings of F32 are allowed, and one of BF16
 * (2^-8) where a result is rounded to it.
 */
static inline double elementwise_tolerance(DType dtype) {
    return 10 * 0x1p-24 + (dtype == BF16) * 0x1p-8;
}

/* A constant that makes a scalar of any output; its numbers tell elements apart. */
static inline Tensor *random_constant(Context *ctx, uint64_t stream, const Tensor *like) {
    int64_t n = tensor_count(like);
    float *host = test_floats(n);
    for (int64_t i = 0; i < n; i++) host[i] = rng_normal(7, stream, (uint64_t)i);
    Tensor *c = tensor_copy_in(ctx, "constant", F32, host, like->shape, like->ndim);
    return c;
}

#endif
