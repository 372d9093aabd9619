/*
 * What must hold for causal attention whatever the numbers are.
 */
#include "02_causal/causal.h"

#include "common/program/testing.h"

#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { B = 2, H = 4, H_KV = 2, T = 77, D = 64 };

typedef struct Inputs {
    Tensor *q, *k, *v;
} Inputs;

static Inputs inputs_new(Context *ctx) {
    return (Inputs){test_normal(ctx, "q", 1, SHAPE(B, T, H, D)),
                    test_normal(ctx, "k", 2, SHAPE(B, T, H_KV, D)),
                    test_normal(ctx, "v", 3, SHAPE(B, T, H_KV, D))};
}

/* Where element i of t is. */
static void *element(const Tensor *t, int64_t i) {
    return (char *)t->data + i * (int64_t)dtype_size(t->dtype);
}

/* Replaces tokens first .. T - 1 of every row by other numbers. */
static void change_from(Context *ctx, Tensor *t, int first) {
    float *x = test_values(ctx, t);
    int64_t row = tensor_count(t) / (B * T);
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = first * row; i < T * row; i++)
            x[b * T * row + i] = 7 - 3 * x[b * T * row + i];
    tensor_upload(ctx, t, x);
}

/* ---- the mask ---- */

/* Bit for bit: a masked key is not multiplied by a small number, it is not there. */
CONTEXT_TEST(causal_properties, future_changes_nothing) {
    Inputs in = inputs_new(&ctx);
    Tensor *o = causal_attention(&ctx, in.q, in.k, in.v, 0);
    float *before = test_values(&ctx, o);
    const int cuts[] = {T - 1, 64, 33, 32, 1};
    for (int i = 0; i < 5; i++) {
        int cut = cuts[i];
        change_from(&ctx, in.q, cut);
        change_from(&ctx, in.k, cut);
        change_from(&ctx, in.v, cut);
        float *after = test_values(&ctx, causal_attention(&ctx, in.q, in.k, in.v, 0));
        for (int b = 0; b < B; b++) {
            const float *x = before + b * T * H * D, *y = after + b * T * H * D;
            cr_assert(!memcmp(x, y, sizeof(float) * (size_t)(cut * H * D)),
                      "a change at token %d reached an earlier one", cut);
            cr_assert(memcmp(x + cut * H * D, y + cut * H * D, sizeof(float) * H * D),
                      "a change at token %d did not reach token %d", cut, cut);
        }
    }
}

/* The loss of token t depends on keys 0..t only: later keys' gradients are exactly zero. */
CONTEXT_TEST(causal_properties, no_gradient_flows_to_the_future) {
    Inputs in = inputs_new(&ctx);
    const int t = 40;
    float *weight = calloc(B * T * H * D, sizeof(float));
    for (int b = 0; b < B; b++)
        for (int i = 0; i < H * D; i++) weight[(b * T + t) * H * D + i] = 1;
    Tensor *c = tensor_copy_in(&ctx, "c", F32, weight, SHAPE(B, T, H, D));
    ctx.recording = true;
    tape_backward(&ctx, weighted_sum(&ctx, causal_attention(&ctx, in.q, in.k, in.v, 0), c));
    float *dk = test_gradient(&ctx, in.k), *dv = test_gradient(&ctx, in.v);
    float *dq = test_gradient(&ctx, in.q);
    for (int b = 0; b < B; b++)
        for (int token = 0; token < T; token++) {
            int64_t at = (int64_t)(b * T + token) * H_KV * D;
            cr_assert((dv[at] != 0) == (token <= t), "dv of token %d is %g", token, dv[at]);
            if (token > t) cr_assert(dk[at] == 0, "dk of token %d is %g", token, dk[at]);
            if (token != t) cr_assert(dq[2 * at] == 0, "dq of token %d is %g", token, dq[2 * at]);
        }
}

/* With V = 1 the output is the sum of the probabilities: 1, however few keys a query sees. */
CONTEXT_TEST(causal_properties, probabilities_sum_to_one) {
    Inputs in = inputs_new(&ctx);
    float *ones = test_floats(B * T * H * D);
    for (int i = 0; i < B * T * H * D; i++) ones[i] = 1;
    tensor_upload(&ctx, in.v, ones);
    /* T roundings in the sum l and as many in o; in BF16 also those of the probabilities */
    check_tensor(&ctx, "sum of probabilities", causal_attention(&ctx, in.q, in.k, in.v, 0), ones,
                 4 * tolerance_of(dtype, T));
}

