/*
 * The door for quantised weights: what is checked before a weight goes to its products.
 */
#include "common/core/quantised.h"

#include <string.h>

int quantised_scale_shape(int64_t *shape, const Tensor *weight, int block_out, int block_in) {
    int n = weight->ndim;
    for (int i = 0; i < MAX_DIMS; i++) shape[i] = weight->shape[i];
    shape[n - 2] = (shape[n - 2] + block_out - 1) / block_out;
    shape[n - 1] = (shape[n - 1] + block_in - 1) / block_in;
    return n;
}

int quantised_format_check(const Tensor *weight, DType dtype, int block_out, int block_in,
                           Error *err) {
    if (weight->ndim != 2 && weight->ndim != 3)
        return error_set(err, "%s is %s; what can be quantised is a matrix, or experts'",
                         weight->name, shape_text(weight).text);
    int64_t in = tensor_dim(weight, -1);
    if (block_out < 1 || block_in < 1)
        return error_set(err, "%s: blocks of %d x %d", weight->name, block_out, block_in);
    if (dtype == F8_E4M3) return 0;
    if (dtype != U8 && dtype != I4)
        return error_set(err, "%s: no weights in %s; there are F8_E4M3, U8 and I4", weight->name,
                         dtype_name(dtype));
    if (block_out != 1)
        return error_set(err, "%s: blocks of %d x %d; those of %s have one row", weight->name,
                         block_out, block_in, dtype_name(dtype));
    if (dtype == I4 && block_in != 32 && block_in != 64 && block_in != 128)
        return error_set(err, "%s: groups of %d; those of I4 have 32, 64 or 128 numbers",
                         weight->name, block_in);
    if (in % block_in)
        return error_set(err, "%s: groups of %d do not divide its %lld columns", weight->name,
                         block_in, (long long)in);
    return 0;
}

void quantised_check(Context *ctx, const char *where, const Tensor *w) {
    const Quantised *q = w->quantised;
    Error err = {0};
    int64_t shape[MAX_DIMS];
    CHECK(q && q->products, "%s: %s is not quantised", where, w->name);
    CHECK(!ctx->recording,
          "%s: %s is quantised (%s), and there is no gradient through it: record nothing with it, "
          "or train its numbers and quantise them afterwards",
          where, w->name, dtype_name(w->dtype));
    CHECK(w->device == ctx->device && w->data && q->scale.data, "%s: %s is on %s%s, not on %s",
          where, w->name, device_name(w->device), w->data ? "" : " without data",
          device_name(ctx->device));
    CHECK(quantised_format_check(w, w->dtype, q->block_out, q->block_in, &err) == 0, "%s: %s",
          where, err.text);
    int ndim = quantised_scale_shape(shape, w, q->block_out, q->block_in);
    check_shape(where, &q->scale, F32, shape, ndim);
}

Tensor *quantised_linear(Context *ctx, const char *where, const Tensor *x, const Tensor *w,
                         const Tensor *bias, const Tensor *base) {
    int64_t shape[MAX_DIMS], out = tensor_dim(w, 0);
    quantised_check(ctx, where, w);
    check_shape(where, x, ctx->dtype, x->shape, x->ndim);
    check_shape(where, w, w->dtype, SHAPE(out, tensor_dim(x, -1)));
    if (bias) check_shape(where, bias, ctx->dtype, SHAPE(out));
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = out;
    Tensor *y = tensor_new(ctx, "linear", ctx->dtype, shape, x->ndim);
    if (base) check_shape(where, base, y->dtype, y->shape, y->ndim);
    w->quantised->products->linear(ctx, y->data, base ? base->data : NULL, x->data, w,
                                   bias ? bias->data : NULL, tensor_rows(x));
    return y;
}
