/*
 * What an indexer learns from: the loss and its gradients are PyTorch's, the definition's, and
 * those of finite differences; and what it measures, by hand.
 */
#include "10_full_model/sparse/indexer.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static Error err; /* what the last call that failed had to say */

/* ---- PyTorch's ---- */

static void check_golden(Context *ctx, SafeTensors *g, const char *stage, bool sparse) {
    char name[40];
    Tensor *q = golden_tensor(ctx, g, "q"), *k = golden_tensor(ctx, g, "k");
    Tensor *in[] = {golden_tensor(ctx, g, "iq"), golden_tensor(ctx, g, "ik"),
                    golden_tensor(ctx, g, "iw")};
    static const char *const names[] = {"iq", "ik", "iw"};
    snprintf(name, sizeof name, "%s.lse", stage);
    Tensor *lse = tensor_copy_in(ctx, "lse", F32, golden_values(g, name),
                                 SHAPE(tensor_dim(q, 0) * tensor_dim(q, 1) * tensor_dim(q, 2)));
    in[2] = tensor_copy_in(ctx, "iw", F32, golden_values(g, "iw"), in[2]->shape, in[2]->ndim);
    Attended a = {q, k, lse->data, sparse ? golden_tensor(ctx, g, "selected") : NULL,
                  1 / sqrtf((float)tensor_dim(q, 3))};
    for (int i = 0; i < 3; i++) in[i]->requires_grad = true;
    IndexMeasures measures;
    float scale = 1 / sqrtf((float)(tensor_dim(in[0], 2) * tensor_dim(in[0], 3)));
    ctx->recording = true;
    Tensor *loss = index_loss(ctx, &a, in[0], in[1], in[2], scale, 6, &measures);
    tape_backward(ctx, loss);
    snprintf(name, sizeof name, "%s.loss", stage);
    /* Sums of T terms in F32, each of an exponential: 1e-5; their 1e-10 is far below. */
    double t = 1e-5;
    check_tensor(ctx, "loss", loss, golden_values(g, name), t);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s.grad.%s", stage, names[i]);
        check_tensor(ctx, name, in[i]->grad, golden_values(g, name), t);
    }
    cr_assert(measures.recall > 0 && measures.recall < 1 && measures.mass < 1, "recall %g, mass %g",
              measures.recall, measures.mass);
    context_reset(ctx);
}

CONTEXT_TEST(index_loss, is_pytorchs_in_both_stages) {
    if (dtype == BF16) return; /* whose inputs would be others: rounded ones */
    SafeTensors *g = golden_open("10_full_model/goldens/index_loss.safetensors");
    check_golden(&ctx, g, "warmup", false);
    check_golden(&ctx, g, "sparse", true);
}

/* ---- the definition ---- */

enum { B = 2, T = 13, H = 3, D = 5, HI = 2, DI = 4, K = 5 };

typedef struct Case {
    Tensor *q, *k, *in[3], *lists;
    float lse[B * H * T];
    Attended attended;
} Case;

/* Attention's sums over the keys of the lists, or over all. */
static void fill_lse(Case *c) {
    const float *q = c->q->data, *k = c->k->data;
    for (int row = 0; row < B * T; row++)
        for (int h = 0; h < H; h++) {
            double sum = 0;
            for (int e = 0; e < (c->lists ? K : row % T + 1); e++) {
                int j = c->lists ? ((int32_t *)c->lists->data)[row * K + e] : e;
                double dot = 0;
                for (int i = 0; i < D && j >= 0; i++)
                    dot += q[(row * H + h) * D + i] * k[((row / T * T + j) * H + h) * D + i];
                if (j >= 0) sum += exp(0.3 * dot);
            }
            c->lse[(row / T * H + h) * T + row % T] = (float)log(sum);
        }
}

/* Lists of the query and every third token before it. */
static Case *case_of(Context *ctx, bool sparse) {
    Case *c = must_alloc(1, sizeof *c);
    c->q = test_normal(ctx, "q", 1, SHAPE(B, T, H, D));
    c->k = test_normal(ctx, "k", 2, SHAPE(B, T, H, D));
    c->in[0] = test_normal(ctx, "iq", 3, SHAPE(B, T, HI, DI));
    c->in[1] = test_normal(ctx, "ik", 4, SHAPE(B, T, DI));
    c->in[2] = test_normal(ctx, "iw", 5, SHAPE(B, T, HI));
    int32_t lists[B * T * K];
    for (int i = 0; i < B * T * K; i++) {
        int j = i / K % T - 3 * (K - 1 - i % K);
        lists[i] = j < 0 ? -1 : j;
    }
    if (sparse) c->lists = tensor_copy_in(ctx, "lists", I32, lists, SHAPE(B, T, K));
    fill_lse(c);
    c->attended = (Attended){c->q, c->k, c->lse, c->lists, 0.3f};
    return c;
}

static Tensor *case_loss(Context *ctx, void *user) {
    Case *c = user;
    IndexMeasures measures;
    return index_loss(ctx, &c->attended, c->in[0], c->in[1], c->in[2], 0.5f, K, &measures);
}

