/*
 * Self-attention: PyTorch's golden files, the plain loops on ragged sizes, what must hold for any
 * input, finite differences, the numbers that the lesson works out by hand, and the tape.
 */
#include "01_self_attention/attention.h"
#include "01_self_attention/softmax.h"
#include "common/program/testing.h"

#include <string.h>

/* A weight of a model whose gradients are wanted outside of Params: F32, as Params keeps them. */
static Tensor *as_weight(Context *ctx, Tensor *t) {
    t->requires_grad = true;
    t->grad = tensor_new(ctx, t->name, F32, t->shape, t->ndim);
    test_poison(ctx, t->grad);
    return t;
}

/*
 * Attention rounds q, k, v, the scores, the weights and the output: in BF16 each to 2^-9. A score's
 * error goes into the exponent, so it counts with the size of the scores (up to 4 here); gradients
 * pass through all of that twice.
 */
static double forward_tolerance(DType dtype) { return dtype == BF16 ? 2e-2 : 2e-6; }
static double gradient_tolerance(DType dtype) { return dtype == BF16 ? 4e-2 : 5e-6; }

/* ---- golden files ---- */

CONTEXT_TEST(attention, golden_with_projections) {
    SafeTensors *g = golden_open("01_self_attention/goldens/attention.safetensors");
    Tensor *x = golden_tensor(&ctx, g, "x");
    x->requires_grad = true;
    SelfAttention w = {as_weight(&ctx, golden_tensor(&ctx, g, "q_proj")),
                       as_weight(&ctx, golden_tensor(&ctx, g, "k_proj")),
                       as_weight(&ctx, golden_tensor(&ctx, g, "v_proj"))};
    ctx.recording = true;
    Tensor *weights, *y = self_attention_forward(&ctx, x, &w, &weights);
    Tensor *c = tensor_copy_in(&ctx, "c", F32, golden_values(g, "c"), y->shape, y->ndim);
    tape_backward(&ctx, weighted_sum(&ctx, y, c));

    check_tensor(&ctx, "weights", weights, golden_values(g, "weights"), forward_tolerance(dtype));
    check_tensor(&ctx, "y", y, golden_values(g, "y"), forward_tolerance(dtype));
    double tolerance = gradient_tolerance(dtype);
    check_tensor(&ctx, "dx", x->grad, golden_values(g, "dx"), tolerance);
    check_tensor(&ctx, "dq_proj", w.q_proj->grad, golden_values(g, "dq_proj"), tolerance);
    check_tensor(&ctx, "dk_proj", w.k_proj->grad, golden_values(g, "dk_proj"), tolerance);
    check_tensor(&ctx, "dv_proj", w.v_proj->grad, golden_values(g, "dv_proj"), tolerance);
}

/* Other numbers of queries than keys, and values wider than keys. */
CONTEXT_TEST(attention, golden_cross) {
    SafeTensors *g = golden_open("01_self_attention/goldens/cross.safetensors");
    Tensor *t[3];
    const char *names[] = {"q", "k", "v"}, *gradients[] = {"dq", "dk", "dv"};
    for (int i = 0; i < 3; i++) {
        t[i] = golden_tensor(&ctx, g, names[i]);
        t[i]->requires_grad = true;
    }
    ctx.recording = true;
    Tensor *y = attention(&ctx, t[0], t[1], t[2], NULL);
    Tensor *c = tensor_copy_in(&ctx, "c", F32, golden_values(g, "c"), y->shape, y->ndim);
    tape_backward(&ctx, weighted_sum(&ctx, y, c));
    check_tensor(&ctx, "y", y, golden_values(g, "y"), forward_tolerance(dtype));
    for (int i = 0; i < 3; i++)
        check_tensor(&ctx, gradients[i], t[i]->grad, golden_values(g, gradients[i]),
                     gradient_tolerance(dtype));
}

/* Rows of moderate, huge, -inf and equal elements. */
CONTEXT_TEST(attention, golden_softmax) {
    SafeTensors *g = golden_open("01_self_attention/goldens/softmax.safetensors");
    Tensor *x = golden_tensor(&ctx, g, "x");
    x->requires_grad = true;
    ctx.recording = true;
    Tensor *y = softmax(&ctx, x);
    Tensor *c = tensor_copy_in(&ctx, "c", F32, golden_values(g, "c"), y->shape, y->ndim);
    tape_backward(&ctx, weighted_sum(&ctx, y, c));
    /* All rows at once: a nearly one-hot row's gradient is the small difference of large terms, and
     * no digit of it is certain beside theirs. Row 2 has scores around 1000, which BF16 rounds by
     * up to 4, that is e^4 in a weight: in BF16 it is left out, and row 1's scores (up to 60) may
     * be off by 1/8. */
    enum { COLS = 37 };
    float *got = test_values(&ctx, y), *gradient = test_gradient(&ctx, x), want[2][6 * COLS];
    memcpy(want[0], golden_values(g, "y"), sizeof want[0]);
    memcpy(want[1], golden_values(g, "dx"), sizeof want[1]);
    for (int i = 2 * COLS; i < 3 * COLS && dtype == BF16; i++)
        got[i] = gradient[i] = want[0][i] = want[1][i] = 0;
    check_close("y", got, want[0], 6 * COLS, dtype == BF16 ? 0.1 : 5e-6);
    check_close("dx", gradient, want[1], 6 * COLS, dtype == BF16 ? 0.1 : 1e-5);
}

