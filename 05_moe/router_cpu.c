/*
 * The router on the CPU: one token at a time, tokens over threads. The k largest are found by k
 * passes over the experts that are still open, so a tie goes to the lower index without a rule for
 * it.
 */
#include "05_moe/router.h"
#include "common/core/fastmath.h"

#include <math.h>
#include <string.h>

/* Below this many scores a loop is over before the other threads have woken up. */
enum { PARALLEL_MIN = 1 << 12 };

static void softmax_row(float *s, const float *z, int experts) {
    float largest = z[0], sum = 0;
    for (int e = 1; e < experts; e++) largest = z[e] > largest ? z[e] : largest;
#pragma omp simd reduction(+ : sum)
    for (int e = 0; e < experts; e++) {
        s[e] = fast_exp(z[e] - largest);
        sum += s[e];
    }
    for (int e = 0; e < experts; e++) s[e] /= sum;
}

static void sigmoid_row(float *s, const float *z, int experts) {
#pragma omp simd
    for (int e = 0; e < experts; e++) s[e] = 1 / (1 + fast_exp(-z[e]));
}

/* The largest of n values among those that are open; the lower index wins a tie. Closes it. */
static int take_best(const float *values, bool *open, int n) {
    int best = -1;
    for (int i = 0; i < n; i++)
        if (open[i] && (best < 0 || values[i] > values[best])) best = i;
    open[best] = false;
    return best;
}

/* Closes the experts of all groups but the best topk_groups. */
static void close_groups(bool *open, const float *choice, const RouteShape *shape) {
    int size = shape->experts / shape->groups;
    float score[ROUTER_MAX_EXPERTS];
    bool group_open[ROUTER_MAX_EXPERTS];
    for (int g = 0; g < shape->groups; g++) {
        score[g] = 0; /* the sum of the group's best values */
        for (int i = 0; i < shape->group_best && i < size; i++)
            score[g] += choice[g * size + take_best(choice + g * size, open + g * size, size)];
        group_open[g] = true;
    }
    for (int e = 0; e < shape->experts; e++) open[e] = false;
    for (int i = 0; i < shape->topk_groups; i++) {
        int g = take_best(score, group_open, shape->groups);
        for (int e = g * size; e < (g + 1) * size; e++) open[e] = true;
    }
}

/* [route_token] */
/* One token: logits z [E] -> scores s [E], indices and weights [K]. Returns whether a score is
 * NaN. */
static bool route_token(float *s, int32_t *indices, float *weights, const float *z,
                        const float *bias, const RouteShape *shape) {
    int experts = shape->experts, k = shape->top_k;
    if (shape->sigmoid)
        sigmoid_row(s, z, experts);
    else
        softmax_row(s, z, experts);

    float choice[ROUTER_MAX_EXPERTS]; /* what experts are chosen by; weights never see the bias */
    bool open[ROUTER_MAX_EXPERTS], bad = false;
    for (int e = 0; e < experts; e++) {
        float c = bias ? s[e] + bias[e] : s[e];
        bad |= isnan(s[e]);
        choice[e] = isnan(c) ? -INFINITY : c; /* compares, so that k experts are found */
        open[e] = true;
    }
    if (shape->groups > 1) close_groups(open, choice, shape);

    float sum = 0;
    for (int j = 0; j < k; j++) {
        indices[j] = take_best(choice, open, experts);
        sum += weights[j] = s[indices[j]];
    }
    float factor = shape->norm ? shape->scale / (sum + 1e-20f) : shape->scale;
    for (int j = 0; j < k; j++) weights[j] = bad ? NAN : weights[j] * factor;
    return bad;
}
/* [/route_token] */

void route_forward_cpu(float *scores, int32_t *indices, float *weights, int32_t *status,
                       const float *logits, const float *bias, RouteShape shape) {
    int64_t E = shape.experts, K = shape.top_k, worst = 0;
#pragma omp parallel for reduction(max : worst) if (shape.tokens * E > PARALLEL_MIN)
    for (int64_t n = 0; n < shape.tokens; n++)
        if (route_token(scores + n * E, indices + n * K, weights + n * K, logits + n * E, bias,
                        &shape) &&
            INT32_MAX - n > worst)
            worst = INT32_MAX - n;
    if (status && worst > *status) *status = (int32_t)worst;
}

void route_replay_cpu(int32_t *indices, float *weights, const int32_t *replay, const float *scores,
                      RouteShape shape) {
    int64_t E = shape.experts, K = shape.top_k;
    for (int64_t n = 0; n < shape.tokens; n++) {
        int32_t *chosen = indices + n * K;
        const int32_t *instead = replay + n * K;
        float *w = weights + n * K, sum = 0;
        bool bad = isnan(w[0]);
        if (instead[0] == ROUTE_FREE || !memcmp(chosen, instead, (size_t)K * sizeof *chosen))
            continue;
        for (int64_t j = 0; j < K; j++) {
            chosen[j] = instead[j];
            sum += w[j] = chosen[j] < 0 ? 0 : scores[n * E + chosen[j]];
        }
        float factor = shape.norm ? shape.scale / (sum + 1e-20f) : shape.scale;
        for (int64_t j = 0; j < K; j++) w[j] = bad ? NAN : w[j] * factor;
    }
}

void route_weights_backward_cpu(float *dscores, int add, const float *dweights,
                                const float *weights, const float *scores, const int32_t *indices,
                                RouteShape shape) {
    int64_t E = shape.experts, K = shape.top_k;
#pragma omp parallel for if (shape.tokens * E > PARALLEL_MIN)
    for (int64_t n = 0; n < shape.tokens; n++) {
        float *ds = dscores + n * E;
        const float *dw = dweights + n * K, *w = weights + n * K, *s = scores + n * E;
        const int32_t *chosen = indices + n * K;
        if (!add)
            for (int64_t e = 0; e < E; e++) ds[e] = 0;
        if (chosen[0] < 0) continue; /* nobody */
        float sum = 0, dot = 0;
        for (int64_t j = 0; j < K; j++) sum += s[chosen[j]], dot += dw[j] * w[j];
        for (int64_t j = 0; j < K; j++)
            ds[chosen[j]] +=
                shape.norm ? (shape.scale * dw[j] - dot) / (sum + 1e-20f) : shape.scale * dw[j];
    }
}

void route_scores_backward_cpu(float *dlogits, int add, const float *dscores, const float *scores,
                               RouteShape shape) {
    int64_t E = shape.experts;
#pragma omp parallel for if (shape.tokens * E > PARALLEL_MIN)
    for (int64_t n = 0; n < shape.tokens; n++) {
        float *dz = dlogits + n * E;
        const float *ds = dscores + n * E, *s = scores + n * E;
        float dot = 0; /* softmax only */
        if (!shape.sigmoid)
            for (int64_t e = 0; e < E; e++) dot += ds[e] * s[e];
        for (int64_t e = 0; e < E; e++) {
            float g = shape.sigmoid ? ds[e] * s[e] * (1 - s[e]) : s[e] * (ds[e] - dot);
            dz[e] = add ? dz[e] + g : g;
        }
    }
}
