/*
 * Balance: losses by their formulas and by finite differences, the bias update by hand, the
 * measures.
 */
#include "05_moe/balance.h"

#include "common/program/testing.h"

#include <math.h>
#include <string.h>

enum { B = 3, T = 11, E = 7, K = 2, N = B * T };

static Tensor *f32_tensor(Context *ctx, const char *name, const float *host, const int64_t *shape,
                          int ndim) {
    Tensor *t = tensor_copy_in(ctx, name, F32, host, shape, ndim);
    t->requires_grad = true;
    return t;
}

/* Scores in (0, 1) as of a sigmoid: their sum is not 1. Choices: two different experts each. */
static void inputs(float *scores, int32_t *indices) {
    for (int i = 0; i < N * E; i++) scores[i] = 0.05f + 0.9f * rng_uniform(3, 1, (uint64_t)i);
    for (int n = 0; n < N; n++) {
        indices[n * K] = n * n % E;
        indices[n * K + 1] = (n * n + 1 + n % 3) % E;
    }
}

/* 4 tokens, 2 experts, k = 1. Three tokens take expert 0, so f = (1.5, 0.5); P = (0.65, 0.35). */
CONTEXT_TEST(balance, loss_by_hand) {
    static const float s[8] = {0.9f, 0.1f, 0.8f, 0.2f, 0.6f, 0.4f, 0.3f, 0.7f};
    static const int32_t chosen[4] = {0, 0, 0, 1};
    /* 1.15: an even load would give 1 */
    static const float want[1] = {1.5f * 0.65f + 0.5f * 0.35f};
    Tensor *scores = f32_tensor(&ctx, "scores", s, SHAPE(4, 2));
    Tensor *indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(4, 1));
    check_tensor(&ctx, "loss", balance_loss(&ctx, scores, indices, 1, 1.0f), want, 1e-6);
}

/* Over the batch (Switch) and for each sequence (DeepSeek), with gradients, in double precision. */
DEVICE_TEST(balance, loss_by_its_formula) {
    for (int per_sequence = 0; per_sequence < 2; per_sequence++) {
        Context ctx = test_context(device, dtype);
        float s[N * E], want_grad[N * E];
        int32_t chosen[N * K];
        inputs(s, chosen);
        int sequences = per_sequence ? B : 1, length = N / sequences;
        double loss = 0, alpha = 0.3;
        for (int b = 0; b < sequences; b++) {
            double f[E] = {0}, p[E] = {0};
            for (int n = b * length; n < (b + 1) * length; n++) {
                double sum = 0;
                for (int e = 0; e < E; e++) sum += s[n * E + e];
                for (int e = 0; e < E; e++) p[e] += s[n * E + e] / sum / length;
                for (int j = 0; j < K; j++) f[chosen[n * K + j]] += (double)E / (K * length);
            }
            for (int e = 0; e < E; e++) loss += alpha * f[e] * p[e] / sequences;
            for (int n = b * length; n < (b + 1) * length; n++) {
                double sum = 0, dot = 0;
                for (int e = 0; e < E; e++) sum += s[n * E + e], dot += f[e] * s[n * E + e];
                for (int e = 0; e < E; e++)
                    want_grad[n * E + e] =
                        (float)(alpha / sequences / length * (f[e] / sum - dot / (sum * sum)));
            }
        }
        Tensor *scores = f32_tensor(&ctx, "scores", s, SHAPE(N, E));
        Tensor *indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(N, K));
        ctx.recording = true;
        Tensor *got = balance_loss(&ctx, scores, indices, sequences, (float)alpha);
        const float want[1] = {(float)loss};
        check_tensor(&ctx, "loss", got, want, 8 * tolerance_of(F32, N));
        tape_backward(&ctx, got);
        /* f_e - mean f cancels where the load is near even */
        check_tensor(&ctx, "gradient", scores->grad, want_grad, 64 * tolerance_of(F32, N));
        context_free(&ctx);
    }
}

