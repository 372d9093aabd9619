/*
 * The common operations: shape checks, the choice of device, and what goes on the tape.
 * Each op is preceded by its backward function; the arithmetic is in ops_cpu.c and ops_cuda.cu.
 */
#include "common/core/ops.h"

#include "common/core/ops_kernels.h"
#include "common/core/products.h"
#include "common/core/quantised.h"
#include "common/cuda/few_rows.h"

#include <string.h>

/* The output of an op: x's dtype, and x's shape with another last dimension. */
static Tensor *like(Context *ctx, const char *name, const Tensor *x, int64_t last) {
    int64_t shape[MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = last;
    return tensor_new(ctx, name, x->dtype, shape, x->ndim);
}

static void check_same_shape(const char *where, const Tensor *a, const Tensor *b) {
    check_shape(where, b, a->dtype, a->shape, a->ndim);
}

static void check_activation(Context *ctx, const char *where, const Tensor *x) {
    CHECK(x->dtype == ctx->dtype && x->device == ctx->device,
          "%s: %s is %s on %s, but should be %s on %s", where, x->name, dtype_name(x->dtype),
          device_name(x->device), dtype_name(ctx->dtype), device_name(ctx->device));
}

/* Additions and sums also take F32 tensors in a BF16 context: losses, and what a router
 * computes. */
static void check_number(Context *ctx, const char *where, const Tensor *x) {
    CHECK((x->dtype == ctx->dtype || x->dtype == F32) && x->device == ctx->device,
          "%s: %s is %s on %s, but should be %s or F32 on %s", where, x->name, dtype_name(x->dtype),
          device_name(x->device), dtype_name(ctx->dtype), device_name(ctx->device));
}

/* ---- linear ---- */

/* x and weight are of one dtype: ctx's, or F32 both. */
static void check_linear(Context *ctx, const char *where, const Tensor *x, const Tensor *weight,
                         const Tensor *bias) {
    check_number(ctx, where, x);
    check_shape(where, weight, x->dtype, SHAPE(-1, tensor_dim(x, -1)));
    if (bias) check_shape(where, bias, x->dtype, SHAPE(tensor_dim(weight, 0)));
}

/* [linear] */
typedef struct LinearSaved {
    Tensor *y, *x, *weight, *bias;
} LinearSaved;

/* dx = dy W,  dW = dy^T x,  db = column sums of dy */
static void linear_backward(Context *ctx, void *saved) {
    LinearSaved *s = saved;
    int add_x, add_w, add_b;
    void *dx = grad_slot(ctx, s->x, &add_x);
    float *dw = grad_slot(ctx, s->weight, &add_w);
    float *db = grad_slot(ctx, s->bias, &add_b);
    ON_AS(ctx, s->x->dtype, linear_backward, dx, add_x, dw, add_w, db, add_b, s->y->grad->data,
          s->x->data, s->weight->data, tensor_rows(s->x), tensor_dim(s->weight, 1),
          tensor_dim(s->weight, 0));
}

Tensor *linear(Context *ctx, Tensor *x, Tensor *weight, Tensor *bias) {
    if (weight->quantised) return quantised_linear(ctx, "linear", x, weight, bias, NULL);
    check_linear(ctx, "linear", x, weight, bias);
    if (x->dtype == ctx->dtype && products_take(ctx, weight, bias))
        return products_linear(ctx, x, weight, NULL);
    int64_t in = tensor_dim(weight, 1), out = tensor_dim(weight, 0);
    Tensor *y = like(ctx, "linear", x, out);
    ON_AS(ctx, x->dtype, linear_forward, y->data, x->data, weight->data, bias ? bias->data : NULL,
          tensor_rows(x), in, out);
    RECORD(ctx, y, linear_backward, LinearSaved, .y = y, .x = x, .weight = weight, .bias = bias);
    return y;
}
/* [/linear] */

/* ---- into a residual stream ---- */

Tensor *residual(Context *ctx, Tensor *y, Residual to) {
    y = dropout(ctx, y, to.dropout);
    return to.x ? add(ctx, to.x, y) : y;
}

typedef struct LinearResidualSaved {
    LinearSaved linear;
    Tensor *base;
} LinearResidualSaved;

/* dbase = dy, whose memory it takes over once the product has read it. */
static void linear_residual_backward(Context *ctx, void *saved) {
    LinearResidualSaved *s = saved;
    linear_backward(ctx, &s->linear);
    grad_pass(ctx, s->linear.y, s->base);
}

Tensor *linear_residual(Context *ctx, Tensor *x, Tensor *weight, Tensor *bias, Residual to) {
    if (!to.x || to.dropout > 0) return residual(ctx, linear(ctx, x, weight, bias), to);
    if (weight->quantised) return quantised_linear(ctx, "linear_residual", x, weight, bias, to.x);
    check_linear(ctx, "linear_residual", x, weight, bias);
    if (x->dtype == ctx->dtype && products_take(ctx, weight, bias))
        return products_linear(ctx, x, weight, to.x);
    int64_t in = tensor_dim(weight, 1), out = tensor_dim(weight, 0);
    Tensor *y = like(ctx, "linear", x, out);
    check_same_shape("linear_residual", y, to.x);
    ON_AS(ctx, x->dtype, linear_onto_forward, y->data, to.x->data, x->data, weight->data,
          bias ? bias->data : NULL, tensor_rows(x), in, out);
    RECORD(ctx, y, linear_residual_backward, LinearResidualSaved,
           .linear = {.y = y, .x = x, .weight = weight, .bias = bias}, .base = to.x);
    return y;
}

/* ---- add ---- */

typedef struct AddSaved {
    Tensor *y, *a, *b;
} AddSaved;

/* da = db = dy: b gets a copy, and a, last, dy's own memory. */
static void add_backward(Context *ctx, void *saved) {
    AddSaved *s = saved;
    int add_b;
    void *db = grad_slot(ctx, s->b, &add_b);
    if (db) ON_AS(ctx, s->y->dtype, accumulate, db, s->y->grad->data, tensor_count(s->y), add_b);
    grad_pass(ctx, s->y, s->a);
}

Tensor *add(Context *ctx, Tensor *a, Tensor *b) {
    check_number(ctx, "add", a);
    check_same_shape("add", a, b);
    Tensor *y = like(ctx, "sum", a, tensor_dim(a, -1));
    ON_AS(ctx, a->dtype, add, y->data, a->data, b->data, tensor_count(a));
    RECORD(ctx, y, add_backward, AddSaved, .y = y, .a = a, .b = b);
    return y;
}

/* ---- rmsnorm ---- */

typedef struct RmsNormSaved {
    Tensor *y, *x, *weight;
    float *rstd;
} RmsNormSaved;

static void rmsnorm_backward(Context *ctx, void *saved) {
    RmsNormSaved *s = saved;
    int64_t d = tensor_dim(s->x, -1);
    int add_x, add_w;
    void *dx = grad_slot(ctx, s->x, &add_x);
    float *dw = grad_slot(ctx, s->weight, &add_w);
    size_t parts = ctx->device == CUDA ? RMSNORM_BLOCKS : RMSNORM_CHUNKS;
    float *scratch = dw ? arena_alloc(&ctx->data, parts * (size_t)d * sizeof(float)) : NULL;
    ON(ctx, rmsnorm_backward, dx, add_x, dw, add_w, scratch, s->y->grad->data, s->x->data,
       s->weight->data, s->rstd, tensor_rows(s->x), d);
}

Tensor *rmsnorm(Context *ctx, Tensor *x, Tensor *weight, float eps) {
    check_activation(ctx, "rmsnorm", x);
    int64_t rows = tensor_rows(x), d = tensor_dim(x, -1);
    check_shape("rmsnorm", weight, ctx->dtype, SHAPE(d));
    Tensor *y = like(ctx, "rmsnorm", x, d);
    float *rstd = arena_alloc(&ctx->data, (size_t)rows * sizeof(float));
    ON(ctx, rmsnorm_forward, y->data, rstd, x->data, weight->data, rows, d, eps);
    RECORD(ctx, y, rmsnorm_backward, RmsNormSaved, .y = y, .x = x, .weight = weight, .rstd = rstd);
    return y;
}

/* ---- rmsnorm and linear in one ---- */

#ifdef WITH_CUDA
/* y [..., out] in one kernel, or NULL where that does not apply. */
static Tensor *fused_rmsnorm_linear(Context *ctx, const Tensor *x, const Tensor *norm, float eps,
                                    const Tensor *weight) {
    int64_t in = tensor_dim(x, -1), out = tensor_dim(weight, 0);
    FewRowsLinear s = {.x = x->data,
                       .norm = norm->data,
                       .eps = eps,
                       .rows = tensor_rows(x),
                       .in = in,
                       .part = {{.w = few_rows_weight(weight)}}};
    if (ctx->device != CUDA || ctx->recording || !few_rows_supports(ctx->gpu, ctx->dtype, &s))
        return NULL;
    if (weight->quantised)
        quantised_check(ctx, "rmsnorm_linear", weight);
    else
        check_linear(ctx, "rmsnorm_linear", x, weight, NULL);
    check_shape("rmsnorm_linear", norm, ctx->dtype, SHAPE(in));
    Tensor *y = like(ctx, "linear", x, out);
    s.part[0].y = y->data;
    few_rows_linear_cuda(ctx->gpu, ctx->dtype, &s);
    return y;
}
#endif

Tensor *rmsnorm_linear(Context *ctx, Tensor *x, Tensor *norm, float eps, Tensor *weight) {
#ifdef WITH_CUDA
    Tensor *y = fused_rmsnorm_linear(ctx, x, norm, eps, weight);
    if (y) return y;
#endif
    return linear(ctx, rmsnorm(ctx, x, norm, eps), weight, NULL);
}

/* ---- slice ---- */

typedef struct SliceSaved {
    Tensor *y, *x;
    int64_t from;
} SliceSaved;

static void slice_backward(Context *ctx, void *saved) {
    SliceSaved *s = saved;
    int add;
    void *dx = grad_slot(ctx, s->x, &add);
    if (dx)
        ON(ctx, slice_backward, dx, add, s->y->grad->data, tensor_rows(s->x), tensor_dim(s->x, -1),
           s->from, tensor_dim(s->y, -1));
}

Tensor *slice(Context *ctx, Tensor *x, int64_t from, int64_t count) {
    check_activation(ctx, "slice", x);
    int64_t width = tensor_dim(x, -1);
    CHECK(from >= 0 && count > 0 && count <= width - from,
          "slice: columns %lld to %lld of %s, which has %lld", (long long)from,
          (long long)(from + count), x->name, (long long)width);
    Tensor *y = like(ctx, "slice", x, count);
    ON(ctx, slice_forward, y->data, x->data, tensor_rows(x), width, from, count);
    RECORD(ctx, y, slice_backward, SliceSaved, .y = y, .x = x, .from = from);
    return y;
}

/* ---- concat ---- */

typedef struct ConcatSaved {
    Tensor *y, *a, *b;
} ConcatSaved;

static void concat_backward(Context *ctx, void *saved) {
    ConcatSaved *s = saved;
    int add_a, add_b;
    void *da = grad_slot(ctx, s->a, &add_a);
    void *db = grad_slot(ctx, s->b, &add_b);
    ON(ctx, concat_backward, da, add_a, db, add_b, s->y->grad->data, tensor_rows(s->y),
       tensor_dim(s->a, -1), tensor_dim(s->b, -1));
}

Tensor *concat(Context *ctx, Tensor *a, Tensor *b) {
    check_activation(ctx, "concat", a);
    check_activation(ctx, "concat", b);
    int64_t rows = tensor_rows(a), wa = tensor_dim(a, -1), wb = tensor_dim(b, -1);
    CHECK(a->ndim == b->ndim && rows == tensor_rows(b) && a != b, "concat: %s beside %s",
          shape_text(a).text, shape_text(b).text);
    Tensor *y = like(ctx, "concat", a, wa + wb);
    ON(ctx, concat_forward, y->data, a->data, b->data, rows, wa, wb);
    RECORD(ctx, y, concat_backward, ConcatSaved, .y = y, .a = a, .b = b);
    return y;
}

/* ---- silu and swiglu ---- */

typedef struct SiluSaved {
    Tensor *y, *x;
} SiluSaved;

static void silu_backward(Context *ctx, void *saved) {
    SiluSaved *s = saved;
    int add_x;
    void *dx = grad_slot(ctx, s->x, &add_x);
    if (dx) ON(ctx, silu_backward, dx, add_x, s->y->grad->data, s->x->data, tensor_count(s->x));
}

Tensor *silu(Context *ctx, Tensor *x) {
    check_activation(ctx, "silu", x);
    Tensor *y = like(ctx, "silu", x, tensor_dim(x, -1));
    ON(ctx, silu_forward, y->data, x->data, tensor_count(x));
    RECORD(ctx, y, silu_backward, SiluSaved, .y = y, .x = x);
    return y;
}

typedef struct SwigluSaved {
    Tensor *y, *gate, *up;
} SwigluSaved;

static void swiglu_backward(Context *ctx, void *saved) {
    SwigluSaved *s = saved;
    int add_gate, add_up;
    void *dgate = grad_slot(ctx, s->gate, &add_gate);
    void *dup = grad_slot(ctx, s->up, &add_up);
    ON(ctx, swiglu_backward, dgate, add_gate, dup, add_up, s->y->grad->data, s->gate->data,
       s->up->data, tensor_count(s->y));
}

Tensor *swiglu(Context *ctx, Tensor *gate, Tensor *up) {
    check_activation(ctx, "swiglu", gate);
    check_same_shape("swiglu", gate, up);
    CHECK(gate != up, "swiglu: gate and up must be two tensors");
    Tensor *y = like(ctx, "swiglu", gate, tensor_dim(gate, -1));
    ON(ctx, swiglu_forward, y->data, gate->data, up->data, tensor_count(y));
    RECORD(ctx, y, swiglu_backward, SwigluSaved, .y = y, .gate = gate, .up = up);
    return y;
}

/* ---- embedding ---- */

typedef struct EmbeddingSaved {
    Tensor *y, *table, *ids;
} EmbeddingSaved;

static void embedding_backward(Context *ctx, void *saved) {
    EmbeddingSaved *s = saved;
    int add;
    int64_t rows = tensor_count(s->ids), vocab = tensor_dim(s->table, 0);
    float *dtable = grad_slot(ctx, s->table, &add);
    if (!dtable) return;
    int32_t *scratch = arena_alloc(&ctx->data, (size_t)(vocab + 1 + 3 * rows) * sizeof(int32_t));
    ON(ctx, embedding_backward, dtable, add, scratch, s->y->grad->data, s->ids->data, rows,
       tensor_dim(s->table, 1), vocab);
}

Tensor *embedding(Context *ctx, Tensor *table, Tensor *ids) {
    check_shape("embedding", table, ctx->dtype, SHAPE(-1, -1));
    CHECK(ids->dtype == I32 && ids->ndim < MAX_DIMS,
          "embedding: ids must be I32 with at most %d dimensions", MAX_DIMS - 1);
    int64_t shape[MAX_DIMS], d = tensor_dim(table, 1);
    memcpy(shape, ids->shape, sizeof shape);
    shape[ids->ndim] = d;
    Tensor *y = tensor_new(ctx, "embedding", ctx->dtype, shape, ids->ndim + 1);
    ON(ctx, embedding_forward, y->data, table->data, ids->data, tensor_count(ids), d,
       tensor_dim(table, 0));
    RECORD(ctx, y, embedding_backward, EmbeddingSaved, .y = y, .table = table, .ids = ids);
    return y;
}

/* ---- cross entropy ---- */

typedef struct CrossEntropySaved {
    Tensor *loss, *logits, *targets;
    float *lse;
} CrossEntropySaved;

/* softmax(logits) - onehot(target), written over the logits: the largest tensor of a step exists
 * once. */
static void cross_entropy_backward(Context *ctx, void *saved) {
    CrossEntropySaved *s = saved;
    Tensor *logits = s->logits;
    if (!logits->requires_grad) return;
    CHECK(!logits->has_grad,
          "cross_entropy: the logits have another reader whose gradient would be lost");
    ON(ctx, cross_entropy_backward, logits->data, s->loss->grad->data, s->loss->data, s->lse,
       s->targets->data, tensor_rows(logits), tensor_dim(logits, -1));
    logits->grad = arena_alloc(&ctx->host, sizeof *logits->grad);
    *logits->grad = tensor_view(logits->data, logits->name, logits->dtype, logits->device,
                                logits->shape, logits->ndim);
    logits->has_grad = true;
}

Tensor *cross_entropy(Context *ctx, Tensor *logits, Tensor *targets) {
    check_activation(ctx, "cross_entropy", logits);
    int64_t rows = tensor_rows(logits);
    CHECK(targets->dtype == I32 && tensor_count(targets) == rows,
          "cross_entropy: targets are %s %s, but logits %s need one I32 for each row",
          dtype_name(targets->dtype), shape_text(targets).text, shape_text(logits).text);
    /* the mean, and how many rows it is of */
    Tensor *loss = tensor_new(ctx, "loss", F32, SHAPE(2));
    float *losses = arena_alloc(&ctx->data, (size_t)rows * sizeof(float));
    float *lse = arena_alloc(&ctx->data, (size_t)rows * sizeof(float));
    ON(ctx, cross_entropy_forward, loss->data, losses, lse, logits->data, targets->data, rows,
       tensor_dim(logits, -1));
    loss->shape[0] = 1;
    RECORD(ctx, loss, cross_entropy_backward, CrossEntropySaved, .loss = loss, .logits = logits,
           .targets = targets, .lse = lse);
    return loss;
}

/* ---- linear and cross entropy in one ---- */

#ifdef WITH_CUDA
typedef struct HeadLossSaved {
    Tensor *loss, *x, *weight;
    void *dlogits, *padded_weight;
    int64_t width;
} HeadLossSaved;

static void head_loss_backward(Context *ctx, void *saved) {
    HeadLossSaved *s = saved;
    int add_x, add_w;
    void *dx = grad_slot(ctx, s->x, &add_x);
    float *dw = grad_slot(ctx, s->weight, &add_w);
    linear_cross_entropy_backward_cuda(ctx->gpu, ctx->dtype, dx, add_x, dw, add_w, s->dlogits,
                                       s->padded_weight, s->loss->grad->data, s->x->data,
                                       tensor_rows(s->x), tensor_dim(s->x, -1),
                                       tensor_dim(s->weight, 0), s->width);
}

static Tensor *padded_head_loss(Context *ctx, Tensor *x, Tensor *weight, Tensor *targets) {
    check_activation(ctx, "linear_cross_entropy", x);
    int64_t rows = tensor_rows(x), in = tensor_dim(x, -1), vocab = tensor_dim(weight, 0);
    int64_t width = (vocab + 63) / 64 * 64, size = (int64_t)dtype_size(ctx->dtype);
    check_shape("linear_cross_entropy", weight, ctx->dtype, SHAPE(vocab, in));
    CHECK(targets->dtype == I32 && tensor_count(targets) == rows,
          "linear_cross_entropy: targets are %s %s, but %s needs one I32 for each row",
          dtype_name(targets->dtype), shape_text(targets).text, shape_text(x).text);
    Tensor *loss = tensor_new(ctx, "loss", F32, SHAPE(2)); /* the mean, and of how many rows */
    float *losses = arena_alloc(&ctx->data, (size_t)rows * sizeof(float));
    void *logits = arena_alloc(&ctx->data, (size_t)(rows * width * size));
    void *padded_weight =
        width == vocab ? weight->data : arena_alloc(&ctx->data, (size_t)(width * in * size));
    linear_cross_entropy_forward_cuda(ctx->gpu, ctx->dtype, loss->data, losses, logits,
                                      ctx->recording, padded_weight, x->data, weight->data,
                                      targets->data, rows, in, vocab, width);
    loss->shape[0] = 1;
    RECORD(ctx, loss, head_loss_backward, HeadLossSaved, .loss = loss, .x = x, .weight = weight,
           .dlogits = logits, .padded_weight = padded_weight, .width = width);
    return loss;
}
#endif

Tensor *linear_cross_entropy(Context *ctx, Tensor *x, Tensor *weight, Tensor *targets) {
#ifdef WITH_CUDA
    if (ctx->device == CUDA && !weight->quantised) return padded_head_loss(ctx, x, weight, targets);
#endif
    return cross_entropy(ctx, linear(ctx, x, weight, NULL), targets);
}

/* ---- dropout ---- */

typedef struct DropoutSaved {
    Tensor *y, *x;
    DropoutMask mask;
} DropoutSaved;

/* The mask is not stored: the generator is asked for it again. */
static void dropout_backward(Context *ctx, void *saved) {
    DropoutSaved *s = saved;
    int add;
    void *dx = grad_slot(ctx, s->x, &add);
    if (dx) ON(ctx, dropout, dx, add, s->y->grad->data, tensor_count(s->x), s->mask);
}

Tensor *dropout(Context *ctx, Tensor *x, float p) {
    check_activation(ctx, "dropout", x);
    CHECK(p >= 0 && p < 1, "dropout: the probability %g is not in [0, 1)", p);
    if (p == 0) return x;
    Tensor *y = like(ctx, "dropout", x, tensor_dim(x, -1));
    DropoutMask mask = {.seed = ctx->rng.seed,
                        .stream = rng_next_stream(&ctx->rng),
                        .sample = ctx->rng.sample,
                        .each = tensor_count(x) / (x->ndim > 1 ? x->shape[0] : 1),
                        .p = p};
    ON(ctx, dropout, y->data, 0, x->data, tensor_count(x), mask);
    RECORD(ctx, y, dropout_backward, DropoutSaved, .y = y, .x = x, .mask = mask);
    return y;
}

/* ---- sums ---- */

typedef struct SumSaved {
    Tensor *y, *x;
    const float *c;
    float scale;
} SumSaved;

static void sum_backward(Context *ctx, void *saved) {
    SumSaved *s = saved;
    int add;
    void *dx = grad_slot(ctx, s->x, &add);
    if (dx)
        ON_AS(ctx, s->x->dtype, sum_backward, dx, add, s->y->grad->data, s->c, tensor_count(s->x),
              s->scale);
}

static Tensor *scaled_sum(Context *ctx, Tensor *x, const float *c, float scale) {
    check_number(ctx, "sum", x);
    Tensor *y = tensor_new(ctx, "sum", F32, SHAPE(1));
    float *scratch = arena_alloc(&ctx->data, SUM_CHUNKS * sizeof(float));
    ON_AS(ctx, x->dtype, sum_forward, y->data, scratch, x->data, c, tensor_count(x), scale);
    RECORD(ctx, y, sum_backward, SumSaved, .y = y, .x = x, .c = c, .scale = scale);
    return y;
}

Tensor *sum(Context *ctx, Tensor *x) { return scaled_sum(ctx, x, NULL, 1.0f); }

Tensor *mean(Context *ctx, Tensor *x) {
    return scaled_sum(ctx, x, NULL, 1.0f / (float)tensor_count(x));
}

Tensor *weighted_sum(Context *ctx, Tensor *x, const Tensor *c) {
    check_shape("weighted_sum", c, F32, x->shape, x->ndim);
    return scaled_sum(ctx, x, c->data, 1.0f);
}
