/*
 * Weights in flat buffers, and AdamW's step over them. The contracts are in params.h.
 */
#include "common/core/params.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PADDING = 64 }; /* elements: every weight begins at a multiple of 128 bytes, in BF16 too */

void params_init(Params *params, Context *ctx) { *params = (Params){.ctx = ctx}; }

/* A new tensor without data at the end of a list. */
static Tensor *append(Params *params, Tensor ***list, int *count, int *capacity, const char *name,
                      DType dtype, const int64_t *shape, int ndim) {
    CHECK(!params->values, "%s: register all weights before params_allocate", name);
    CHECK(!params_find(params, name), "there are two weights called %s", name);
    if (*count == *capacity) {
        *capacity = *capacity ? 2 * *capacity : 64;
        *list = must_realloc(*list, (size_t)*capacity, sizeof **list);
    }
    Tensor *t = must_alloc(1, sizeof *t);
    char *copy = must_strdup(name);
    *t = tensor_view(NULL, copy, dtype, params->ctx->device, shape, ndim);
    return (*list)[(*count)++] = t;
}

Tensor *params_new(Params *params, const char *name, const int64_t *shape, int ndim) {
    return append(params, &params->list, &params->count, &params->capacity, name,
                  params->ctx->dtype, shape, ndim);
}

Tensor *params_buffer(Params *params, const char *name, DType dtype, const int64_t *shape,
                      int ndim) {
    CHECK(dtype == F32 || dtype == I32, "%s: a buffer is F32 or I32, not %s", name,
          dtype_name(dtype));
    return append(params, &params->buffers, &params->buffer_count, &params->buffer_capacity, name,
                  dtype, shape, ndim);
}

static int64_t padded(const Tensor *t) {
    return (tensor_count(t) + PADDING - 1) / PADDING * PADDING;
}

/* Memory for the buffers, cleared. false when there is none left. */
static bool allocate_buffers(Params *params) {
    if (!params->buffer_count) return true;
    size_t bytes = 0;
    for (int i = 0; i < params->buffer_count; i++)
        bytes += (size_t)padded(params->buffers[i]) * sizeof(float);
    if (!(params->buffer_values = device_alloc(params->ctx->gpu, bytes))) return false;
    device_set(params->ctx->gpu, params->buffer_values, 0, bytes);
    float *next = params->buffer_values; /* F32 and I32 are the same size */
    for (int i = 0; i < params->buffer_count; i++) {
        params->buffers[i]->data = next;
        next += padded(params->buffers[i]);
    }
    return true;
}

int params_allocate(Params *params, bool training, Error *err) {
    CHECK(!params->values, "params_allocate was called before");
    Context *ctx = params->ctx;
    params->size = params->decayed = 0;
    for (int i = 0; i < params->count; i++) {
        params->size += padded(params->list[i]);
        if (params->list[i]->ndim >= 2) params->decayed += padded(params->list[i]);
    }
    if (!params->size) params->size = PADDING;
    size_t wide = (size_t)params->size * sizeof(float);
    params->values = device_alloc(ctx->gpu, (size_t)params->size * dtype_size(ctx->dtype));
    bool complete = params->values != NULL;
    if (ctx->dtype == F32)
        params->master = params->values;
    else
        complete &= (params->master = device_alloc(ctx->gpu, wide)) != NULL;
    if (training) {
        complete &= (params->grads = device_alloc(ctx->gpu, wide)) != NULL;
        complete &= (params->m = device_alloc(ctx->gpu, wide)) != NULL;
        complete &= (params->v = device_alloc(ctx->gpu, wide)) != NULL;
        complete &=
            (params->scratch = device_alloc(ctx->gpu, (NORM_CHUNKS + 64) * sizeof(float))) != NULL;
    }
    complete &= allocate_buffers(params);
    if (!complete)
        return error_set(err,
                         "out of %s memory: the model has %.1f %s weights, which need %.1f GiB "
                         "%s; choose a smaller model",
                         device_name(ctx->device), params->size / (params->size < 1e9 ? 1e6 : 1e9),
                         params->size < 1e9 ? "million" : "billion",
                         (training ? 4.0 : 1.0) * wide / 1073741824.0,
                         training ? "to train" : "to run");
    device_set(ctx->gpu, params->values, 0, (size_t)params->size * dtype_size(ctx->dtype));
    if (ctx->dtype != F32) device_set(ctx->gpu, params->master, 0, wide);
    if (training) {
        device_set(ctx->gpu, params->grads, 0, wide);
        device_set(ctx->gpu, params->m, 0, wide);
        device_set(ctx->gpu, params->v, 0, wide);
    }

    /* Matrices first, then vectors. */
    int64_t next[2] = {params->decayed, 0};
    for (int i = 0; i < params->count; i++) {
        Tensor *t = params->list[i];
        int64_t *offset = &next[t->ndim >= 2];
        t->data = (char *)params->values + *offset * (int64_t)dtype_size(ctx->dtype);
        t->requires_grad = training;
        if (training) {
            t->grad = must_alloc(1, sizeof *t->grad);
            *t->grad =
                tensor_view(params->grads + *offset, t->name, F32, ctx->device, t->shape, t->ndim);
        }
        *offset += padded(t);
    }
    return 0;
}

