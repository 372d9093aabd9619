/*
 * Causal attention on every device: each rung against the plain-loop reference, PyTorch's numbers,
 * and properties.
 */
#include "02_causal/causal.h"

#include "common/program/testing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One problem: the inputs on the device, and what the reference makes of them on the host. */
typedef struct Problem {
    Context *ctx;
    AttentionShape shape;
    Tensor *q, *k, *v, *d_o, *o, *lse, *dq, *dk, *dv;
    float *o_want, *lse_want, *dq_want, *dk_want, *dv_want;
} Problem;

static float *copy_of(const float *x, const Tensor *like) {
    size_t bytes = sizeof(float) * (size_t)tensor_count(like);
    float *copy = malloc(bytes);
    memcpy(copy, x, bytes);
    return copy;
}

static float *host(const Tensor *like) { return calloc((size_t)tensor_count(like), sizeof(float)); }

/* spread multiplies the scores: q is scaled by it. */
static Problem problem_new(Context *ctx, AttentionShape s, float spread) {
    Problem p = {.ctx = ctx, .shape = s};
    p.q = test_normal(ctx, "q", 1, SHAPE(s.batch, s.q_len, s.heads, s.qk_dim));
    p.k = test_normal(ctx, "k", 2, SHAPE(s.batch, s.kv_len, s.kv_heads, s.qk_dim));
    p.v = test_normal(ctx, "v", 3, SHAPE(s.batch, s.kv_len, s.kv_heads, s.v_dim));
    p.d_o = test_normal(ctx, "do", 4, SHAPE(s.batch, s.q_len, s.heads, s.v_dim));
    p.o = tensor_new(ctx, "o", ctx->dtype, p.d_o->shape, 4);
    p.dq = tensor_new(ctx, "dq", ctx->dtype, p.q->shape, 4);
    p.dk = tensor_new(ctx, "dk", ctx->dtype, p.k->shape, 4);
    p.dv = tensor_new(ctx, "dv", ctx->dtype, p.v->shape, 4);
    p.lse = tensor_new(ctx, "lse", F32, SHAPE(s.batch, s.heads, s.q_len));
    float *q = test_values(ctx, p.q), *k = test_values(ctx, p.k), *v = test_values(ctx, p.v);
    float *d_o = test_values(ctx, p.d_o);
    for (int64_t i = 0; i < tensor_count(p.q); i++) q[i] *= spread;
    tensor_upload(ctx, p.q, q);
    tensor_download(ctx, q, p.q); /* as BF16 rounds them */
    p.o_want = host(p.o);
    p.lse_want = host(p.lse);
    p.dq_want = host(p.dq);
    p.dk_want = host(p.dk);
    p.dv_want = host(p.dv);
    causal_reference_cpu(p.o_want, p.lse_want, q, k, v, s);
    causal_reference_backward_cpu(p.dq_want, 0, p.dk_want, 0, p.dv_want, 0, d_o, q, k, v, p.o_want,
                                  p.lse_want, s);
    return p;
}

/*
 * F32: a probability comes from a sum of qk_dim products and goes into one of kv_len; fast_exp adds
 * 2e-7: four times what the sums' rounding gives covers both. BF16: beside the output, the kernels
 * with tensor cores round the probabilities, and in backward also o and dS: four roundings more.
 */
static double tolerance(const Problem *p, int roundings) {
    int64_t k = p->shape.qk_dim + p->shape.kv_len;
    return p->ctx->dtype == F32 ? 4 * tolerance_of(F32, k) : roundings * tolerance_of(BF16, k);
}

/* ---- the rungs: run number `rung`; its name, or NULL if it does not take the problem ---- */

enum { RUNGS = 5 };