/* ---- the plain loops, on ragged sizes ---- */

/* batch, queries, keys, D, E */
static const int64_t sizes[][5] = {{1, 1, 1, 1, 1},    {2, 31, 31, 33, 33}, {1, 127, 127, 16, 16},
                                   {3, 1, 65, 31, 17}, {2, 33, 1, 5, 127},  {1, 64, 64, 64, 64}};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

DEVICE_TEST(attention, agrees_with_reference) {
    for (int i = 0; i < SIZES; i++) {
        Context ctx = test_context(device, dtype);
        int64_t b = sizes[i][0], t = sizes[i][1], s = sizes[i][2], d = sizes[i][3], e = sizes[i][4];
        Tensor *q = test_normal(&ctx, "q", 1, SHAPE(b, t, d));
        Tensor *k = test_normal(&ctx, "k", 2, SHAPE(b, s, d));
        Tensor *v = test_normal(&ctx, "v", 3, SHAPE(b, s, e));
        float *hq = test_values(&ctx, q), *hk = test_values(&ctx, k), *hv = test_values(&ctx, v);
        float *o = test_floats(b * t * e), *p = test_floats(b * t * s);
        float *dq = test_floats(b * t * d), *dk = test_floats(b * s * d);
        float *dv = test_floats(b * s * e), *hc = test_floats(b * t * e);
        for (int64_t j = 0; j < b * t * e; j++) hc[j] = rng_normal(7, 4, (uint64_t)j);

        ctx.recording = true;
        Tensor *weights, *y = attention(&ctx, q, k, v, &weights);
        Tensor *c = tensor_copy_in(&ctx, "c", F32, hc, SHAPE(b, t, e));
        tape_backward(&ctx, weighted_sum(&ctx, y, c));
        attention_reference_forward_cpu(o, p, hq, hk, hv, b, t, s, d, e);
        attention_reference_backward_cpu(dq, dk, dv, hc, p, hq, hk, hv, b, t, s, d, e);

        check_tensor(&ctx, "weights", weights, p, forward_tolerance(dtype));
        check_tensor(&ctx, "y", y, o, forward_tolerance(dtype));
        check_tensor(&ctx, "dv", v->grad, dv, gradient_tolerance(dtype));
        if (s > 1) { /* with one key the weight is 1 whatever q and k are: their gradients are 0 */
            check_tensor(&ctx, "dq", q->grad, dq, gradient_tolerance(dtype));
            check_tensor(&ctx, "dk", k->grad, dk, gradient_tolerance(dtype));
        }
        context_free(&ctx);
    }
}

/* ---- properties ---- */

/* A row of a [T, n] tensor on the host. */
#define ROW(x, t, n) ((x) + (t) * (n))

CONTEXT_TEST(attention, permuting_tokens_permutes_the_output) {
    enum { T = 33, D = 16 };
    Tensor *x = test_normal(&ctx, "x", 1, SHAPE(1, T, D));
    SelfAttention w = {test_normal(&ctx, "q", 2, SHAPE(D, D)),
                       test_normal(&ctx, "k", 3, SHAPE(D, D)),
                       test_normal(&ctx, "v", 4, SHAPE(D, D))};
    float *host = test_values(&ctx, x), moved[T * D], want[T * D];
    for (int t = 0; t < T; t++)
        memcpy(ROW(moved, t, D), ROW(host, t * 7 % T, D), sizeof(float) * D);
    float *y = test_values(&ctx, self_attention_forward(&ctx, x, &w, NULL));
    for (int t = 0; t < T; t++) memcpy(ROW(want, t, D), ROW(y, t * 7 % T, D), sizeof(float) * D);
    Tensor *x_moved = tensor_copy_in(&ctx, "moved", dtype, moved, SHAPE(1, T, D));
    /* The same sums in another order. In BF16 the roundings are the same numbers, but the sums
     * before them are not. */
    check_tensor(&ctx, "permuted", self_attention_forward(&ctx, x_moved, &w, NULL), want,
                 forward_tolerance(dtype));
}

