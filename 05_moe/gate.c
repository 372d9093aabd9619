/*
 * The gate on the tape: logits of three kinds, each with its backward function. Noise is not kept:
 * it is drawn again in the backward pass, from the same stream.
 */
#include "05_moe/gate.h"

#include "05_moe/gate_kernels.h"
#include "common/core/ops.h"

/* A new F32 [N, E]. */
static Tensor *logits_new(Context *ctx, const char *name, int64_t tokens, int64_t experts) {
    return tensor_new(ctx, name, F32, SHAPE(tokens, experts));
}

int64_t gate_scratch_bytes(DType dtype, int64_t tokens, int64_t hidden, int64_t experts) {
    /* rows of whole 16 bytes, which cuBLASLt wants of a matrix's first number */
    int64_t padded = (experts + 7) / 8 * 8;
    return dtype == BF16 ? 2 * 2 * padded * (tokens + hidden) : 0;
}

static void *scratch_for_backward(Context *ctx, const Tensor *x, const Tensor *weight) {
    int64_t bytes = gate_scratch_bytes(ctx->dtype, x->shape[0], x->shape[1], weight->shape[0]);
    return bytes ? arena_alloc(&ctx->data, (size_t)bytes) : NULL;
}

static void check_gate(const char *where, Context *ctx, const Tensor *x, const Tensor *weight) {
    check_shape(where, x, ctx->dtype, SHAPE(-1, -1));
    check_shape(where, weight, ctx->dtype, SHAPE(-1, x->shape[1]));
}

/* ---- linear ---- */

typedef struct GateSaved {
    Tensor *z, *x, *weight;
} GateSaved;

static void gate_linear_backward(Context *ctx, void *saved) {
    GateSaved *s = saved;
    int add_x, add_w;
    void *dx = grad_slot(ctx, s->x, &add_x);
    float *dw = grad_slot(ctx, s->weight, &add_w);
    ON(ctx, gate_backward, dx, add_x, dw, add_w, scratch_for_backward(ctx, s->x, s->weight),
       s->z->grad->data, s->x->data, s->weight->data, s->x->shape[0], s->x->shape[1],
       s->weight->shape[0]);
}

Tensor *gate_linear(Context *ctx, Tensor *x, Tensor *weight) {
    check_gate("gate_linear", ctx, x, weight);
    int64_t tokens = x->shape[0], experts = weight->shape[0];
    Tensor *z = logits_new(ctx, "logits", tokens, experts);
    ON(ctx, gate_forward, z->data, x->data, weight->data, tokens, x->shape[1], experts);
    RECORD(ctx, z, gate_linear_backward, GateSaved, .z = z, .x = x, .weight = weight);
    return z;
}

/* ---- noise ---- */

typedef struct NoiseSaved {
    Tensor *z, *clean, *raw;
    uint64_t stream;
} NoiseSaved;

/* dclean = dz,  draw = dz eps sigmoid(raw): softplus' = sigmoid. The noise is drawn again. */
static void gate_noise_backward(Context *ctx, void *saved) {
    NoiseSaved *s = saved;
    int add;
    float *draw = grad_slot(ctx, s->raw, &add);
    if (draw)
        ON(ctx, gate_noise_backward, draw, add, s->z->grad->data, s->raw->data,
           tensor_count(s->raw), ctx->rng.seed, s->stream);
    grad_pass(ctx, s->z, s->clean);
}

Tensor *gate_noise(Context *ctx, Tensor *clean, Tensor *raw) {
    check_shape("gate_noise", clean, F32, SHAPE(-1, -1));
    check_shape("gate_noise", raw, F32, clean->shape, clean->ndim);
    Tensor *z = logits_new(ctx, "noisy logits", clean->shape[0], clean->shape[1]);
    uint64_t stream = rng_next_stream(&ctx->rng);
    ON(ctx, gate_noise_forward, z->data, clean->data, raw->data, tensor_count(z), ctx->rng.seed,
       stream);
    RECORD(ctx, z, gate_noise_backward, NoiseSaved, .z = z, .clean = clean, .raw = raw,
           .stream = stream);
    return z;
}

/* ---- cosine ---- */

typedef struct CosineSaved {
    Tensor *z, *x, *centroids;
    float *token, *expert; /* 1 / norms */
    float scale;
} CosineSaved;

/*
 * z = (x . c) / (|x| |c|) * scale.  By the dot product: d(x . c) = dz * scale / (|x| |c|), which
 * reaches x and c as in gate_linear. By the norms: d(1 / |x|) / dx = -x / |x|^3, so
 *     dx -= x / |x|^2 * sum_e dz z,       dc likewise.
 */
