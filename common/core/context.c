/*
 * The device, and tensors: made in the arena, copied to and from the host.
 *
 * BF16 is rounded on the host before it goes to the device, and widened where it arrives.
 */
#include "common/core/context.h"

#include <stdlib.h>
#include <string.h>

static int open(Context *ctx, Device device, int index, DType dtype, uint64_t seed, Error *err) {
    *ctx = (Context){.device = device, .dtype = dtype, .rng = {.seed = seed}, .size = 1};
    if (dtype != F32 && dtype != BF16)
        return error_set(err, "dtype %s: a model computes in F32 or BF16", dtype_name(dtype));
    if (dtype == BF16 && device == CPU)
        return error_set(err, "BF16 needs a GPU (the CPU computes in F32): add --device cuda, or "
                              "use --dtype f32");
    if (device == CUDA && !(ctx->gpu = gpu_open(index, err))) return -1;
    ctx->data.gpu = ctx->gpu;
    return 0;
}

int context_init(Context *ctx, Device device, DType dtype, uint64_t seed, Error *err) {
    return open(ctx, device, 0, dtype, seed, err);
}

int context_init_gpu(Context *ctx, int index, DType dtype, uint64_t seed, Error *err) {
    return open(ctx, CUDA, index, dtype, seed, err);
}

void context_free(Context *ctx) {
    arena_free(&ctx->data);
    arena_free(&ctx->host);
    free(ctx->tape);
    if (ctx->gpu) gpu_close(ctx->gpu);
    *ctx = (Context){0};
}

void context_reset(Context *ctx) {
    ctx->tape_length = 0;
    arena_reset(&ctx->host);
    arena_reset(&ctx->data);
}

size_t context_peak_bytes(const Context *ctx) { return ctx->host.peak + ctx->data.peak; }

/* ---- tensors ---- */

Tensor *tensor_new(Context *ctx, const char *name, DType dtype, const int64_t *shape, int ndim) {
    Tensor *t = arena_alloc(&ctx->host, sizeof *t);
    *t = tensor_view(NULL, name, dtype, ctx->device, shape, ndim);
    t->data = arena_alloc(&ctx->data, tensor_bytes(t));
    t->requires_grad = ctx->recording && (dtype == F32 || dtype == BF16);
    return t;
}

typedef struct ReshapeSaved {
    Tensor *y, *x;
} ReshapeSaved;

static void reshape_backward(Context *ctx, void *saved) {
    ReshapeSaved *s = saved;
    grad_pass(ctx, s->y, s->x);
}

Tensor *reshape(Context *ctx, Tensor *t, const int64_t *shape, int ndim) {
    Tensor *y = arena_alloc(&ctx->host, sizeof *y);
    *y = tensor_view(t->data, t->name, t->dtype, t->device, shape, ndim);
    CHECK(tensor_count(y) == tensor_count(t), "%s: %s cannot be seen as %s", t->name,
          shape_text(t).text, shape_text(y).text);
    y->requires_grad = ctx->recording && t->requires_grad;
    RECORD(ctx, y, reshape_backward, ReshapeSaved, .y = y, .x = t);
    return y;
}

Tensor *tensor_copy_in(Context *ctx, const char *name, DType dtype, const void *host,
                       const int64_t *shape, int ndim) {
    Tensor *t = tensor_new(ctx, name, dtype, shape, ndim);
    t->requires_grad = false;
    if (dtype == F32 || dtype == BF16)
        tensor_upload(ctx, t, host);
    else
        device_put(ctx->gpu, t->data, host, tensor_bytes(t));
    return t;
}

void tensor_upload(Context *ctx, Tensor *t, const float *host) {
    CHECK(t->dtype == F32 || t->dtype == BF16, "%s is %s, not F32 or BF16", t->name,
          dtype_name(t->dtype));
    int64_t n = tensor_count(t);
    const void *bytes = host;
    uint16_t *rounded = NULL;
    if (t->dtype == BF16) {
        rounded = must_realloc(NULL, (size_t)n, sizeof *rounded);
        for (int64_t i = 0; i < n; i++) rounded[i] = bf16_from_float(host[i]);
        bytes = rounded;
    }
    device_put(ctx->gpu, t->data, bytes, tensor_bytes(t));
    free(rounded);
}

void tensor_download(Context *ctx, float *host, const Tensor *t) {
    CHECK(t->dtype == F32 || t->dtype == BF16, "%s is %s, not F32 or BF16", t->name,
          dtype_name(t->dtype));
    int64_t n = tensor_count(t);
    device_get(ctx->gpu, host, t->data, tensor_bytes(t));
    if (t->dtype ==
        BF16) { /* widen in place, from the end: element i is read before it is overwritten */
        const uint16_t *rounded = (const uint16_t *)host;
        for (int64_t i = n - 1; i >= 0; i--) {
            uint16_t half;
            memcpy(&half, rounded + i, sizeof half);
            float wide = bf16_to_float(half);
            memcpy(host + i, &wide, sizeof wide);
        }
    }
}

void tensor_download_ints(Context *ctx, int32_t *host, const Tensor *t) {
    CHECK(t->dtype == I32, "%s is %s, not I32", t->name, dtype_name(t->dtype));
    device_get(ctx->gpu, host, t->data, tensor_bytes(t));
}