/* Every backward kernel adds to what is there when it is asked to. */
CONTEXT_TEST(balance, gradients_add) {
    enum { MOST = N * E };
    float s[N * E], old[MOST], one[1] = {0.5f}, per_expert[E];
    int32_t chosen[N * K];
    inputs(s, chosen);
    for (int i = 0; i < MOST; i++) old[i] = rng_normal(3, 5, (uint64_t)i);
    for (int e = 0; e < E; e++) per_expert[e] = 1 + rng_uniform(3, 6, (uint64_t)e);
    Tensor *x = f32_tensor(&ctx, "x", s, SHAPE(N, E)),
           *v = f32_tensor(&ctx, "v", per_expert, SHAPE(E));
    Tensor *indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(N, K));
    Tensor *dloss = f32_tensor(&ctx, "dloss", one, SHAPE(1)),
           *loss = tensor_new(&ctx, "loss", F32, SHAPE(1));
    Tensor *lse = tensor_new(&ctx, "lse", F32, SHAPE(N)),
           *sums = tensor_new(&ctx, "sums", F32, SHAPE(N));
    Tensor *f = tensor_new(&ctx, "f", F32, SHAPE(E)), *p = tensor_new(&ctx, "p", F32, SHAPE(E));
    ON(&ctx, balance_z_forward, loss->data, lse->data, x->data, N, E, 0.5f);
    ON(&ctx, balance_loss_forward, loss->data, f->data, p->data, sums->data, x->data, indices->data,
       1, N, E, K, 0.5f);
    static const char *const names[] = {"balance", "z", "importance", "variation"};
    static const int counts[] = {N * E, N * E, N * K, E};
    for (int kind = 0; kind < 4; kind++) {
        float *got[2];
        for (int add = 0; add < 2; add++) {
            Tensor *d = tensor_copy_in(&ctx, "d", F32, old, SHAPE(counts[kind]));
            if (kind == 0)
                ON(&ctx, balance_loss_backward, d->data, add, dloss->data, f->data, sums->data,
                   x->data, 1, N, E);
            else if (kind == 1)
                ON(&ctx, balance_z_backward, d->data, add, dloss->data, lse->data, x->data, N, E,
                   0.5f);
            else if (kind == 2)
                ON(&ctx, balance_importance_backward, d->data, add, v->data, indices->data, N * K);
            else
                ON(&ctx, balance_variation_backward, d->data, add, dloss->data, v->data, E, 0.5f);
            got[add] = test_values(&ctx, d);
        }
        for (int i = 0; i < counts[kind]; i++) got[0][i] += old[i];
        check_close(names[kind], got[1], got[0], counts[kind], 4 * 0x1p-24); /* an FMA at most */
    }
}

/* Scores that have underflowed: shares of zero and no NaN, on every device. */
CONTEXT_TEST(balance, loss_of_scores_that_underflowed) {
    float s[N * E], zero[N * E] = {0};
    int32_t chosen[N * K];
    inputs(s, chosen);
    memset(s + E, 0, 2 * E * sizeof *s); /* two tokens */
    Tensor *scores = f32_tensor(&ctx, "scores", s, SHAPE(N, E));
    Tensor *indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(N, K));
    ctx.recording = true;
    Tensor *loss = balance_loss(&ctx, scores, indices, B, 1.0f);
    tape_backward(&ctx, loss);
    float *got = test_values(&ctx, loss), *gradient = test_values(&ctx, scores->grad);
    check_all(isfinite(got[0]), got[0] > 0);
    for (int i = 0; i < N * E; i++) cr_assert(isfinite(gradient[i]));
    Tensor *none = f32_tensor(&ctx, "none", zero, SHAPE(N, E));
    check_tensor(&ctx, "of nothing", balance_loss(&ctx, none, indices, B, 1.0f), zero, 0);
}

/* An even load costs alpha; one pair of experts for everything E / K times that, if they also have
 * all of the score. */
