/*
 * Balance on the tape, and its measures. Each loss is a node whose backward multiplies what its
 * forward kept: f and P of every sequence, log-sum-exp of every row, the importance of every
 * expert. The bias has no node, for no gradient reaches it; the measures are plain arithmetic on
 * counts that were copied to the host.
 */
#include "05_moe/balance.h"

#include <math.h>

static float *floats(Context *ctx, int64_t n) {
    return arena_alloc(&ctx->data, (size_t)n * sizeof(float));
}

/* ---- the auxiliary loss ---- */

typedef struct BalanceSaved {
    Tensor *loss, *scores;
    float *f, *sums;
    int64_t sequences;
} BalanceSaved;

static void balance_loss_backward(Context *ctx, void *saved) {
    BalanceSaved *s = saved;
    int add;
    float *dscores = grad_slot(ctx, s->scores, &add);
    int64_t length = s->scores->shape[0] / s->sequences;
    if (dscores)
        ON(ctx, balance_loss_backward, dscores, add, s->loss->grad->data, s->f, s->sums,
           s->scores->data, s->sequences, length, (int)s->scores->shape[1]);
}

Tensor *balance_loss(Context *ctx, Tensor *scores, const Tensor *indices, int64_t sequences,
                     float alpha) {
    check_shape("balance_loss", scores, F32, SHAPE(-1, -1));
    int64_t tokens = scores->shape[0], experts = scores->shape[1];
    check_shape("balance_loss", indices, I32, SHAPE(tokens, -1));
    CHECK(sequences > 0 && tokens > 0 && tokens % sequences == 0,
          "balance_loss: %lld tokens are not %lld sequences of one length", (long long)tokens,
          (long long)sequences);
    Tensor *loss = tensor_new(ctx, "balance loss", F32, SHAPE(1));
    float *f = floats(ctx, sequences * experts), *p = floats(ctx, sequences * experts);
    float *sums = floats(ctx, tokens);
    ON(ctx, balance_loss_forward, loss->data, f, p, sums, scores->data, indices->data, sequences,
       tokens / sequences, (int)experts, (int)indices->shape[1], alpha);
    RECORD(ctx, loss, balance_loss_backward, BalanceSaved, .loss = loss, .scores = scores, .f = f,
           .sums = sums, .sequences = sequences);
    return loss;
}

/* ---- the z-loss ---- */

typedef struct ZLossSaved {
    Tensor *loss, *logits;
    float *lse, beta;
} ZLossSaved;

static void balance_z_backward(Context *ctx, void *saved) {
    ZLossSaved *s = saved;
    int add;
    float *dlogits = grad_slot(ctx, s->logits, &add);
    if (dlogits)
        ON(ctx, balance_z_backward, dlogits, add, s->loss->grad->data, s->lse, s->logits->data,
           s->logits->shape[0], (int)s->logits->shape[1], s->beta);
}

Tensor *balance_z_loss(Context *ctx, Tensor *logits, float beta) {
    check_shape("balance_z_loss", logits, F32, SHAPE(-1, -1));
    Tensor *loss = tensor_new(ctx, "z-loss", F32, SHAPE(1));
    float *lse = floats(ctx, logits->shape[0]);
    ON(ctx, balance_z_forward, loss->data, lse, logits->data, logits->shape[0],
       (int)logits->shape[1], beta);
    RECORD(ctx, loss, balance_z_backward, ZLossSaved, .loss = loss, .logits = logits, .lse = lse,
           .beta = beta);
    return loss;
}

/* ---- importance and its variation ---- */

typedef struct ImportanceSaved {
    Tensor *importance, *weights;
    const Tensor *indices;
} ImportanceSaved;

static void balance_importance_backward(Context *ctx, void *saved) {
    ImportanceSaved *s = saved;
    int add;
    float *dweights = grad_slot(ctx, s->weights, &add);
    if (dweights)
        ON(ctx, balance_importance_backward, dweights, add, s->importance->grad->data,
           s->indices->data, tensor_count(s->weights));
}

Tensor *balance_importance(Context *ctx, Tensor *weights, const Tensor *indices, int experts) {
    check_shape("balance_importance", weights, F32, SHAPE(-1, -1));
    check_shape("balance_importance", indices, I32, weights->shape, weights->ndim);
    Tensor *importance = tensor_new(ctx, "importance", F32, SHAPE(experts));
    ON(ctx, balance_importance_forward, importance->data, weights->data, indices->data,
       tensor_count(weights), experts);
    RECORD(ctx, importance, balance_importance_backward, ImportanceSaved, .importance = importance,
           .weights = weights, .indices = indices);
    return importance;
}

typedef struct VariationSaved {
    Tensor *loss, *v;
    float alpha;
} VariationSaved;

static void balance_variation_backward(Context *ctx, void *saved) {
    VariationSaved *s = saved;
    int add;
    float *dv = grad_slot(ctx, s->v, &add);
    if (dv)
        ON(ctx, balance_variation_backward, dv, add, s->loss->grad->data, s->v->data,
           (int)s->v->shape[0], s->alpha);
}

Tensor *balance_variation(Context *ctx, Tensor *v, float alpha) {
    check_shape("balance_variation", v, F32, SHAPE(-1));
    Tensor *loss = tensor_new(ctx, "variation loss", F32, SHAPE(1));
    ON(ctx, balance_variation_forward, loss->data, v->data, (int)v->shape[0], alpha);
    RECORD(ctx, loss, balance_variation_backward, VariationSaved, .loss = loss, .v = v,
           .alpha = alpha);
    return loss;
}

/* ---- the bias ---- */

void balance_count(Context *ctx, const Tensor *load, const Tensor *counts) {
    check_shape("balance_count", counts, I32, SHAPE(-1));
    check_shape("balance_count", load, I32, counts->shape, counts->ndim);
    ON(ctx, balance_count, load->data, counts->data, (int)counts->shape[0]);
}

void balance_update_bias(Context *ctx, const Tensor *bias, const Tensor *load, float gamma) {
    check_shape("balance_update_bias", load, I32, SHAPE(-1));
    if (bias) check_shape("balance_update_bias", bias, F32, load->shape, load->ndim);
    ON(ctx, balance_update_bias, bias ? bias->data : NULL, load->data, (int)load->shape[0], gamma);
}

/* ---- measures ---- */

BalanceMeasures balance_measure(const int32_t *counts, int experts, int64_t kept) {
    BalanceMeasures m = {.min = counts[0]};
    for (int e = 0; e < experts; e++) {
        m.tokens += counts[e];
        m.max = counts[e] > m.max ? counts[e] : m.max;
        m.min = counts[e] < m.min ? counts[e] : m.min;
        m.unused += counts[e] == 0;
    }
    m.mean = m.tokens / experts;
    if (m.tokens == 0) return m;
    m.max_vio = m.max / m.mean - 1;
    for (int e = 0; e < experts; e++) {
        double share = counts[e] / m.tokens;
        if (share > 0) m.entropy -= share * log(share);
    }
    m.entropy = experts > 1 ? m.entropy / log(experts) : 1;
    m.dropped = kept < 0 ? 0 : m.tokens - (double)kept;
    return m;
}
