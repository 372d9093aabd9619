/*
 * Matrix products as operations on the tape.
 *
 * With G = dloss/dC, the derivative of  C = A B  is  dA = G B^T,  dB = A^T G: two products of the
 * same kind. (In indices: c_ij = sum_k a_ik b_kj, so dloss/da_ik = sum_j g_ij b_kj.) That is why
 * training costs three times the operations of inference.
 */
#include "01_self_attention/matmul.h"

static void check_batch(Context *ctx, const char *where, const Tensor *a) {
    check_shape(where, a, ctx->dtype, SHAPE(-1, -1, -1));
    CHECK(a->device == ctx->device, "%s: %s is on %s, but the context is on %s", where, a->name,
          device_name(a->device), device_name(ctx->device));
}

typedef struct MatmulSaved {
    Tensor *c, *a, *b;
    float scale;
} MatmulSaved;

/* dA = G B^T,  dB = A^T G */
static void matmul_backward(Context *ctx, void *saved) {
    MatmulSaved *s = saved;
    const void *g = s->c->grad->data;
    int64_t batch = s->c->shape[0], m = s->c->shape[1], n = s->c->shape[2], k = s->a->shape[2];
    int add;
    void *da = grad_slot(ctx, s->a, &add);
    if (da) ON(ctx, matmul_batched, da, add, g, 0, s->b->data, 1, batch, m, k, n, s->scale);
    void *db = grad_slot(ctx, s->b, &add);
    if (db) ON(ctx, matmul_batched, db, add, s->a->data, 1, g, 0, batch, k, n, m, s->scale);
}

Tensor *matmul(Context *ctx, Tensor *a, Tensor *b) {
    check_batch(ctx, "matmul", a);
    check_shape("matmul", b, ctx->dtype, SHAPE(a->shape[0], a->shape[2], -1));
    int64_t batch = a->shape[0], m = a->shape[1], n = b->shape[2], k = a->shape[2];
    Tensor *c = tensor_new(ctx, "matmul", a->dtype, SHAPE(batch, m, n));
    ON(ctx, matmul_batched, c->data, 0, a->data, 0, b->data, 0, batch, m, n, k, 1.0f);
    RECORD(ctx, c, matmul_backward, MatmulSaved, .c = c, .a = a, .b = b, .scale = 1.0f);
    return c;
}

/* C = scale A B^T:  dA = scale G B,  dB = scale G^T A */
static void matmul_transposed_backward(Context *ctx, void *saved) {
    MatmulSaved *s = saved;
    const void *g = s->c->grad->data;
    int64_t batch = s->c->shape[0], m = s->c->shape[1], n = s->c->shape[2], k = s->a->shape[2];
    int add;
    void *da = grad_slot(ctx, s->a, &add);
    if (da) ON(ctx, matmul_batched, da, add, g, 0, s->b->data, 0, batch, m, k, n, s->scale);
    void *db = grad_slot(ctx, s->b, &add);
    if (db) ON(ctx, matmul_batched, db, add, g, 1, s->a->data, 0, batch, n, k, m, s->scale);
}

Tensor *matmul_transposed(Context *ctx, Tensor *a, Tensor *b, float scale) {
    check_batch(ctx, "matmul_transposed", a);
    check_shape("matmul_transposed", b, ctx->dtype, SHAPE(a->shape[0], -1, a->shape[2]));
    int64_t batch = a->shape[0], m = a->shape[1], n = b->shape[1], k = a->shape[2];
    Tensor *c = tensor_new(ctx, "matmul_transposed", a->dtype, SHAPE(batch, m, n));
    ON(ctx, matmul_batched, c->data, 0, a->data, 0, b->data, 1, batch, m, n, k, scale);
    RECORD(ctx, c, matmul_transposed_backward, MatmulSaved, .c = c, .a = a, .b = b, .scale = scale);
    return c;
}
