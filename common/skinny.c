/*
 * Linear layers for a few rows: the fused kernel where it applies, the composition elsewhere.
 */
#include "skinny.h"

#include "ops.h"

#include <string.h>

#ifdef WITH_CUDA
/* The fused y [..., out], or NULL where it does not apply. */
static Tensor *fused(Context *ctx, const Tensor *x, const Tensor *norm, float eps,
                     const Tensor *weight, const Tensor *bias, const Tensor *residual) {
    int64_t shape[MAX_DIMS], in = tensor_dim(x, -1), out = tensor_dim(weight, 0);
    SkinnyLinear s = {.x = x->data,
                      .norm = norm ? norm->data : NULL,
                      .eps = eps,
                      .rows = tensor_rows(x),
                      .in = in,
                      .part = {{.w = weight->data,
                                .bias = bias ? bias->data : NULL,
                                .residual = residual ? residual->data : NULL,
                                .out = out}}};
    if (ctx->device != CUDA || ctx->recording || !skinny_supports(ctx->gpu, ctx->dtype, &s))
        return NULL;
    check_shape("linear", x, ctx->dtype, x->shape, x->ndim);
    check_shape("linear", weight, ctx->dtype, SHAPE(out, in));
    if (norm) check_shape("rmsnorm", norm, ctx->dtype, SHAPE(in));
    if (bias) check_shape("linear", bias, ctx->dtype, SHAPE(out));
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = out;
    if (residual) check_shape("linear_add", residual, ctx->dtype, shape, x->ndim);
    Tensor *y = tensor_new(ctx, "linear", ctx->dtype, shape, x->ndim);
    s.part[0].y = y->data;
    skinny_linear_cuda(ctx->gpu, ctx->dtype, &s);
    return y;
}
#else
static Tensor *fused(Context *ctx, const Tensor *x, const Tensor *norm, float eps,
                     const Tensor *weight, const Tensor *bias, const Tensor *residual) {
    return (void)ctx, (void)x, (void)norm, (void)eps, (void)weight, (void)bias, (void)residual,
           NULL;
}
#endif

Tensor *rmsnorm_linear(Context *ctx, Tensor *x, Tensor *norm, float eps, Tensor *weight) {
    Tensor *y = fused(ctx, x, norm, eps, weight, NULL, NULL);
    return y ? y : linear(ctx, rmsnorm(ctx, x, norm, eps), weight, NULL);
}

Tensor *linear_add(Context *ctx, Tensor *x, Tensor *weight, Tensor *bias, Tensor *residual) {
    Tensor *y = fused(ctx, x, NULL, 0, weight, bias, residual);
    return y ? y : add(ctx, residual, linear(ctx, x, weight, bias));
}