CONTEXT_TEST(attention, each_sequence_is_alone) {
    enum { T = 31, D = 16 };
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(2, T, D)),
           *k = test_normal(&ctx, "k", 2, SHAPE(2, T, D));
    Tensor *v = test_normal(&ctx, "v", 3, SHAPE(2, T, D));
    float *both = test_values(&ctx, attention(&ctx, q, k, v, NULL));
    float *hq = test_values(&ctx, q), *hk = test_values(&ctx, k), *hv = test_values(&ctx, v);
    for (int i = 0; i < 2; i++) {
        Tensor *qi = tensor_copy_in(&ctx, "q", dtype, ROW(hq, i, T * D), SHAPE(1, T, D));
        Tensor *ki = tensor_copy_in(&ctx, "k", dtype, ROW(hk, i, T * D), SHAPE(1, T, D));
        Tensor *vi = tensor_copy_in(&ctx, "v", dtype, ROW(hv, i, T * D), SHAPE(1, T, D));
        check_tensor(&ctx, "one of two", attention(&ctx, qi, ki, vi, NULL), ROW(both, i, T * D),
                     forward_tolerance(dtype)); /* another batch size may mean another kernel */
    }
}

/* Decoding: the last token's query alone gives the last row. */
CONTEXT_TEST(attention, one_query_is_one_row) {
    enum { T = 65, D = 24 };
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(1, T, D)),
           *k = test_normal(&ctx, "k", 2, SHAPE(1, T, D));
    Tensor *v = test_normal(&ctx, "v", 3, SHAPE(1, T, D));
    float *all = test_values(&ctx, attention(&ctx, q, k, v, NULL)), *hq = test_values(&ctx, q);
    Tensor *last = tensor_copy_in(&ctx, "last", dtype, ROW(hq, T - 1, D), SHAPE(1, 1, D));
    check_tensor(&ctx, "last row", attention(&ctx, last, k, v, NULL), ROW(all, T - 1, D),
                 forward_tolerance(dtype));
}

/* A query of zeros likes all keys equally: the output is the mean of the values. Equal values come
 * out as they are. */
CONTEXT_TEST(attention, zero_query_means_the_values) {
    enum { T = 31, D = 8 };
    float zeros[T * D] = {0}, mean[T * D] = {0};
    Tensor *q = tensor_copy_in(&ctx, "q", dtype, zeros, SHAPE(1, T, D));
    Tensor *k = test_normal(&ctx, "k", 2, SHAPE(1, T, D)),
           *v = test_normal(&ctx, "v", 3, SHAPE(1, T, D));
    float *hv = test_values(&ctx, v);
    for (int i = 0; i < T * D; i++)
        for (int j = 0; j < T; j++) mean[i] += hv[j * D + i % D] / T;
    check_tensor(&ctx, "mean", attention(&ctx, q, k, v, NULL), mean, forward_tolerance(dtype));
}

CONTEXT_TEST(attention, huge_scores_do_not_overflow) {
    enum { T = 5, D = 4 };
    float big[T * D] = {0}, v[T * D];
    for (int t = 0; t < T; t++) big[t * D] = 1000.0f * (float)(t + 1); /* scores to 12,500,000 */
    for (int i = 0; i < T * D; i++) v[i] = (float)i;
    Tensor *q = tensor_copy_in(&ctx, "q", dtype, big, SHAPE(1, T, D));
    Tensor *values = tensor_copy_in(&ctx, "v", dtype, v, SHAPE(1, T, D));
    float want[T * D]; /* all attention on the last token */
    for (int i = 0; i < T * D; i++) want[i] = v[(T - 1) * D + i % D];
    check_tensor(&ctx, "huge", attention(&ctx, q, q, values, NULL), want,
                 1e-6); /* weights 0 and 1 are exact */
}

/* ---- gradients ---- */

typedef struct Graph {
    SelfAttention w;
    Tensor *x, *c;
} Graph;

static Tensor *attention_loss(Context *ctx, void *user) {
    Graph *g = user;
    return weighted_sum(ctx, self_attention_forward(ctx, g->x, &g->w, NULL), g->c);
}

CPU_TEST(attention, gradients_by_finite_differences) {
    Graph g = {.w = {test_normal(&ctx, "q_proj", 1, SHAPE(4, 6)),
                     test_normal(&ctx, "k_proj", 2, SHAPE(4, 6)),
                     test_normal(&ctx, "v_proj", 3, SHAPE(4, 6))},
               .x = test_normal(&ctx, "x", 4, SHAPE(2, 5, 6)),
               .c = test_normal(&ctx, "c", 5, SHAPE(2, 5, 4))};
    g.c->requires_grad = false;
    Tensor *inputs[] = {g.x, g.w.q_proj, g.w.k_proj, g.w.v_proj};
    /* Steps of 0.003: curvature leaves h^2 = 1e-5 times a third derivative of some hundred,
     * rounding 2^-24 / h = 2e-5 times a loss of about ten. */
    check_gradients(&ctx, "self-attention", attention_loss, &g, inputs, 4, 24, 3e-3, 5e-3);
}

