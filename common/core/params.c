/*
 * Weights: the list, its layout, and single weights. The contracts are in params.h.
 *
 * The layout sorts the list once: what trains before what is frozen, narrow values before F32 (so
 * that the masters are one piece at the front), then by rate, decayed weights first. With the
 * groups that weights have at first that is one span: matrices, then vectors.
 */
#include "common/core/params.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PADDING = 64 }; /* elements: every weight begins at a multiple of 128 bytes, in BF16 too */

/* A weight or a buffer. What others hold is the address of the tensor, its first member. */
typedef struct Param {
    Tensor tensor, grad;
    Quantised quantised; /* what tensor.quantised points to, if it does */
    ParamGroup group;
    int index;      /* in the list */
    size_t place;   /* in values: bytes */
    size_t scales;  /* the same, of a quantised weight's */
    int64_t offset; /* in grads, m and v; -1: frozen, or a buffer */
    float *master;  /* NULL: the tensor's data is all there is */
} Param;

static Param *param_of(const Tensor *t) { return (Param *)t; }

void params_init(Params *params, Context *ctx) {
    *params =
        (Params){.ctx = ctx, .moments = ctx ? ctx->moments : F32, .share = 1, .spread_share = 1};
    if (ctx && ctx->zero) {
        params->share = ctx->size;
        params->spread_share = ctx->size / (ctx->spread ? ctx->spread : 1);
    }
}

/* ---- registering ---- */

ParamName params_name(const char *prefix, const char *name) {
    ParamName full;
    snprintf(full.text, sizeof full.text, "%s%s%s", prefix ? prefix : "", prefix ? "." : "", name);
    return full;
}

/* A new tensor without data at the end of a list. */
static Tensor *append(Params *params, Tensor ***list, int *count, size_t *capacity,
                      const char *prefix, const char *name, DType dtype, const int64_t *shape,
                      int ndim) {
    char *full = must_strdup(params_name(prefix, name).text);
    CHECK(!params->values, "%s: register all weights before params_allocate", full);
    CHECK(!params_find(params, full), "there are two weights called %s", full);
    Param *p = must_alloc(1, sizeof *p);
    Device device = params->ctx ? params->ctx->device : CPU;
    p->tensor = tensor_view(NULL, full, dtype, device, shape, ndim);
    p->group = (ParamGroup){.decayed = ndim >= 2, .rate = 1};
    p->index = *count;
    p->offset = -1;
    *list = grow(*list, capacity, (size_t)*count + 1, sizeof **list);
    return (*list)[(*count)++] = &p->tensor;
}

Tensor *params_new(Params *params, const char *prefix, const char *name, const int64_t *shape,
                   int ndim) {
    return append(params, &params->list, &params->count, &params->capacity, prefix, name,
                  params->ctx ? params->ctx->dtype : F32, shape, ndim);
}

Tensor *params_buffer(Params *params, const char *prefix, const char *name, DType dtype,
                      const int64_t *shape, int ndim) {
    CHECK(dtype == F32 || dtype == I32, "%s: a buffer is F32 or I32, not %s", name,
          dtype_name(dtype));
    return append(params, &params->buffers, &params->buffer_count, &params->buffer_capacity, prefix,
                  name, dtype, shape, ndim);
}

void params_set_dtype(Params *params, Tensor *t, DType dtype) {
    CHECK(!params->values, "%s: choose the dtype before params_allocate", t->name);
    t->dtype = dtype;
}

void params_set_quantised(Params *params, Tensor *t, DType dtype, int block_out, int block_in,
                          const QuantisedProducts *products) {
    Error err = {0};
    int64_t shape[MAX_DIMS];
    Param *p = param_of(t);
    params_set_dtype(params, t, dtype);
    CHECK(quantised_format_check(t, dtype, block_out, block_in, &err) == 0, "%s", err.text);
    int ndim = quantised_scale_shape(shape, t, block_out, block_in);
    Tensor scale = tensor_view(NULL, t->name, F32, t->device, shape, ndim);
    p->quantised = (Quantised){block_out, block_in, scale, products};
    p->group.frozen = true;
    t->quantised = &p->quantised;
}