#ifdef WITH_CUDA
static const char *forward_cuda(Problem *p, int rung) {
    Gpu *gpu = p->ctx->gpu;
    DType t = p->ctx->dtype;
    void *o = p->o->data, *q = p->q->data, *k = p->k->data, *v = p->v->data;
    AttentionShape s = p->shape;
    switch (rung) {
    case 1:
        return causal_forward_materialised_cuda(gpu, t, o, p->lse->data, q, k, v, s),
               "materialised";
    case 2:
        if (s.qk_dim > 256 || s.v_dim > 256) return NULL;
        return causal_forward_online_cuda(gpu, t, o, p->lse->data, q, k, v, s), "online";
    case 3:
        if (!causal_mma_supports(gpu, t, o, q, k, v, s)) return NULL;
        return causal_forward_mma_cuda(gpu, t, o, p->lse->data, q, k, v, s), "mma";
    case 4:
        if (!causal_hopper_supports(gpu, t, o, q, k, v, s)) return NULL;
        return causal_forward_hopper_cuda(gpu, t, o, p->lse->data, q, k, v, s), "hopper";
    }
    return NULL;
}

static const char *backward_cuda(Problem *p, int rung, float *scratch, int add) {
    Gpu *gpu = p->ctx->gpu;
    DType t = p->ctx->dtype;
    void *dq = p->dq->data, *dk = p->dk->data, *dv = p->dv->data;
    void *d_o = p->d_o->data, *q = p->q->data, *k = p->k->data, *v = p->v->data, *o = p->o->data;
    AttentionShape s = p->shape;
    switch (rung) {
    case 1:
        if (s.qk_dim > 256 || s.v_dim > 256) return NULL;
        causal_backward_tiled_cuda(gpu, t, dq, add, dk, add, dv, add, scratch, d_o, q, k, v, o,
                                   p->lse->data, s);
        return "tiled";
    case 2:
        if (!causal_backward_mma_supports(gpu, t, dq, dk, dv, d_o, q, k, v, s)) return NULL;
        causal_backward_mma_cuda(gpu, t, dq, add, dk, add, dv, add, scratch, d_o, q, k, v, o,
                                 p->lse->data, s);
        return "mma";
    case 3:
        if (!causal_backward_hopper_supports(gpu, t, dq, dk, dv, d_o, q, k, v, o, s)) return NULL;
        causal_backward_hopper_cuda(gpu, t, dq, add, dk, add, dv, add, scratch, d_o, q, k, v, o,
                                    p->lse->data, s);
        return "hopper";
    }
    return NULL;
}
#endif

static const char *forward(Problem *p, int rung) {
    if (rung == 0) {
        ON(p->ctx, causal_forward, p->o->data, p->lse->data, p->q->data, p->k->data, p->v->data,
           p->shape);
        return "in use";
    }
#ifdef WITH_CUDA
    if (p->ctx->device == CUDA) return forward_cuda(p, rung);
#endif
    return NULL;
}

static float *scratch_of(Problem *p) {
    size_t bytes = causal_backward_scratch_cpu(p->shape);
#ifdef WITH_CUDA
    if (p->ctx->device == CUDA)
        bytes = causal_backward_scratch_cuda(p->ctx->gpu, p->ctx->dtype, p->shape);
#endif
    Tensor *scratch = tensor_new(p->ctx, "scratch", F32, SHAPE((int64_t)bytes / 4 + 1));
    test_poison(p->ctx, scratch); /* whatever was there must not matter */
    return scratch->data;
}

static const char *backward(Problem *p, int rung, int add) {
    float *scratch = scratch_of(p);
    if (rung == 0) {
        ON(p->ctx, causal_backward, p->dq->data, add, p->dk->data, add, p->dv->data, add, scratch,
           p->d_o->data, p->q->data, p->k->data, p->v->data, p->o->data, p->lse->data, p->shape);
        return "in use";
    }
#ifdef WITH_CUDA
    if (p->ctx->device == CUDA) return backward_cuda(p, rung, scratch, add);
#endif
    return NULL;
}

/* ---- against the reference ---- */