/* The same through Params, where the weights' gradients are F32 buffers of their own. */
CONTEXT_TEST(attention, learns) {
    SelfAttentionConfig cfg = {.hidden_size = 16, .head_dim = 16};
    Params params;
    params_init(&params, &ctx);
    SelfAttention w = self_attention_init(&params, "attn", &cfg);
    check_ok(params_allocate(&params, true, &err), &err);
    cr_assert(params_find(&params, "attn.k_proj.weight") == w.k_proj);
    self_attention_randomize(&params, &w, 0.25f);
    AdamW adamw = adamw_defaults();
    float first = 0, last = 0, signs[2 * 9 * 16];
    for (int i = 0; i < 2 * 9 * 16; i++)
        signs[i] = rng_normal(7, 1, (uint64_t)i) > 0 ? 1.0f : -1.0f;
    for (int step = 0; step < 20; step++) {
        context_reset(&ctx);
        Tensor *x = tensor_copy_in(&ctx, "x", dtype, signs, SHAPE(2, 9, 16));
        Tensor *c = tensor_copy_in(&ctx, "c", F32, signs, SHAPE(2, 9, 16));
        ctx.recording = true;
        Tensor *loss = weighted_sum(&ctx, self_attention_forward(&ctx, x, &w, NULL), c);
        params_zero_grad(&params);
        tape_backward(&ctx, loss);
        tensor_download(&ctx, &last, loss);
        if (step == 0) first = last;
        adamw_step(&adamw, &params, 0.01f, 1);
    }
    cr_assert(last < first - 10, "the loss went from %g to %g only", first, last);
}

/* ---- what the lesson says ---- */

/* Four tokens with two numbers each: the, cat, sat, purring. A hand calculator gives the same. */
CONTEXT_TEST(lesson, four_tokens) {
    const float x[4][2] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}};
    const float w_q[2][2] = {{0, 1}, {1, 0}}, w_k[2][2] = {{1, 0}, {0, 1}},
                w_v[2][2] = {{1, 1}, {1, -1}};
    SelfAttention w = {tensor_copy_in(&ctx, "W_q", dtype, w_q, SHAPE(2, 2)),
                       tensor_copy_in(&ctx, "W_k", dtype, w_k, SHAPE(2, 2)),
                       tensor_copy_in(&ctx, "W_v", dtype, w_v, SHAPE(2, 2))};
    Tensor *weights, *y = self_attention_forward(
                         &ctx, tensor_copy_in(&ctx, "x", dtype, x, SHAPE(1, 4, 2)), &w, &weights);
    float p[4][4] = {{0.25f, 0.25f, 0.25f, 0.25f},
                     {0.165f, 0.165f, 0.335f, 0.335f},
                     {0.165f, 0.335f, 0.165f, 0.335f},
                     {0.109f, 0.221f, 0.221f, 0.449f}};
    float o[4][2] = {{1, 0}, {1.170f, -0.170f}, {1.170f, 0.170f}, {1.340f, 0}};
    double rounding = dtype == BF16 ? 1e-2 : 1e-3; /* the lesson's numbers have three digits */
    check_tensor(&ctx, "weights", weights, &p[0][0], rounding);
    check_tensor(&ctx, "output", y, &o[0][0], rounding);
}

/* y = x W^T, z = y + y, loss = sum(z): y has two readers, so its gradient is written once and added
 * to once. */
CONTEXT_TEST(lesson, tape) {
    const float x_host[2] = {1, 2}, w_host[2][2] = {{3, 4}, {5, 6}};
    Tensor *x = tensor_copy_in(&ctx, "x", dtype, x_host, SHAPE(1, 2));
    Tensor *w = as_weight(&ctx, tensor_copy_in(&ctx, "W", dtype, w_host, SHAPE(2, 2)));
    x->requires_grad = true;
    ctx.recording = true;
    Tensor *y = linear(&ctx, x, w, NULL), *z = add(&ctx, y, y), *loss = sum(&ctx, z);
    cr_assert(ctx.tape_length == 3);
    tape_backward(&ctx, loss);
    const float y_want[] = {11, 17}, loss_want[] = {56}, dy[] = {2, 2}, dx[] = {16, 20},
                dw[] = {2, 4, 2, 4};
    /* Small whole numbers: exact in every dtype. */
    check_tensor(&ctx, "y", y, y_want, 1e-7);
    check_tensor(&ctx, "loss", loss, loss_want, 1e-7);
    check_tensor(&ctx, "dy", y->grad, dy, 1e-7);
    check_tensor(&ctx, "dx", x->grad, dx, 1e-7);
    check_tensor(&ctx, "dW", w->grad, dw, 1e-7);
}
