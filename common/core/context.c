/*
 * The context and its tape. See context.h for the contracts; chapter 01's lesson walks through the
 * tape.
 */
#include "common/core/context.h"

#include "common/core/ops_kernels.h"

#include <stdlib.h>
#include <string.h>

int context_init(Context *ctx, Device device, DType dtype, uint64_t seed, Error *err) {
    *ctx = (Context){.device = device, .dtype = dtype, .rng = {.seed = seed}};
    if (dtype != F32 && dtype != BF16)
        return error_set(err, "dtype %s: a model computes in F32 or BF16", dtype_name(dtype));
    if (dtype == BF16 && device == CPU)
        return error_set(err, "BF16 needs a GPU (the CPU computes in F32): add --device cuda, or "
                              "use --dtype f32");
    if (device == CUDA && !(ctx->gpu = gpu_open(err))) return -1;
    ctx->data = (Arena){.device = device, .gpu = ctx->gpu};
    return 0;
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

/* ---- tape ---- */

/* [tape_push] */
void tape_push(Context *ctx, Tensor *output, BackwardFunction backward, const void *saved,
               size_t size) {
    if (!ctx->recording) return;
    if (ctx->tape_length == ctx->tape_capacity) {
        ctx->tape_capacity = ctx->tape_capacity ? 2 * ctx->tape_capacity : 256;
        ctx->tape = must_realloc(ctx->tape, (size_t)ctx->tape_capacity, sizeof *ctx->tape);
    }
    void *copy = arena_alloc(&ctx->host, size);
    memcpy(copy, saved, size);
    ctx->tape[ctx->tape_length++] = (TapeNode){output, backward, copy};
}
/* [/tape_push] */

/* [grad_slot] */
void *grad_slot(Context *ctx, Tensor *t, int *add) {
    *add = 0;
    if (!t || !t->requires_grad) return NULL;
    if (!t->grad) {
        t->grad = arena_alloc(&ctx->host, sizeof *t->grad);
        *t->grad = tensor_view(NULL, t->name, t->dtype, t->device, t->shape, t->ndim);
        t->grad->data = arena_alloc(&ctx->data, tensor_bytes(t));
    }
    *add = t->has_grad;
    t->has_grad = true;
    return t->grad->data;
}
/* [/grad_slot] */

void grad_pass(Context *ctx, const Tensor *from, Tensor *to) {
    if (!to->requires_grad) return;
    if (!to->has_grad && !to->grad) {
        to->grad = arena_alloc(&ctx->host, sizeof *to->grad);
        *to->grad = tensor_view(from->grad->data, to->name, from->grad->dtype, ctx->device,
                                to->shape, to->ndim);
        to->has_grad = true;
        return;
    }
    CHECK(to->grad->dtype == from->grad->dtype, "%s: its gradient is %s, not %s", to->name,
          dtype_name(to->grad->dtype), dtype_name(from->grad->dtype));
    int add;
    void *sum = grad_slot(ctx, to, &add);
    ON_AS(ctx, to->grad->dtype, accumulate, sum, from->grad->data, tensor_count(to), add);
}

/* [tape_backward] */
void tape_backward(Context *ctx, Tensor *loss) {
    CHECK(tensor_count(loss) == 1, "the loss must be one number, but %s is %s", loss->name,
          shape_text(loss).text);
    CHECK(ctx->tape_length > 0, "nothing was recorded: set ctx->recording before the forward pass");
    int add;
    float one = 1.0f;
    grad_slot(ctx, loss, &add);
    tensor_upload(ctx, loss->grad, &one);

    ctx->recording = false; /* a derivative is not itself differentiated */
    for (int i = ctx->tape_length - 1; i >= 0; i--) {
        TapeNode *node = &ctx->tape[i];
        if (node->output->has_grad) node->backward(ctx, node->saved);
    }
    ctx->recording = true;
}
/* [/tape_backward] */