CPU_TEST(index_loss, is_the_definition_and_its_gradients_are_slopes) {
    for (int sparse = 0; sparse < 2; sparse++) {
        Case *c = case_of(&ctx, sparse);
        IndexLossShape shape = {B, T, H, H, D, 0.3f, HI, DI, 0.5f, K, K};
        int32_t tidy[B * T * K]; /* -1 behind */
        for (int row = 0; row < B * T && sparse; row++)
            for (int i = 0, at = row * K; i <= K; i++)
                if (i == K)
                    for (; at < row * K + K; at++) tidy[at] = -1;
                else if (((int32_t *)c->lists->data)[row * K + i] >= 0)
                    tidy[at++] = ((int32_t *)c->lists->data)[row * K + i];
        IndexLossInput in = {c->q->data,          c->k->data,     c->lse,
                             c->in[0]->data,      c->in[1]->data, c->in[2]->data,
                             sparse ? tidy : NULL};
        float want = (float)index_loss_reference_cpu(in, shape), got;
        tensor_download(&ctx, &got, case_loss(&ctx, c));
        check_close("loss", &got, &want, 1, 1e-5);
        check_gradients(&ctx, "index_loss", case_loss, c, c->in, 3, 24, 3e-3, 2e-2);
    }
}

/* ---- every device ---- */

/* Attention's sums over the lists' keys, or all; of one head of keys or as many as queries. */
static float *sums_of(const float *q, const float *k, const int32_t *lists, IndexLossShape s) {
    float *lse = test_floats((int64_t)s.batch * s.heads * s.tokens);
    for (int row = 0; row < s.batch * s.tokens; row++)
        for (int h = 0; h < s.heads; h++) {
            int b = row / s.tokens, t = row % s.tokens;
            double sum = 0;
            for (int e = 0; e < (lists ? s.count : t + 1); e++) {
                int j = lists ? lists[row * s.count + e] : e;
                double dot = 0;
                if (j < 0) continue;
                const float *key =
                    k + ((b * s.tokens + j) * s.kv_heads + h % s.kv_heads) * s.qk_dim;
                for (int c = 0; c < s.qk_dim; c++)
                    dot += q[(row * s.heads + h) * s.qk_dim + c] * key[c];
                sum += exp(s.attention_scale * dot);
            }
            lse[(b * s.heads + h) * s.tokens + t] = (float)log(sum);
        }
    return lse;
}

/* Loss, gradients and measures as the CPU has them of the same numbers. */
static void check_agrees(Device device, DType dtype, IndexLossShape s) {
    Context ctx = test_context(device, dtype), cpu = test_context(CPU, F32);
    int64_t rows = (int64_t)s.batch * s.tokens,
            n[] = {rows * s.index_heads * s.index_dim, rows * s.index_dim, rows * s.index_heads};
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(s.batch, s.tokens, s.heads, s.qk_dim));
    Tensor *k = test_normal(&ctx, "k", 2, SHAPE(s.batch, s.tokens, s.kv_heads, s.qk_dim));
    Tensor *iq = test_normal(&ctx, "iq", 3, SHAPE(s.batch, s.tokens, s.index_heads, s.index_dim));
    Tensor *ik = test_normal(&ctx, "ik", 4, SHAPE(s.batch, s.tokens, s.index_dim));
    Tensor *random = test_normal(&cpu, "iw", 5, SHAPE(s.batch, s.tokens, s.index_heads));
    float *host[] = {test_values(&ctx, q), test_values(&ctx, k), test_values(&ctx, iq),
                     test_values(&ctx, ik), test_values(&cpu, random)};
    int32_t *lists = must_alloc((size_t)(rows * (s.count + 1)), sizeof *lists);
    int32_t *counts = lists + rows * s.count; /* behind them, as selected_tidy leaves them */
    for (int64_t i = 0; i < rows * s.count; i++) {
        int t = (int)(i / s.count % s.tokens), e = (int)(i % s.count);
        int seen = t + 1, step = seen <= s.count ? 1 : seen / s.count;
        lists[i] = e < seen ? e * step : -1;
        counts[i / s.count] += e < seen;
    }
    float *lse = sums_of(host[0], host[1], s.count ? lists : NULL, s);
    Tensor *on[] = {tensor_copy_in(&ctx, "lists", I32, lists, SHAPE(rows, s.count + 1)),
                    tensor_copy_in(&ctx, "lse", F32, lse, SHAPE(rows, s.heads)),
                    tensor_copy_in(&ctx, "iw", F32, host[4], random->shape, random->ndim)};
    IndexLossInput in = {q->data,
                         k->data,
                         on[1]->data,
                         iq->data,
                         ik->data,
                         on[2]->data,
                         s.count ? on[0]->data : NULL};
    IndexLossInput own = {host[0], host[1], lse, host[2], host[3], host[4], s.count ? lists : NULL};
    float *want[] = {test_floats(rows), test_floats(n[0]), test_floats(n[1]), test_floats(n[2]),
                     test_floats(5)};
    index_loss_cpu(want[0], want[1], want[2], want[3], NULL, own, s);
    index_measure_cpu(want[4], NULL, own, s);
    Tensor *out[] = {tensor_new(&ctx, "losses", F32, SHAPE(rows)),
                     tensor_new(&ctx, "dq", dtype, iq->shape, iq->ndim),
                     tensor_new(&ctx, "dk", dtype, ik->shape, ik->ndim),
                     tensor_new(&ctx, "dw", F32, random->shape, random->ndim),
                     tensor_new(&ctx, "measures", F32, SHAPE(5))};
    for (int i = 0; i < 5; i++) test_poison(&ctx, out[i]);
    void *scratch = arena_alloc(&ctx.data, ON(&ctx, index_loss_scratch, s) + 1);
    ON(&ctx, index_loss, out[0]->data, out[1]->data, out[2]->data, out[3]->data, scratch, in, s);
    ON(&ctx, index_measure, out[4]->data, scratch, in, s);
    /* the sums of a row in another order; gradients are rounded where the model's are */
    double t = dtype == BF16 ? 1e-2 : 2e-5;
    static const char *const names[] = {"losses", "dq", "dk", "dw", "measures"};
    for (int i = 0; i < 5; i++)
        check_tensor(&ctx, names[i], out[i], want[i], i == 1 || i == 2 ? t : 1e-4);
    /* without gradients: the same losses */
    test_poison(&ctx, out[0]);
    ON(&ctx, index_loss, out[0]->data, NULL, NULL, NULL, scratch, in, s);
    check_tensor(&ctx, names[0], out[0], want[0], 1e-4);
    context_free(&ctx), context_free(&cpu);
}

