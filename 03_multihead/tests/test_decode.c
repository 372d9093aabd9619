/*
 * Decoding attention against chapter 02's plain loops with a single query, at sizes that fill no
 * warp, no tile and no piece, in caches that are longer than what they hold.
 */
#include "03_multihead/decode.h"

#include "02_causal/causal.h"
#include "common/program/testing.h"

#include <math.h>

enum { DECODE_PLAIN, DECODE_GROUPED, DECODE_IN_USE };

typedef struct Case {
    int batch, heads, kv_heads, head_dim, length, spare;
} Case;

static void run(Context *ctx, int rung, Tensor *o, Tensor *scratch, const Tensor *q,
                const Tensor *k, const Tensor *v, DecodeShape shape) {
#ifdef WITH_CUDA
    if (rung == DECODE_PLAIN)
        return decode_plain_cuda(ctx->gpu, ctx->dtype, o->data, scratch->data, q->data, k->data,
                                 v->data, shape);
    if (rung == DECODE_GROUPED)
        return decode_grouped_cuda(ctx->gpu, ctx->dtype, o->data, scratch->data, q->data, k->data,
                                   v->data, shape);
#else
    (void)ctx; /* without CUDA, ON() has no use for it */
#endif
    cr_assert_eq(rung, DECODE_IN_USE);
    ON(ctx, decode_attention, o->data, scratch->data, q->data, k->data, v->data, shape);
}

/* Behind the length of each sequence the cache is NaN: reading on is found. */
static Tensor *cache_of(Context *ctx, uint64_t stream, const Case *c, float **values) {
    int capacity = c->length + c->spare, width = c->kv_heads * c->head_dim;
    Tensor *t = test_normal(ctx, "cache", stream, SHAPE(c->batch, capacity, width));
    *values = test_values(ctx, t);
    float *poisoned = test_values(ctx, t);
    for (int b = 0; b < c->batch; b++)
        for (int i = c->length * width; i < capacity * width; i++)
            poisoned[(int64_t)b * capacity * width + i] = NAN;
    tensor_upload(ctx, t, poisoned);
    return t;
}

/* sharp multiplies the queries: with 30 almost all weight falls on one key. split 0: the usual. */
static void check_case(Device device, DType dtype, int rung, Case c, float sharp, int split) {
    Context ctx = test_context(device, dtype);
    int capacity = c.length + c.spare;
    DecodeShape shape = decode_shape(c.batch, c.heads, c.kv_heads, c.head_dim, c.length, capacity);
    if (split) shape.split = split;
    float *q_values, *k_values, *v_values;
    Tensor *k = cache_of(&ctx, 2, &c, &k_values), *v = cache_of(&ctx, 3, &c, &v_values);
    Tensor *q = test_normal(&ctx, "q", 1, SHAPE(c.batch, c.heads, c.head_dim));
    q_values = test_values(&ctx, q);
    for (int64_t i = 0; i < tensor_count(q); i++) q_values[i] *= sharp; /* a power of 2: exact */
    tensor_upload(&ctx, q, q_values);

    AttentionShape plain =
        attention_shape(c.batch, c.heads, c.kv_heads, 1, c.length, c.head_dim, c.head_dim, 1);
    plain.k.batch = plain.v.batch = (int64_t)capacity * c.kv_heads * c.head_dim;
    float *expected = test_floats(tensor_count(q));
    float *lse = test_floats(c.batch * c.heads);
    causal_reference_cpu(expected, lse, q_values, k_values, v_values, plain);

    Tensor *scratch = tensor_new(&ctx, "scratch", F32, SHAPE(decode_scratch_floats(shape)));
    Tensor *o = tensor_new(&ctx, "o", ctx.dtype, q->shape, q->ndim);
    test_poison(&ctx, scratch);
    test_poison(&ctx, o);
    run(&ctx, rung, o, scratch, q, k, v, shape);
    /*
     * Inputs are the same numbers on both sides. Scores sum head_dim products and are at most about
     * 5 * sharp; a relative error of them is an absolute error of the exponent. The output is
     * rounded once.
     */
    double tolerance = 8 * sharp * tolerance_of(F32, c.head_dim) + (dtype == BF16) * 0x1p-8;
    check_tensor(&ctx, "decode", o, expected, tolerance);
}