static void gate_cosine_backward(Context *ctx, void *saved) {
    CosineSaved *s = saved;
    int64_t tokens = s->x->shape[0], hidden = s->x->shape[1], experts = s->centroids->shape[0];
    float *ddot = arena_alloc(&ctx->data, (size_t)(tokens * experts) * sizeof(float));
    float *per_token = arena_alloc(&ctx->data, (size_t)tokens * sizeof(float));
    float *per_expert = arena_alloc(&ctx->data, (size_t)experts * sizeof(float));
    ON(ctx, gate_cosine_backward, ddot, per_token, per_expert, s->z->grad->data, s->z->data,
       s->token, s->expert, s->scale, tokens, experts);
    int add_x, add_w;
    void *dx = grad_slot(ctx, s->x, &add_x);
    float *dw = grad_slot(ctx, s->centroids, &add_w);
    ON(ctx, gate_backward, dx, add_x, dw, add_w, scratch_for_backward(ctx, s->x, s->centroids),
       ddot, s->x->data, s->centroids->data, tokens, hidden, experts);
    if (dx) ON(ctx, gate_norms_backward, dx, s->x->data, per_token, s->token, tokens, hidden);
    if (dw)
        ON(ctx, gate_norms_backward_weight, dw, s->centroids->data, per_expert, s->expert, experts,
           hidden);
}

Tensor *gate_cosine(Context *ctx, Tensor *x, Tensor *centroids, float temperature) {
    check_gate("gate_cosine", ctx, x, centroids);
    CHECK(temperature > 0, "gate_cosine: temperature %g is not positive", temperature);
    int64_t tokens = x->shape[0], hidden = x->shape[1], experts = centroids->shape[0];
    float scale = 1 / temperature;
    float *token = arena_alloc(&ctx->data, (size_t)tokens * sizeof(float));
    float *expert = arena_alloc(&ctx->data, (size_t)experts * sizeof(float));
    Tensor *z = logits_new(ctx, "cosines", tokens, experts);
    ON(ctx, gate_forward, z->data, x->data, centroids->data, tokens, hidden, experts);
    ON(ctx, gate_norms, token, x->data, tokens, hidden);
    ON(ctx, gate_norms, expert, centroids->data, experts, hidden);
    ON(ctx, gate_cosine_forward, z->data, token, expert, scale, tokens, experts);
    RECORD(ctx, z, gate_cosine_backward, CosineSaved, .z = z, .x = x, .centroids = centroids,
           .token = token, .expert = expert, .scale = scale);
    return z;
}

/* ---- the load of noisy top-k ---- */

typedef struct NoisyLoadSaved {
    Tensor *load, *clean, *raw, *noisy, *rivals;
    int top_k;
} NoisyLoadSaved;

static void gate_noisy_load_backward(Context *ctx, void *saved) {
    NoisyLoadSaved *s = saved;
    int add_clean, add_raw, add_noisy;
    float *dclean = grad_slot(ctx, s->clean, &add_clean);
    float *draw = grad_slot(ctx, s->raw, &add_raw);
    float *dnoisy = grad_slot(ctx, s->noisy, &add_noisy);
    ON(ctx, gate_noisy_load_backward, dclean, add_clean, draw, add_raw, dnoisy, add_noisy,
       s->load->grad->data, s->rivals->data, s->clean->data, s->raw->data, s->noisy->data,
       s->clean->shape[0], s->clean->shape[1], s->top_k);
}

Tensor *gate_noisy_load(Context *ctx, Tensor *clean, Tensor *raw, Tensor *noisy, int top_k) {
    check_shape("gate_noisy_load", clean, F32, SHAPE(-1, -1));
    check_shape("gate_noisy_load", raw, F32, clean->shape, clean->ndim);
    check_shape("gate_noisy_load", noisy, F32, clean->shape, clean->ndim);
    int64_t tokens = clean->shape[0], experts = clean->shape[1];
    CHECK(top_k >= 1 && top_k <= experts, "gate_noisy_load: top_k %d of %lld experts", top_k,
          (long long)experts);
    Tensor *load = tensor_new(ctx, "noisy load", F32, SHAPE(experts));
    Tensor *rivals = tensor_new(ctx, "rivals", I32, SHAPE(tokens, 2));
    float *p = arena_alloc(&ctx->data, (size_t)(tokens * experts) * sizeof(float));
    ON(ctx, gate_noisy_load_forward, load->data, p, rivals->data, clean->data, raw->data,
       noisy->data, tokens, experts, top_k);
    RECORD(ctx, load, gate_noisy_load_backward, NoisyLoadSaved, .load = load, .clean = clean,
           .raw = raw, .noisy = noisy, .rivals = rivals, .top_k = top_k);
    return load;
}