/* Around each tile's edge; one query; grouped heads; D_qk != D_v; q_len < kv_len; no mask. */
static const int cases[][8] = {
    /* B  H  H_kv  T    S   D_qk D_v causal */
    {1, 1, 1, 1, 1, 1, 1, 1},       {2, 3, 1, 31, 31, 33, 17, 1},
    {1, 2, 2, 33, 33, 64, 64, 1},   {1, 4, 2, 127, 127, 64, 64, 1},
    {2, 2, 2, 129, 129, 32, 32, 1}, {1, 4, 2, 33, 100, 32, 48, 1},
    {2, 4, 2, 5, 70, 64, 64, 1},    {2, 6, 2, 1, 131, 64, 64, 1},
    {1, 2, 2, 40, 20, 32, 32, 0},   {1, 2, 1, 130, 257, 192, 128, 1},
    {1, 2, 2, 65, 65, 128, 128, 1}, {3, 6, 6, 64, 64, 16, 16, 0},
    {2, 4, 2, 150, 200, 96, 64, 1}, {1, 2, 2, 70, 70, 40, 72, 1},
    {1, 4, 2, 257, 385, 96, 64, 1}, {1, 2, 1, 130, 300, 88, 56, 1},
    {1, 2, 2, 70, 140, 96, 64, 0},
};
enum { CASES = sizeof cases / sizeof *cases };

static AttentionShape case_shape(int i) {
    const int *c = cases[i];
    return attention_shape(c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]);
}

/* "o by rung hopper, case 3" */
static const char *label(char text[96], const char *what, const char *rung, int i) {
    snprintf(text, 96, "%s by rung '%s', case %d", what, rung, i);
    return text;
}

static void check_forward(Problem *p, int rung, int i) {
    char text[96];
    test_poison(p->ctx, p->o);
    test_poison(p->ctx, p->lse);
    const char *name = forward(p, rung);
    if (!name) return;
    check_tensor(p->ctx, label(text, "o", name, i), p->o, p->o_want, tolerance(p, 2));
    check_tensor(p->ctx, label(text, "lse", name, i), p->lse, p->lse_want,
                 4 * tolerance_of(F32, p->shape.qk_dim + p->shape.kv_len));
}

static void check_backward(Problem *p, int rung, int i) {
    char text[96];
    test_poison(p->ctx, p->dq);
    test_poison(p->ctx, p->dk);
    test_poison(p->ctx, p->dv);
    const char *name = backward(p, rung, 0);
    if (!name) return;
    check_tensor(p->ctx, label(text, "dv", name, i), p->dv, p->dv_want, tolerance(p, 4));
    if (p->shape.kv_len == 1) return; /* one key: p is 1 whatever q and k are, and dq = dk = 0 */
    check_tensor(p->ctx, label(text, "dq", name, i), p->dq, p->dq_want, tolerance(p, 5));
    check_tensor(p->ctx, label(text, "dk", name, i), p->dk, p->dk_want, tolerance(p, 5));
}

CONTEXT_TEST(causal, forward_agrees_with_reference) {
    for (int i = 0; i < CASES; i++) {
        Problem p = problem_new(&ctx, case_shape(i), 1);
        for (int rung = 0; rung < RUNGS; rung++) check_forward(&p, rung, i);
        context_reset(&ctx);
    }
}

CONTEXT_TEST(causal, backward_agrees_with_reference) {
    for (int i = 0; i < CASES; i++) {
        Problem p = problem_new(&ctx, case_shape(i), 1);
        forward(&p, 0);
        for (int rung = 0; rung < RUNGS; rung++) check_backward(&p, rung, i);
        context_reset(&ctx);
    }
}

/*
 * exp(score) would overflow F32 at 89; these reach hundreds. The error of a score s is
 * s 2^-24 sqrt(qk_dim), which exp() turns into a relative one: 300 times that of a score of 1.
 * (The reference sees the BF16 inputs as they are, so the same holds there.)
 */
CONTEXT_TEST(causal, large_scores) {
    Problem p = problem_new(&ctx, attention_shape(1, 2, 2, 67, 67, 64, 64, 1), 100);
    for (int rung = 0; rung < RUNGS; rung++) {
        test_poison(&ctx, p.o);
        if (!forward(&p, rung)) continue;
        check_tensor(&ctx, "o of large scores", p.o, p.o_want,
                     300 * tolerance_of(F32, 64) + tolerance(&p, 2));
    }
}

