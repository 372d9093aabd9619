/*
 * LayerNorm: the operation and its kernels for the CPU. With z = (x - mean) rstd and g = dy w,
 *
 *     dx = rstd (g - mean(g) - z mean(g z)),   dw = sum of dy z,   db = sum of dy       over rows
 */
#include "10_full_model/sparse/layer_norm.h"

#include "10_full_model/sparse/index_kernels.h"

#include <math.h>
#include <string.h>

typedef struct LayerNormSaved {
    Tensor *y, *x, *weight, *bias;
    float *moments;
} LayerNormSaved;

static void layer_norm_backward(Context *ctx, void *saved) {
    LayerNormSaved *s = saved;
    int add_x, add_w, add_b;
    void *dx = grad_slot(ctx, s->x, &add_x);
    float *dw = grad_slot(ctx, s->weight, &add_w), *db = grad_slot(ctx, s->bias, &add_b);
    ON(ctx, layer_norm_backward, dx, add_x, dw, add_w, db, add_b, s->y->grad->data, s->x->data,
       s->weight->data, s->moments, tensor_rows(s->x), tensor_dim(s->x, -1));
}

Tensor *layer_norm(Context *ctx, Tensor *x, Tensor *weight, Tensor *bias, float eps) {
    int64_t d = tensor_dim(x, -1), rows = tensor_rows(x);
    check_shape("layer_norm", weight, ctx->dtype, SHAPE(d));
    check_shape("layer_norm", bias, ctx->dtype, SHAPE(d));
    Tensor *y = tensor_new(ctx, "layer_norm", ctx->dtype, x->shape, x->ndim);
    float *moments = arena_alloc(&ctx->data, sizeof(float) * 2 * (size_t)rows);
    ON(ctx, layer_norm_forward, y->data, moments, x->data, weight->data, bias->data, rows, d, eps);
    RECORD(ctx, y, layer_norm_backward, LayerNormSaved, .y = y, .x = x, .weight = weight,
           .bias = bias, .moments = moments);
    return y;
}

/* ---- kernels ---- */

void layer_norm_forward_cpu(float *y, float *moments, const float *x, const float *w,
                            const float *b, int64_t rows, int64_t d, float eps) {
#pragma omp parallel for if (rows * d > 1 << 16)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = x + row * d;
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < d; i++) mean += from[i];
        mean /= (double)d;
        for (int64_t i = 0; i < d; i++) variance += (from[i] - mean) * (from[i] - mean);
        float m = (float)mean, rstd = (float)(1 / sqrt(variance / (double)d + eps));
        for (int64_t i = 0; i < d; i++) y[row * d + i] = (from[i] - m) * rstd * w[i] + b[i];
        moments[2 * row] = m, moments[2 * row + 1] = rstd;
    }
}

void layer_norm_backward_cpu(float *dx, int add_x, float *dw, int add_w, float *db, int add_b,
                             const float *dy, const float *x, const float *w, const float *moments,
                             int64_t rows, int64_t d) {
    if (dw && !add_w) memset(dw, 0, sizeof(float) * (size_t)d);
    if (db && !add_b) memset(db, 0, sizeof(float) * (size_t)d);
    for (int64_t row = 0; row < rows; row++) {
        const float *g = dy + row * d, *from = x + row * d;
        float mean = moments[2 * row], rstd = moments[2 * row + 1];
        double g_mean = 0, gz_mean = 0;
        for (int64_t i = 0; i < d; i++) {
            float z = (from[i] - mean) * rstd;
            g_mean += g[i] * w[i] / (double)d;
            gz_mean += g[i] * w[i] * z / (double)d;
            if (dw) dw[i] += g[i] * z;
            if (db) db[i] += g[i];
        }
        for (int64_t i = 0; i < d && dx; i++) {
            float z = (from[i] - mean) * rstd;
            float value = rstd * (g[i] * w[i] - (float)g_mean - z * (float)gz_mean);
            dx[row * d + i] = add_x ? dx[row * d + i] + value : value;
        }
    }
}