ParamGroup *params_group(Params *params, Tensor *t) {
    CHECK(!params->values, "%s: choose the group before params_allocate", t->name);
    return &param_of(t)->group;
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

/* ---- allocating ---- */

static int64_t padded(const Tensor *t) {
    return (tensor_count(t) + PADDING - 1) / PADDING * PADDING;
}

int64_t params_extent(const Tensor *t) { return padded(t); }
bool params_is_spread(const Tensor *t) { return param_of(t)->group.spread; }

static int compare_places(const void *left, const void *right) {
    const Param *a = param_of(*(Tensor *const *)left), *b = param_of(*(Tensor *const *)right);
    bool wide_a = a->tensor.dtype == F32, wide_b = b->tensor.dtype == F32;
    if (a->group.frozen != b->group.frozen) return a->group.frozen - b->group.frozen;
    if (wide_a != wide_b) return wide_a - wide_b;
    if (a->tensor.dtype != b->tensor.dtype) return (int)a->tensor.dtype - (int)b->tensor.dtype;
    if (a->group.rate != b->group.rate) return a->group.rate < b->group.rate ? -1 : 1;
    if (a->group.spread != b->group.spread) return a->group.spread - b->group.spread;
    if (a->group.decayed != b->group.decayed) return b->group.decayed - a->group.decayed;
    return a->index - b->index;
}

/* Memory of ctx's device, cleared. */
static void *cleared(Context *ctx, size_t bytes) {
    if (!bytes) bytes = PADDING;
    void *data = device_alloc(ctx->gpu, bytes);
    if (data) device_set(ctx->gpu, data, 0, bytes);
    return data;
}

/* Are the two in one span? */
static bool alike(const Param *a, const Param *b) {
    return a->tensor.dtype == b->tensor.dtype && a->group.rate == b->group.rate &&
           a->group.spread == b->group.spread;
}

typedef struct Layout {
    Tensor **order;    /* the list, as it lies in memory */
    size_t bytes;      /* of values */
    int64_t narrow;    /* elements that have masters */
    int64_t moments;   /* elements of m and v */
    int64_t first;     /* of the span that is being laid out */
    const Param *last; /* in it; NULL: there is none */
} Layout;

/* Zeros up to a multiple of what there are processes, each of which then has as much of it. */
static void end_span(Params *params, Layout *l) {
    if (!l->last) return;
    int ways = params->ctx->ways ? params->ctx->ways : 1;
    int64_t unit = (int64_t)PADDING * ways, more = (unit - params->size % unit) % unit;
    DType dtype = l->last->tensor.dtype;
    l->bytes += dtype_bytes(dtype, more);
    params->size += more;
    if (dtype != F32) l->narrow = params->size;
    l->moments +=
        (params->size - l->first) / (l->last->group.spread ? params->spread_share : params->share);
    l->first = params->size;
    l->last = NULL;
}

/* Every weight gets its place in values, and if it trains in the other buffers too. */
static Layout lay_out(Params *params, bool training) {
    Layout l = {.order = must_alloc((size_t)params->count, sizeof *l.order)};
    for (int i = 0; i < params->count; i++) {
        l.order[i] = params->list[i];
        if (!training) param_of(l.order[i])->group.frozen = true;
    }
    qsort(l.order, (size_t)params->count, sizeof *l.order, compare_places);
    for (int i = 0; i < params->count; i++) {
        Param *p = param_of(l.order[i]);
        DType dtype = p->tensor.dtype;
        if (l.last && (p->group.frozen || !alike(l.last, p))) end_span(params, &l);
        p->place = l.bytes;
        l.bytes += (dtype_bytes(dtype, padded(l.order[i])) + 127) / 128 * 128;
        p->scales = l.bytes;
        if (p->tensor.quantised) l.bytes += (size_t)padded(&p->quantised.scale) * sizeof(float);
        if (p->group.frozen) continue;
        CHECK(dtype == F32 || (dtype == BF16 && params->ctx->device == CUDA),
              "%s: no training in %s on %s", p->tensor.name, dtype_name(dtype),
              device_name(params->ctx->device));
        p->offset = params->size;
        params->size += padded(l.order[i]);
        if (dtype != F32) l.narrow = params->size;
        l.last = p;
    }
    end_span(params, &l);
    return l;
}

/* A weight that trains gets its gradient and joins a span. */
static void join_span(Params *params, Param *p) {
    Tensor *t = &p->tensor;
    p->master = t->dtype == F32 ? t->data : params->master + p->offset;
    p->grad = tensor_view(params->grads + p->offset, t->name, F32, t->device, t->shape, t->ndim);
    t->grad = &p->grad;
    t->requires_grad = true;
    ParamSpan *s = params->spans + params->span_count - 1;
    bool spread = p->group.spread;
    if (!params->span_count || s->dtype != t->dtype || s->rate != p->group.rate ||
        s->spread != spread) {
        s = params->spans + params->span_count++;
        *s = (ParamSpan){.dtype = t->dtype,
                         .rate = p->group.rate,
                         .values = t->data,
                         .master = p->master,
                         .first = p->offset,
                         .moments = p->offset,
                         .spread = spread};
    }
    s->size = p->offset + padded(t) - s->first;
    if (p->group.decayed) s->decayed += padded(t);
}

int params_allocate(Params *params, bool training, Error *err) {
    Context *ctx = params->ctx;
    CHECK(ctx && !params->values, "params_allocate: without a device, or for the second time");
    size_t buffer_bytes = 0;
    Layout l = lay_out(params, training);
    for (int i = 0; i < params->buffer_count; i++) { /* F32 and I32 are the same size */
        param_of(params->buffers[i])->place = buffer_bytes;
        buffer_bytes += (size_t)padded(params->buffers[i]) * sizeof(float);
    }
    size_t wide = (size_t)params->size * sizeof(float), masters = (size_t)l.narrow * sizeof(float);
    size_t moments = dtype_bytes(params->moments, l.moments);
    bool complete = (params->values = cleared(ctx, l.bytes)) &&
                    (params->buffer_values = cleared(ctx, buffer_bytes)) &&
                    (!l.narrow || (params->master = cleared(ctx, masters)));
    if (complete && training)
        complete = (params->grads = cleared(ctx, wide)) && (params->m = cleared(ctx, moments)) &&
                   (params->v = cleared(ctx, moments)) &&
                   (params->scratch = cleared(ctx, (NORM_CHUNKS + 64) * sizeof(float)));
    params->spans = must_alloc((size_t)params->count, sizeof *params->spans);
    for (int i = 0; i < params->count && complete; i++) {
        Param *p = param_of(l.order[i]);
        p->tensor.data = (char *)params->values + p->place;
        p->quantised.scale.data = (char *)params->values + p->scales;
        if (!p->group.frozen) join_span(params, p);
    }
    for (int i = 0; i < params->buffer_count && complete; i++)
        params->buffers[i]->data =
            (char *)params->buffer_values + param_of(params->buffers[i])->place;
    free(l.order);
    for (int i = 0; i < params->span_count; i++) { /* with the zeros at the end */
        ParamSpan *s = &params->spans[i];
        s->size = (i + 1 < params->span_count ? s[1].first : params->size) - s->first;
    }
    if (complete) return 0;
    double weights = (double)params_count(params);
    return error_set(err,
                     "out of %s memory: the model has %.1f %s weights, which need %.1f GiB %s; "
                     "choose a smaller model",
                     device_name(ctx->device), weights / (weights < 1e9 ? 1e6 : 1e9),
                     weights < 1e9 ? "million" : "billion",
                     (double)(l.bytes + masters + (training ? wide + 2 * moments : 0)) /
                         1073741824.0,
                     training ? "to train" : "to run");
}

/* A narrow piece's master gets memory of its own, all of them one. */
void params_keep_pieces(Params *params, ParamSpan *pieces, int count) {
    Context *ctx = params->ctx;
    int64_t narrow = 0, at = 0;
    for (int i = 0; i < count; i++) narrow += pieces[i].dtype == F32 ? 0 : pieces[i].size;
    float *masters = narrow ? cleared(ctx, (size_t)narrow * sizeof *masters) : NULL;
    CHECK(masters || !narrow, "no memory for a part of the masters beside the whole");
    for (int i = 0; i < count; i++) {
        if (pieces[i].dtype == F32) continue;
        device_copy(ctx->gpu, masters + at, pieces[i].master,
                    (size_t)pieces[i].size * sizeof *masters);
        pieces[i].master = masters + at;
        at += pieces[i].size;
    }
    device_free(ctx->gpu, params->master);
    params->master = masters;
    for (int i = 0; i < params->count; i++)
        if (params->list[i]->dtype != F32) param_of(params->list[i])->master = NULL;
    free(params->spans);
    params->spans = pieces, params->span_count = count;
}

static void free_list(Tensor **list, int count) {
    for (int i = 0; i < count; i++) {
        free((char *)list[i]->name);
        free(list[i]);
    }
    free(list);
}

void params_free(Params *params) {
    free_list(params->list, params->count);
    free_list(params->buffers, params->buffer_count);
    void *const data[] = {
        params->values, params->buffer_values, params->master, params->grads, params->m,
        params->v,      params->scratch};
    for (int i = 0; i < 7; i++)
        if (data[i]) device_free(params->ctx->gpu, data[i]);
    free(params->spans);
    *params = (Params){0};
}

/* ---- one weight ---- */

int64_t params_offset(const Params *params, const Tensor *t) {
    int64_t offset = param_of(t)->offset;
    CHECK(params->grads && offset >= 0, "%s does not train", t->name);
    return offset;
}

float *params_master(const Params *params, const Tensor *t) {
    CHECK(params->values, "%s: params_allocate comes first", t->name);
    return t->dtype == F32 ? t->data : param_of(t)->master;
}

void params_set(Params *params, Tensor *t, const float *host) {
    CHECK(!t->quantised, "%s is quantised: it is set by params_set_codes()", t->name);
    float *master = params_master(params, t);
    if (master && t->dtype != F32)
        device_put(params->ctx->gpu, master, host, (size_t)tensor_count(t) * sizeof *host);
    tensor_upload(params->ctx, t, host);
}

void params_set_codes(Params *params, Tensor *t, const void *codes, const float *scales) {
    CHECK(params->values && t->quantised, "%s: not quantised, or not allocated", t->name);
    const Tensor *scale = &t->quantised->scale;
    device_put(params->ctx->gpu, t->data, codes, tensor_bytes(t));
    device_put(params->ctx->gpu, scale->data, scales, tensor_bytes(scale));
}

/* A few rows at a time, for they are made on the device. */
static void get_dequantised(Params *params, const Tensor *t, float *host) {
    Context *ctx = params->ctx;
    int64_t rows = tensor_rows(t), in = tensor_dim(t, -1);
    int64_t step = in < 1 << 20 ? (1 << 22) / in : 1;
    void *data = device_alloc(ctx->gpu, dtype_bytes(ctx->dtype, step * in));
    CHECK(data, "%s: no memory for %lld of its rows", t->name, (long long)step);
    for (int64_t first = 0, count; first < rows; first += count) {
        count = rows - first < step ? rows - first : step;
        Tensor some = tensor_view(data, t->name, ctx->dtype, t->device, SHAPE(count, in));
        t->quantised->products->dequantise(ctx, data, t, first, count);
        tensor_download(ctx, host + first * in, &some);
    }
    device_free(ctx->gpu, data);
}

void params_get(Params *params, const Tensor *t, float *host) {
    if (t->quantised) return get_dequantised(params, t, host);
    float *master = params_master(params, t);
    if (master)
        device_get(params->ctx->gpu, host, master, (size_t)tensor_count(t) * sizeof *host);
    else
        tensor_download(params->ctx, host, t);
}

void params_get_grad(Params *params, const Tensor *t, float *host) {
    CHECK(t->grad, "%s has no gradient: it is frozen, or the model only infers", t->name);
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

/* ---- gradients ---- */

void params_zero_grad(Params *params) {
    for (int i = 0; i < params->count; i++) params->list[i]->has_grad = false;
}

void params_finish_gradients(Params *params) { params_finish_some(params, 0, params->size); }

void params_finish_some(Params *params, int64_t first, int64_t size) {
    for (int i = 0; i < params->count; i++) {
        Tensor *t = params->list[i];
        if (!t->grad || t->has_grad) continue;
        int64_t at = param_of(t)->offset;
        if (at >= first + size || at + padded(t) <= first) continue;
        device_set(params->ctx->gpu, t->grad->data, 0, tensor_bytes(t->grad));
        t->has_grad = true;
    }
}