DEVICE_TEST(index_loss, agrees_with_the_cpu) {
    /* batch, tokens, heads, kv_heads, qk_dim, scale, indexer's, its scale, count, topk */
    static const IndexLossShape shapes[] = {
        {1, 1, 1, 1, 1, 0.5f, 1, 1, 0.7f, 0, 1},       {2, 37, 3, 3, 13, 0.3f, 2, 9, 0.4f, 0, 7},
        {2, 37, 3, 3, 13, 0.3f, 2, 9, 0.4f, 7, 7},     {1, 300, 2, 2, 24, 0.2f, 5, 33, 0.1f, 0, 40},
        {1, 300, 5, 1, 24, 0.2f, 4, 32, 0.1f, 40, 40}, {3, 65, 4, 1, 40, 0.1f, 3, 16, 0.2f, 0, 64},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_agrees(device, dtype, shapes[i]);
    /* V3.2's heads, absorbed: in F32 such a query is more than a GPU's shared memory */
    if (device == CPU || dtype == BF16)
        check_agrees(device, dtype,
                     (IndexLossShape){1, 40, 128, 1, 576, 0.04f, 64, 128, 0.01f, 20, 20});
}

/* Measured by hand: two keys of which attention looks at the second, and k = 1. */
CPU_TEST(index_loss, measures_by_hand) {
    enum { N = 8 }; /* the eighth query is looked at */
    float q[N] = {0}, k[N] = {0}, lse[N], iq[N] = {0}, ik[N] = {0}, iw[N] = {0};
    for (int t = 0; t < N; t++) lse[t] = logf((float)t + 1);
    q[N - 1] = 1, k[3] = 20; /* e^20 against seven e^0 */
    iq[N - 1] = 1, iw[N - 1] = 1, ik[2] = 1;
    lse[N - 1] = 20;
    Attended a = {tensor_copy_in(&ctx, "q", F32, q, SHAPE(1, N, 1, 1)),
                  tensor_copy_in(&ctx, "k", F32, k, SHAPE(1, N, 1, 1)), lse, NULL, 1};
    IndexMeasures m;
    for (int right = 0; right < 2; right++) {
        if (right) ik[3] = 2;
        index_loss(&ctx, &a, tensor_copy_in(&ctx, "iq", F32, iq, SHAPE(1, N, 1, 1)),
                   tensor_copy_in(&ctx, "ik", F32, ik, SHAPE(1, N, 1)),
                   tensor_copy_in(&ctx, "iw", F32, iw, SHAPE(1, N, 1)), 1, 1, &m);
        cr_assert(m.recall == right && m.dead_heads == 0);
        cr_assert_float_eq(m.mass, right, 1e-6);
        cr_assert_float_eq(m.best, 1, 1e-6);
    }
    index_loss(&ctx, &a, tensor_copy_in(&ctx, "iq", F32, iq, SHAPE(1, N, 1, 1)),
               tensor_copy_in(&ctx, "ik", F32, lse, SHAPE(1, N, 1)),
               tensor_copy_in(&ctx, "iw", F32, iw, SHAPE(1, N, 1)), 1, N, &m);
    cr_assert(isnan(m.recall) && isnan(m.mass), "no query sees more than k tokens");
}