/* ---- decoding ---- */

/* Tokens first .. first + count - 1 from a cache of `room` tokens: only the strides differ. */
static void decode(Context *ctx, Tensor *o, Inputs in, Inputs cache, int room, int first,
                   int count) {
    AttentionShape s = attention_shape(B, H, H_KV, count, first + count, D, D, 1);
    s.k.batch = s.v.batch = (int64_t)room * H_KV * D;
    s.q.batch = s.o.batch = (int64_t)T * H * D;
    Tensor *lse = tensor_new(ctx, "lse", F32, SHAPE(B, H, count));
    int64_t at = (int64_t)first * H * D;
    ON(ctx, causal_forward, element(o, at), lse->data, element(in.q, at), cache.k->data,
       cache.v->data, s);
}

/* A cache whose first `filled` tokens are in's and whose rest is NaN: reading too far is seen. */
static Tensor *cache_of(Context *ctx, Tensor *from, int room, int filled) {
    int64_t row = H_KV * D;
    Tensor *cache = tensor_new(ctx, "cache", ctx->dtype, SHAPE(B, room, H_KV, D));
    float *x = test_values(ctx, from), *y = test_floats(B * room * row);
    for (int64_t i = 0; i < B * room * row; i++) y[i] = NAN;
    for (int b = 0; b < B; b++)
        memcpy(y + b * room * row, x + b * T * row, sizeof(float) * (size_t)(filled * row));
    tensor_upload(ctx, cache, y);
    return cache;
}

/* One token at a time, and in chunks, from a cache = all at once. */
CONTEXT_TEST(causal_properties, cached_equals_uncached) {
    Inputs in = inputs_new(&ctx);
    float *whole = test_values(&ctx, causal_attention(&ctx, in.q, in.k, in.v, 0));
    const int chunks[] = {1, 2, 7, 32, 50};
    for (int i = 0; i < 5; i++) {
        Tensor *o = tensor_new(&ctx, "o", dtype, SHAPE(B, T, H, D));
        test_poison(&ctx, o);
        for (int first = 0; first < T; first += chunks[i]) {
            int count = T - first < chunks[i] ? T - first : chunks[i];
            Inputs cache = {NULL, cache_of(&ctx, in.k, T + 19, first + count),
                            cache_of(&ctx, in.v, T + 19, first + count)};
            decode(&ctx, o, in, cache, T + 19, first, count);
        }
        /* The same sums in another order: what both may be away from the truth. */
        check_tensor(&ctx, "decoded from the cache", o, whole, 4 * tolerance_of(dtype, D + T));
    }
}

/* ---- strides ---- */

/*
 * q, k and v side by side in one buffer [B, T, H D + 2 H_KV D], as one linear layer may write them,
 * and their gradients side by side too: the same numbers as from three tensors.
 */
