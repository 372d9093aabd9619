/*
 * The norm and the product behind it: the fused kernel where it applies, the composition elsewhere.
 */
#include "common/cuda/few_rows.h"

#include "common/core/ops.h"

#include <string.h>

#ifdef WITH_CUDA
/* y [..., out] in one kernel, or NULL where that does not apply. */
static Tensor *fused(Context *ctx, const Tensor *x, const Tensor *norm, float eps,
                     const Tensor *weight) {
    int64_t shape[MAX_DIMS], in = tensor_dim(x, -1), out = tensor_dim(weight, 0);
    FewRowsLinear s = {.x = x->data,
                       .norm = norm->data,
                       .eps = eps,
                       .rows = tensor_rows(x),
                       .in = in,
                       .part = {{.w = weight->data, .out = out}}};
    if (ctx->device != CUDA || ctx->recording || !few_rows_supports(ctx->gpu, ctx->dtype, &s))
        return NULL;
    check_shape("rmsnorm_linear", x, ctx->dtype, x->shape, x->ndim);
    check_shape("rmsnorm_linear", weight, ctx->dtype, SHAPE(out, in));
    check_shape("rmsnorm_linear", norm, ctx->dtype, SHAPE(in));
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = out;
    Tensor *y = tensor_new(ctx, "linear", ctx->dtype, shape, x->ndim);
    s.part[0].y = y->data;
    few_rows_linear_cuda(ctx->gpu, ctx->dtype, &s);
    return y;
}
#else
static Tensor *fused(Context *ctx, const Tensor *x, const Tensor *norm, float eps,
                     const Tensor *weight) {
    return (void)ctx, (void)x, (void)norm, (void)eps, (void)weight, NULL;
}
#endif

Tensor *rmsnorm_linear(Context *ctx, Tensor *x, Tensor *norm, float eps, Tensor *weight) {
    Tensor *y = fused(ctx, x, norm, eps, weight);
    return y ? y : linear(ctx, rmsnorm(ctx, x, norm, eps), weight, NULL);
}