/* add = 1 adds to what is there, and a NULL gradient is not computed and changes no other. */
static void check_adds_and_skips(Context *ctx, int qk_dim, int v_dim) {
    Problem p = problem_new(ctx, attention_shape(2, 4, 2, 45, 45, qk_dim, v_dim, 1), 1);
    forward(&p, 0);
    for (int rung = 0; rung < RUNGS; rung++) {
        if (!backward(&p, rung, 0)) continue;
        backward(&p, rung, 1); /* now twice the gradient; doubling is exact */
        Tensor *grads[3] = {p.dq, p.dk, p.dv};
        const float *wants[3] = {p.dq_want, p.dk_want, p.dv_want};
        for (int g = 0; g < 3; g++) {
            float *twice = copy_of(wants[g], grads[g]);
            for (int64_t i = 0; i < tensor_count(grads[g]); i++) twice[i] *= 2;
            check_tensor(ctx, "gradient added twice", grads[g], twice, tolerance(&p, 6));
        }
    }
    float *scratch = scratch_of(&p);
    for (int skip = 0; skip < 3; skip++) {
        Tensor *grads[3] = {p.dq, p.dk, p.dv};
        const float *wants[3] = {p.dq_want, p.dk_want, p.dv_want};
        void *to[3];
        for (int g = 0; g < 3; g++) {
            test_poison(ctx, grads[g]);
            to[g] = g == skip ? NULL : grads[g]->data;
        }
        ON(ctx, causal_backward, to[0], 0, to[1], 0, to[2], 0, scratch, p.d_o->data, p.q->data,
           p.k->data, p.v->data, p.o->data, p.lse->data, p.shape);
        for (int g = 0; g < 3; g++)
            if (g != skip)
                check_tensor(ctx, "gradient beside a NULL", grads[g], wants[g], tolerance(&p, 5));
    }
}

CONTEXT_TEST(causal, backward_adds_and_skips) {
    check_adds_and_skips(&ctx, 64, 64);
    check_adds_and_skips(&ctx, 96, 64);
}

/* ---- PyTorch ---- */

static void check_golden(Context *ctx, const char *file, double f32, double bf16) {
    SafeTensors *golden = golden_open(file);
    Tensor *q = golden_tensor(ctx, golden, "q"), *k = golden_tensor(ctx, golden, "k");
    Tensor *v = golden_tensor(ctx, golden, "v"), *c = golden_tensor(ctx, golden, "c");
    Tensor *c_f32 = tensor_copy_in(ctx, "c", F32, golden_values(golden, "c"), c->shape, c->ndim);
    double allowed = ctx->dtype == F32 ? f32 : bf16;
    ctx->recording = true;
    Tensor *o = causal_attention(ctx, q, k, v, 0);
    Tensor *loss = weighted_sum(ctx, o, c_f32);
    tape_backward(ctx, loss);
    check_tensor(ctx, "o", o, golden_values(golden, "o"), allowed);
    Tensor *inputs[3] = {q, k, v};
    const char *names[3] = {"grad.q", "grad.k", "grad.v"};
    for (int i = 0; i < 3; i++)
        check_tensor(ctx, names[i], inputs[i]->grad, golden_values(golden, names[i]), allowed);
    context_reset(ctx);
}

/*
 * F32: as against the reference. BF16: q, k and v are themselves rounded, each by up to 2^-9 of
 * itself; the scores (about 3) carry that into the exponent, and the gradients are sums with
 * cancellation: 2^-9 ten times over.
 */
CONTEXT_TEST(causal, agrees_with_pytorch) {
    const char *files[] = {"causal", "gqa", "chunk"};
    for (int i = 0; i < 3; i++) {
        char path[96];
        snprintf(path, sizeof path, "02_causal/goldens/%s.safetensors", files[i]);
        check_golden(&ctx, path, 2e-6, 2e-2);
    }
}

/*
 * Scores of hundreds: their F32 rounding (300 * 2^-24 * a few) is the error of every probability.
 * BF16 inputs would make other scores, by whole units, so there is nothing to compare.
 */
CPU_TEST(causal, agrees_with_pytorch_on_large_scores) {
    check_golden(&ctx, "02_causal/goldens/large.safetensors", 2e-4, 0);
}