CONTEXT_TEST(causal_properties, one_buffer_for_q_k_and_v) {
    Inputs in = inputs_new(&ctx);
    const int widths[3] = {H * D, H_KV * D, H_KV * D}, row = (H + 2 * H_KV) * D;
    const int64_t offsets[3] = {0, H * D, (H + H_KV) * D};
    AttentionShape apart = attention_shape(B, H, H_KV, T, T, D, D, 1), fused = apart;
    fused.q = fused.k = fused.v = (HeadStrides){(int64_t)T * row, row, D};

    float *packed = test_floats(B * T * row);
    Tensor *parts[3] = {in.q, in.k, in.v};
    for (int i = 0; i < 3; i++) {
        float *x = test_values(&ctx, parts[i]);
        for (int t = 0; t < B * T; t++)
            memcpy(packed + t * row + offsets[i], x + t * widths[i],
                   sizeof(float) * (size_t)widths[i]);
    }
    Tensor *qkv = tensor_copy_in(&ctx, "qkv", dtype, packed, SHAPE(B, T, row));
    Tensor *dqkv = tensor_new(&ctx, "dqkv", dtype, SHAPE(B, T, row));
    Tensor *d_o = test_normal(&ctx, "do", 4, SHAPE(B, T, H, D));
    Tensor *o = tensor_new(&ctx, "o", dtype, d_o->shape, 4),
           *o2 = tensor_new(&ctx, "o", dtype, d_o->shape, 4);
    Tensor *lse = tensor_new(&ctx, "lse", F32, SHAPE(B, H, T));
    Tensor *grads[3];
    for (int i = 0; i < 3; i++) grads[i] = tensor_new(&ctx, "grad", dtype, parts[i]->shape, 4);
    size_t bytes = causal_backward_scratch_cpu(apart);
#ifdef WITH_CUDA
    if (device == CUDA) bytes = causal_backward_scratch_cuda(ctx.gpu, dtype, apart);
#endif
    float *scratch = arena_alloc(&ctx.data, bytes + 4);
    test_poison(&ctx, dqkv);

    void *x[3], *dx[3];
    for (int i = 0; i < 3; i++) {
        x[i] = element(qkv, offsets[i]);
        dx[i] = element(dqkv, offsets[i]);
    }
    ON(&ctx, causal_forward, o->data, lse->data, in.q->data, in.k->data, in.v->data, apart);
    ON(&ctx, causal_backward, grads[0]->data, 0, grads[1]->data, 0, grads[2]->data, 0, scratch,
       d_o->data, in.q->data, in.k->data, in.v->data, o->data, lse->data, apart);
    ON(&ctx, causal_forward, o2->data, lse->data, x[0], x[1], x[2], fused);
    ON(&ctx, causal_backward, dx[0], 0, dx[1], 0, dx[2], 0, scratch, d_o->data, x[0], x[1], x[2],
       o2->data, lse->data, fused);

    float *want = test_values(&ctx, o), *got = test_values(&ctx, dqkv);
    check_tensor(&ctx, "o", o2, want, 4 * tolerance_of(dtype, D + T));
    for (int i = 0; i < 3; i++) {
        float *dense = test_values(&ctx, grads[i]),
              *part = calloc((size_t)(B * T * widths[i]), sizeof(float));
        for (int t = 0; t < B * T; t++)
            memcpy(part + t * widths[i], got + t * row + offsets[i],
                   sizeof(float) * (size_t)widths[i]);
        check_close(i == 0   ? "dq"
                    : i == 1 ? "dk"
                             : "dv",
                    part, dense, B * T * widths[i],
                    5 * tolerance_of(dtype, D + T)); /* another rung may run: other alignment */
    }
}

/* ---- the tape ---- */

typedef struct Loss {
    Tensor *q, *k, *v, *c;
} Loss;

static Tensor *loss_of(Context *ctx, void *user) {
    Loss *l = user;
    return weighted_sum(ctx, causal_attention(ctx, l->q, l->k, l->v, 0.3f), l->c);
}

CPU_TEST(causal_properties, finite_differences) {
    Loss l = {
        test_normal(&ctx, "q", 1, SHAPE(1, 5, 4, 6)), test_normal(&ctx, "k", 2, SHAPE(1, 9, 2, 6)),
        test_normal(&ctx, "v", 3, SHAPE(1, 9, 2, 3)), test_normal(&ctx, "c", 4, SHAPE(1, 5, 4, 3))};
    Tensor *inputs[3] = {l.q, l.k, l.v};
    check_gradients(&ctx, "causal_attention", loss_of, &l, inputs, 3, 120, 1e-2, 1e-2);
}

/* ---- threads ---- */

enum { KEPT = 4 };

/* o, dq, dk, dv with this many threads, one after the other in one array. */
static float *with_threads(Context *ctx, int threads, AttentionShape s) {
    Tensor *q = test_normal(ctx, "q", 1, SHAPE(s.batch, s.q_len, s.heads, s.qk_dim));
    Tensor *k = test_normal(ctx, "k", 2, SHAPE(s.batch, s.kv_len, s.kv_heads, s.qk_dim));
    Tensor *v = test_normal(ctx, "v", 3, SHAPE(s.batch, s.kv_len, s.kv_heads, s.v_dim));
    Tensor *d_o = test_normal(ctx, "do", 4, SHAPE(s.batch, s.q_len, s.heads, s.v_dim));
    int64_t n[KEPT] = {tensor_count(d_o), tensor_count(q), tensor_count(k), tensor_count(v)};
    float *kept = test_floats(n[0] + n[1] + n[2] + n[3]);
    float *o = kept, *dq = o + n[0], *dk = dq + n[1], *dv = dk + n[2];
    float *lse = test_floats(s.batch * s.heads * s.q_len);
    float *scratch = malloc(causal_backward_scratch_cpu(s) + 1);
    omp_set_num_threads(threads);
    causal_forward_cpu(o, lse, q->data, k->data, v->data, s);
    causal_backward_cpu(dq, 0, dk, 0, dv, 0, scratch, d_o->data, q->data, k->data, v->data, o, lse,
                        s);
    return kept;
}