CONTEXT_TEST(balance, loss_at_its_ends) {
    static float even[14 * E], one[14 * E];
    int32_t round_robin[14 * K], same[14 * K];
    for (int n = 0; n < 14; n++) {
        for (int e = 0; e < E; e++) even[n * E + e] = 1.0f / E;
        one[n * E + 2] = one[n * E + 4] = 0.5f;
        for (int j = 0; j < K; j++) {
            round_robin[n * K + j] = (n * K + j) % E;
            same[n * K + j] = j ? 4 : 2;
        }
    }
    const float alpha[1] = {0.1f}, most[1] = {0.1f * E / K};
    Tensor *t = tensor_copy_in(&ctx, "indices", I32, round_robin, SHAPE(14, K));
    Tensor *s = f32_tensor(&ctx, "scores", even, SHAPE(14, E));
    check_tensor(&ctx, "even", balance_loss(&ctx, s, t, 1, 0.1f), alpha, 1e-6);
    t = tensor_copy_in(&ctx, "indices", I32, same, SHAPE(14, K));
    s = f32_tensor(&ctx, "scores", one, SHAPE(14, E));
    check_tensor(&ctx, "two for all", balance_loss(&ctx, s, t, 2, 0.1f), most, 1e-6);
}

CONTEXT_TEST(balance, z_loss_by_its_formula) {
    float z[N * E], want_grad[N * E];
    double loss = 0;
    for (int i = 0; i < N * E; i++) z[i] = 3 * rng_normal(3, 2, (uint64_t)i);
    for (int n = 0; n < N; n++) {
        double sum = 0;
        for (int e = 0; e < E; e++) sum += exp(z[n * E + e]);
        loss += 0.01 * log(sum) * log(sum) / N;
        for (int e = 0; e < E; e++)
            want_grad[n * E + e] = (float)(0.02 / N * log(sum) * exp(z[n * E + e]) / sum);
    }
    Tensor *logits = f32_tensor(&ctx, "logits", z, SHAPE(N, E));
    ctx.recording = true;
    Tensor *got = balance_z_loss(&ctx, logits, 0.01f);
    const float want[1] = {(float)loss};
    check_tensor(&ctx, "loss", got, want, 8 * tolerance_of(F32, N));
    tape_backward(&ctx, got);
    check_tensor(&ctx, "gradient", logits->grad, want_grad, 32 * tolerance_of(F32, E));
}

/* Shazeer's pair: importance is the sum of an expert's weights, variation its CV^2. */
CONTEXT_TEST(balance, importance_and_its_variation) {
    float s[N * E], w[N * K], want[E] = {0};
    int32_t chosen[N * K];
    inputs(s, chosen);
    for (int i = 0; i < N * K; i++) {
        w[i] = rng_uniform(3, 4, (uint64_t)i);
        want[chosen[i]] += w[i];
    }
    Tensor *weights = f32_tensor(&ctx, "weights", w, SHAPE(N, K));
    Tensor *indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(N, K));
    ctx.recording = true;
    Tensor *importance = balance_importance(&ctx, weights, indices, E);
    check_tensor(&ctx, "importance", importance, want, 4 * tolerance_of(F32, N));
    double m = 0, q = 0;
    for (int e = 0; e < E; e++) m += want[e] / E, q += (double)want[e] * want[e] / E;
    const float loss[1] = {(float)(0.5 * (q / (m * m) - 1))};
    Tensor *got = balance_variation(&ctx, importance, 0.5f);
    check_tensor(&ctx, "variation", got, loss, 1e-5); /* q / m^2 - 1 cancels */
    tape_backward(&ctx, got);
    float want_grad[N * K];
    for (int i = 0; i < N * K; i++)
        want_grad[i] = (float)(2 * 0.5 / (E * m * m) * (want[chosen[i]] - q / m));
    check_tensor(&ctx, "gradient", weights->grad, want_grad, 1e-5);
    const float none[E] = {0}, zero[1] = {0};
    Tensor *empty = f32_tensor(&ctx, "empty", none, SHAPE(E));
    check_tensor(&ctx, "of zeros", balance_variation(&ctx, empty, 0.5f), zero, 0);
}

typedef struct Graph {
    Tensor *scores, *logits, *weights;
    const Tensor *indices;
} Graph;

static Tensor *all_losses(Context *ctx, void *user) {
    Graph *g = user;
    Tensor *loss = balance_loss(ctx, g->scores, g->indices, B, 3.0f);
    loss = add(ctx, loss, balance_loss(ctx, g->scores, g->indices, 1, 3.0f));
    loss = add(ctx, loss, balance_z_loss(ctx, g->logits, 0.3f));
    Tensor *importance = balance_importance(ctx, g->weights, g->indices, E);
    return add(ctx, loss, balance_variation(ctx, importance, 3.0f));
}