static const Case cases[] = {
    /* batch, heads, kv_heads, head_dim, length, spare */
    {1, 1, 1, 1, 1, 0},      {1, 1, 1, 64, 1, 3},    {2, 3, 3, 31, 33, 1},   {1, 2, 1, 33, 127, 1},
    {3, 6, 2, 5, 31, 9},     {1, 4, 4, 64, 255, 1},  {2, 8, 2, 64, 256, 0},  {1, 6, 2, 64, 257, 5},
    {1, 8, 1, 128, 700, 24}, {2, 4, 2, 128, 513, 7}, {1, 5, 5, 128, 33, 31}, {1, 16, 1, 64, 300, 0},
    {1, 2, 2, 256, 40, 0},
};
enum { CASES = sizeof cases / sizeof *cases };

DEVICE_TEST(decode, agrees_with_the_reference) {
    for (int i = 0; i < CASES; i++) check_case(device, dtype, DECODE_IN_USE, cases[i], 1, 0);
}

/* The same sum cut otherwise: into single keys, into pieces of 7, not at all. */
DEVICE_TEST(decode, pieces_may_be_cut_anywhere) {
    static const int splits[] = {1, 7, 64, 1000};
    for (int i = 0; i < 4; i++) {
        check_case(device, dtype, DECODE_IN_USE, (Case){2, 4, 2, 64, 77, 3}, 1, splits[i]);
        check_case(device, dtype, DECODE_IN_USE, (Case){2, 4, 2, 9, 77, 3}, 1, splits[i]);
    }
}

DEVICE_TEST(decode, sharp_scores_do_not_overflow) {
    check_case(device, dtype, DECODE_IN_USE, (Case){2, 4, 2, 64, 300, 3}, 64, 0);
    check_case(device, dtype, DECODE_IN_USE, (Case){2, 4, 2, 33, 300, 3}, 64, 0);
}

/* Both rungs, each at every size that it takes. */
DEVICE_TEST(decode, every_rung) {
    if (device == CPU) return; /* the CPU has one rung, tested above */
    for (int i = 0; i < CASES; i++) {
        check_case(device, dtype, DECODE_PLAIN, cases[i], 1, 0);
        if (cases[i].head_dim == 64 || cases[i].head_dim == 128)
            check_case(device, dtype, DECODE_GROUPED, cases[i], 1, 0);
    }
}

/*
 * Two pieces by hand: m = 0, l = 1, o = 4 and m = ln 3, l = 2, o = 6 join to (4 + 3 * 6) / (1 + 3
 * * 2).
 */
Test(decode, join_by_hand) {
    DecodeShape shape = {.batch = 1,
                         .heads = 1,
                         .kv_heads = 1,
                         .head_dim = 1,
                         .length = 2,
                         .capacity = 2,
                         .split = 1,
                         .scale = 1};
    float o = NAN, pieces[] = {0.0f, 1.0f, 4.0f, logf(3.0f), 2.0f, 6.0f}, expected = 22.0f / 7.0f;
    decode_join_cpu(&o, pieces, shape);
    check_close("joined", &o, &expected, 1, 1e-6); /* the exponential's polynomial: 1e-7 */
}

/* Enough pieces to keep a GPU busy, none of them tiny, and a count that depends on sizes alone. */
Test(decode, pieces) {
    cr_assert_eq(decode_pieces(decode_shape(1, 32, 8, 128, 1, 4096)), 1);
    cr_assert_eq(decode_pieces(decode_shape(1, 32, 8, 128, 257, 4096)), 2);
    cr_assert_eq(decode_pieces(decode_shape(1, 32, 8, 128, 4096, 4096)), 16);
    DecodeShape many = decode_shape(64, 32, 32, 128, 4096, 4096);
    cr_assert_eq(many.split, 2048);
    cr_assert_eq(decode_scratch_floats(many), 64 * 32 * 2 * 130);
}