CPU_TEST(causal_properties, any_number_of_threads_gives_the_same_bits) {
    const AttentionShape shapes[] = {attention_shape(1, 1, 1, 300, 300, 64, 64, 1), /* chunks */
                                     attention_shape(3, 6, 6, 150, 150, 32, 32, 1),
                                     attention_shape(1, 8, 2, 40, 900, 64, 64, 1),
                                     attention_shape(4, 8, 8, 1, 900, 64, 64, 1)};
    for (int i = 0; i < 4; i++) {
        AttentionShape s = shapes[i];
        size_t bytes = sizeof(float) * (size_t)s.batch *
                       (size_t)(2 * s.q_len * s.heads + 2 * s.kv_len * s.kv_heads) *
                       (size_t)s.qk_dim;
        float *one = with_threads(&ctx, 1, s);
        const int counts[] = {2, 3, 7};
        for (int j = 0; j < 3; j++) {
            float *more = with_threads(&ctx, counts[j], s);
            cr_assert(!memcmp(one, more, bytes), "shape %d: %d threads give other bits than one", i,
                      counts[j]);
        }
    }
}

/* ---- the T x T matrix in memory ---- */

CPU_TEST(causal_properties, materialised_agrees_and_its_future_is_zero) {
    Inputs in = inputs_new(&ctx);
    AttentionShape s = attention_shape(B, H, H_KV, T, T, D, D, 1);
    size_t matrix = (size_t)B * H * T * T;
    float *p = malloc(4 * matrix), *scratch = malloc(4 * matrix), lse[B * H * T];
    float *o = malloc(4 * B * T * H * D), *want = malloc(4 * B * T * H * D);
    memset(p, 0xff, 4 * matrix);
    causal_materialised_cpu(o, p, in.q->data, in.k->data, in.v->data, s);
    causal_reference_cpu(want, lse, in.q->data, in.k->data, in.v->data, s);
    check_close("o", o, want, B * T * H * D, 4 * tolerance_of(F32, D + T));
    for (size_t i = 0; i < matrix; i++) {
        size_t query = i / T % T, key = i % T;
        cr_assert(key <= query ? p[i] >= 0 : p[i] == 0, "p[%zu][%zu] = %g", query, key, p[i]);
    }
    Tensor *d_o = test_normal(&ctx, "do", 4, SHAPE(B, T, H, D));
    int64_t n[3] = {B * T * H * D, B * T * H_KV * D, B * T * H_KV * D};
    float *got[3], *expected[3];
    for (int i = 0; i < 3; i++) {
        got[i] = malloc(4 * (size_t)n[i]);
        expected[i] = malloc(4 * (size_t)n[i]);
    }
    causal_materialised_backward_cpu(got[0], 0, got[1], 0, got[2], 0, scratch, d_o->data,
                                     in.q->data, in.k->data, in.v->data, p, s);
    causal_reference_backward_cpu(expected[0], 0, expected[1], 0, expected[2], 0, d_o->data,
                                  in.q->data, in.k->data, in.v->data, want, lse, s);
    for (int i = 0; i < 3; i++) {
        check_close("gradient", got[i], expected[i], n[i], 4 * tolerance_of(F32, D + T));
    }
}

/* ---- the door ---- */

CPU_TEST(causal_properties, more_queries_than_keys_stop_the_program, .signal = SIGABRT) {
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(1, 5, 2, 8));
    Tensor *k = test_normal(&ctx, "k", 2, SHAPE(1, 4, 2, 8));
    causal_attention(&ctx, q, k, k, 0);
}

CPU_TEST(causal_properties, heads_that_cannot_share_stop_the_program, .signal = SIGABRT) {
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(1, 4, 3, 8));
    Tensor *k = test_normal(&ctx, "k", 2, SHAPE(1, 4, 2, 8));
    causal_attention(&ctx, q, k, k, 0);
}