CPU_TEST(balance, gradients_agree_with_finite_differences) {
    float s[N * E], w[N * K];
    int32_t chosen[N * K];
    inputs(s, chosen);
    for (int i = 0; i < N * K; i++) w[i] = 0.2f + rng_uniform(3, 4, (uint64_t)i);
    Graph g = {.scores = f32_tensor(&ctx, "scores", s, SHAPE(N, E)),
               .logits = test_normal(&ctx, "logits", 1, SHAPE(N, E)),
               .weights = f32_tensor(&ctx, "weights", w, SHAPE(N, K)),
               .indices = tensor_copy_in(&ctx, "indices", I32, chosen, SHAPE(N, K))};
    Tensor *list[] = {g.scores, g.logits, g.weights};
    /* The largest gradients are 0.05; F32 rounds a loss of 8 to 5e-7, 2e-5 with this step. */
    check_gradients(&ctx, "balance", all_losses, &g, list, 3, 40, 2e-2, 2e-2);
}

/* Loads 6, 2, 4, 4: the mean is 4. The first gets a smaller bias, the second a larger one. */
CONTEXT_TEST(balance, bias_update_by_hand) {
    static const float start[4] = {0.5f, 0.5f, -0.25f, 0};
    static const float want[4] = {0.5f - 0.125f, 0.5f + 0.125f, -0.25f, 0};
    static const int32_t counts[4] = {3, 1, 2, 2};
    Tensor *bias = f32_tensor(&ctx, "bias", start, SHAPE(4));
    Tensor *load = tensor_copy_in(&ctx, "load", I32, (int32_t[4]){0}, SHAPE(4));
    Tensor *t = tensor_copy_in(&ctx, "counts", I32, counts, SHAPE(4));
    balance_count(&ctx, load, t);
    balance_count(&ctx, load, t); /* two micro-batches */
    int32_t got[4];
    tensor_download_ints(&ctx, got, load);
    for (int e = 0; e < 4; e++) cr_assert_eq(got[e], 2 * counts[e]);
    balance_update_bias(&ctx, bias, load, 0.125f);
    check_tensor(&ctx, "bias", bias, want, 0);
    tensor_download_ints(&ctx, got, load);
    for (int e = 0; e < 4; e++) cr_assert_eq(got[e], 0, "counting begins anew");
    balance_update_bias(&ctx, bias, load, 0.125f); /* nothing was counted: nothing moves */
    check_tensor(&ctx, "bias", bias, want, 0);
    balance_count(&ctx, load, t);
    balance_update_bias(&ctx, NULL, load, 0.125f); /* no bias: counting begins anew all the same */
    tensor_download_ints(&ctx, got, load);
    for (int e = 0; e < 4; e++) cr_assert_eq(got[e], 0);
}

Test(balance, measures) {
    BalanceMeasures m = balance_measure((int32_t[]){5, 5, 5, 5}, 4, 20);
    check_all(m.tokens == 20, m.mean == 5, m.max_vio == 0, m.dropped == 0, m.unused == 0);
    cr_assert_float_eq(m.entropy, 1, 1e-12);
    m = balance_measure((int32_t[]){0, 20, 0, 0}, 4, 5);
    check_all(m.max == 20, m.min == 0, m.max_vio == 3, m.dropped == 15, m.unused == 3);
    cr_assert_float_eq(m.entropy, 0, 1e-12);
    m = balance_measure((int32_t[]){10, 10, 0, 0}, 4, -1);
    check_all(m.max_vio == 1, m.dropped == 0, m.unused == 2);
    cr_assert_float_eq(m.entropy, 0.5, 1e-12);
    m = balance_measure((int32_t[]){7}, 1, -1);
    check_all(m.max_vio == 0, m.entropy == 1);
    m = balance_measure((int32_t[]){0, 0}, 2, -1);
    check_all(m.tokens == 0, m.max_vio == 0, m.entropy == 0, m.unused == 2);
}