void params_free(Params *params) {
    for (int i = 0; i < params->count; i++) {
        free((char *)params->list[i]->name);
        free(params->list[i]->grad);
        free(params->list[i]);
    }
    free(params->list);
    for (int i = 0; i < params->buffer_count; i++) {
        free((char *)params->buffers[i]->name);
        free(params->buffers[i]);
    }
    free(params->buffers);
    device_free(params->ctx->gpu, params->buffer_values);
    if (params->master != params->values) device_free(params->ctx->gpu, params->master);
    device_free(params->ctx->gpu, params->values);
    device_free(params->ctx->gpu, params->grads);
    device_free(params->ctx->gpu, params->m);
    device_free(params->ctx->gpu, params->v);
    device_free(params->ctx->gpu, params->scratch);
    *params = (Params){0};
}

Tensor *params_find(const Params *params, const char *name) {
    for (int i = 0; i < params->count; i++)
        if (!strcmp(params->list[i]->name, name)) return params->list[i];
    for (int i = 0; i < params->buffer_count; i++)
        if (!strcmp(params->buffers[i]->name, name)) return params->buffers[i];
    return NULL;
}

int64_t params_count(const Params *params) {
    int64_t count = 0;
    for (int i = 0; i < params->count; i++) count += tensor_count(params->list[i]);
    return count;
}

/* ---- one weight ---- */

static int64_t offset_of(const Params *params, const Tensor *t) {
    return ((char *)t->data - (char *)params->values) / (int64_t)dtype_size(t->dtype);
}

int64_t params_offset(const Params *params, int i) { return offset_of(params, params->list[i]); }

/* The F32 copy of a weight: the same offset in master as in values. A buffer has no other. */
static float *master_of(const Params *params, const Tensor *t) {
    for (int i = 0; i < params->buffer_count; i++)
        if (params->buffers[i] == t) {
            CHECK(t->dtype == F32, "%s is %s, not F32", t->name, dtype_name(t->dtype));
            return t->data;
        }
    return params->master + offset_of(params, t);
}

void params_set(Params *params, Tensor *t, const float *host) {
    Context *ctx = params->ctx;
    CHECK(t->data, "%s: params_allocate comes first", t->name);
    Tensor master = tensor_view(master_of(params, t), t->name, F32, ctx->device, t->shape, t->ndim);
    tensor_upload(ctx, &master, host);
    if (t->dtype != F32) tensor_upload(ctx, t, host);
}

void params_get(Params *params, const Tensor *t, float *host) {
    Tensor master =
        tensor_view(master_of(params, t), t->name, F32, params->ctx->device, t->shape, t->ndim);
    tensor_download(params->ctx, host, &master);
}

void params_get_grad(Params *params, const Tensor *t, float *host) {
    CHECK(t->grad, "%s has no gradient: the model was not allocated for training", t->name);
    if (t->has_grad)
        tensor_download(params->ctx, host, t->grad);
    else
        memset(host, 0, (size_t)tensor_count(t) * sizeof *host);
}

void params_normal(Params *params, Tensor *t, float std) {
    int64_t n = tensor_count(t);
    float *host = must_alloc((size_t)n, sizeof *host);
    uint64_t stream = rng_next_stream(&params->ctx->rng);
#pragma omp parallel for
    for (int64_t i = 0; i < n; i++)
        host[i] = std * rng_normal(params->ctx->rng.seed, stream, (uint64_t)i);
    params_set(params, t, host);
    free(host);
}

void params_fill(Params *params, Tensor *t, float value) {
    int64_t n = tensor_count(t);
    float *host = must_alloc((size_t)n, sizeof *host);
    for (int64_t i = 0; i < n; i++) host[i] = value;
    params_set(params, t, host);
    free(host);
}

/* ---- AdamW ---- */

void params_zero_grad(Params *params) {
    for (int i = 0; i < params->count; i++) params->list[i]->has_grad = false;
}

AdamW adamw_defaults(void) {
    return (AdamW){.beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .clip = 1.0f};
}

float adamw_step(AdamW *adamw, Params *params, float lr, float grad_scale) {
    Context *ctx = params->ctx;
    CHECK(params->grads, "adamw_step: the weights were not allocated for training");
    for (int i = 0; i < params->count; i++) { /* weights that no token reached in this step */
        Tensor *t = params->list[i];
        if (!t->has_grad) device_set(ctx->gpu, t->grad->data, 0, tensor_bytes(t->grad));
    }
    double t = (double)adamw->step + 1;
    AdamWStep step = {.lr = lr,
                      .beta1 = adamw->beta1,
                      .beta2 = adamw->beta2,
                      .eps = adamw->eps,
                      .weight_decay = adamw->weight_decay,
                      .clip = adamw->clip,
                      .grad_scale = grad_scale,
                      .correction1 = (float)(1 - pow(adamw->beta1, t)),
                      .correction2 = (float)(1 - pow(adamw->beta2, t))};
    float *norm = params->scratch + NORM_CHUNKS;
    ON(ctx, grad_norm, params->scratch, params->grads, params->size, grad_scale);
    ON(ctx, adamw, params->values, params->master, params->m, params->v, params->grads, norm,
       params->size, params->decayed, step);
    float result;
    device_get(ctx->gpu, &result, norm, sizeof result);
    if (isfinite(result)) adamw->step++;
    return result;
}

float lr_warmup_cosine(int64_t step, int64_t warmup, int64_t total, float peak, float floor) {
    if (step < warmup) return peak * (float)(step + 1) / (float)warmup;
    if (step >= total) return floor;
    double progress = (double)(step - warmup) / (double)(total - warmup);
    return floor + (peak - floor) * (float)(0.5 * (1 + cos(3.14159265358979323846 * progress)));
}
