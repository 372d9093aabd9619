/*
 * Absorbed decoding against plain loops: sequences of different lengths around the ends of pages,
 * pages in a shuffled order, and NaN wherever no token lies, so that a kernel that reads on is
 * found, even where it multiplies what it read by zero.
 */
#include "04_mla/mla_decode.h"

#include "common/core/blas.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BATCH = 80 };

/* Sequence b has length[b % 4] tokens. */
typedef struct Case {
    int batch, q_len, heads, kv_lora_rank, rope_dim, length[4];
} Case;

static bool eight_bits; /* rows of latent_row.h */

static int length_of(const Case *c, int b) { return c->length[b % 4]; }

/* A case on a device, and the same numbers on the host. */
typedef struct Problem {
    MlaDecodeShape shape;
    Tensor *q, *latent, *block_table, *lengths, *o, *scratch;
    float *expected;
} Problem;

static int pages_of(int tokens) { return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS; }

static MlaDecodeShape shape_of(const Case *c) {
    MlaDecodeShape s = {.batch = c->batch,
                        .q_len = c->q_len,
                        .heads = c->heads,
                        .kv_lora_rank = c->kv_lora_rank,
                        .rope_dim = c->rope_dim,
                        .e4m3 = eight_bits,
                        .pages = 3, /* that belong to nobody */
                        .scale = 1.0f / sqrtf((float)(c->kv_lora_rank + c->rope_dim))};
    for (int b = 0; b < c->batch; b++) {
        s.pages += pages_of(length_of(c, b));
        if (length_of(c, b) > s.max_length) s.max_length = length_of(c, b);
    }
    s.max_length += 70; /* sequences may grow: more pages in the table than are in use */
    s.max_pages = pages_of(s.max_length);
    return s;
}

/* The pages of all sequences in an order that has nothing to do with theirs. Entries behind a
 * sequence's end lead far outside of the pool. */
static void shuffle_pages(int32_t *table, const Case *c, const MlaDecodeShape *s, int step) {
    int page = s->pages / 2;
    for (int i = 0; i < s->batch * s->max_pages; i++) table[i] = 1 << 28;
    while (s->pages % step == 0) step += 2; /* prime to the number of pages: each is met once */
    for (int b = 0; b < c->batch; b++)
        for (int i = 0; i < pages_of(length_of(c, b)); i++) {
            table[b * s->max_pages + i] = page;
            page = (page + step) % s->pages;
        }
}

/* p->latent has the tokens' rows [batch, longest, width], each where the table says, and NaN
 * everywhere else. Returns the same on the host. */
static void *make_pool(Problem *p, Context *ctx, const Case *c, const int32_t *table,
                       const float *rows) {
    const MlaDecodeShape *s = &p->shape;
    int width = s->kv_lora_rank + s->rope_dim, longest = s->max_pages * PAGE_TOKENS;
    int64_t row = eight_bits ? latent_row_bytes(s->kv_lora_rank, s->rope_dim) : width;
    p->latent = tensor_new(ctx, "latent", eight_bits ? F8_E4M3 : ctx->dtype,
                           SHAPE(s->pages, PAGE_TOKENS, row));
    int64_t count = tensor_count(p->latent);
    float *numbers = test_floats(eight_bits ? 1 : count);
    uint8_t *bytes = malloc((size_t)count);
    for (int64_t i = 0; i < count && !eight_bits; i++) numbers[i] = NAN;
    memset(bytes, 0xff, (size_t)count);
    for (int b = 0; b < c->batch; b++)
        for (int t = 0; t < length_of(c, b); t++) {
            int64_t at = page_row(table + b * s->max_pages, t) * row;
            const float *from = rows + ((int64_t)b * longest + t) * width;
            if (eight_bits)
                latent_row_write_cpu(bytes + at, from, from + s->kv_lora_rank, s->kv_lora_rank,
                                     s->rope_dim);
            else
                memcpy(numbers + at, from, sizeof(float) * (size_t)width);
        }
    if (!eight_bits) {
        tensor_upload(ctx, p->latent, numbers);
        return numbers;
    }
    device_put(ctx->gpu, p->latent->data, bytes, (size_t)count);
    return bytes;
}

/* step 0: pages in order. sharp multiplies the scores. */
static Problem problem_new(Context *ctx, const Case *c, int step, float sharp) {
    MlaDecodeShape s = shape_of(c);
    int width = s.kv_lora_rank + s.rope_dim, longest = s.max_pages * PAGE_TOKENS;
    int32_t lengths[MAX_BATCH];
    for (int b = 0; b < c->batch; b++) lengths[b] = length_of(c, b);
    Tensor *tokens = test_normal(ctx, "tokens", 2, SHAPE(s.batch, longest, width));
    float *rows = test_values(ctx, tokens);
    int32_t *table = malloc(sizeof(int32_t) * (size_t)(s.batch * s.max_pages));
    shuffle_pages(table, c, &s, step);

    s.scale *= sharp;
    Problem p = {.shape = s};
    p.q = test_normal(ctx, "q", 1, SHAPE(s.batch, s.q_len, s.heads, width));
    void *pool = make_pool(&p, ctx, c, table, rows);
    p.block_table = tensor_copy_in(ctx, "block_table", I32, table, SHAPE(s.batch, s.max_pages));
    p.lengths = tensor_copy_in(ctx, "lengths", I32, lengths, SHAPE(s.batch));

    p.o = tensor_new(ctx, "o", ctx->dtype, SHAPE(s.batch, s.q_len, s.heads, s.kv_lora_rank));
    size_t scratch = mla_decode_scratch_cpu(s);
#ifdef WITH_CUDA
    if (ctx->device == CUDA) {
        scratch = mla_decode_scratch_cuda(ctx->gpu, ctx->dtype, s);
        if (scratch < mla_decode_naive_scratch(s)) scratch = mla_decode_naive_scratch(s);
    }
#endif
    p.scratch = tensor_new(ctx, "scratch", F32, SHAPE((int64_t)(scratch / sizeof(float)) + 1));
    test_poison(ctx, p.o);
    test_poison(ctx, p.scratch);

    float *q = test_values(ctx, p.q);
    p.expected = malloc(sizeof(float) * (size_t)tensor_count(p.o));
    mla_decode_reference_cpu(p.expected, NULL, q, pool, table, lengths, s);
    return p;
}

/* ---- the rungs ---- */

enum { IN_USE, NAIVE, ONLINE, SPLIT, MMA, E4M3, HOPPER, E4M3_HOPPER, RUNGS };
static const char *const rung_names[] = {"in use", "naive", "online", "split",
                                         "mma",    "e4m3",  "hopper", "e4m3_hopper"};

/* Runs the rung, unless this device, dtype or size is not for it. */
static bool run(Context *ctx, int rung, Problem *p) {
    const Tensor *q = p->q, *z = p->latent, *table = p->block_table, *lengths = p->lengths;
    if (rung == IN_USE) {
        ON(ctx, mla_decode, p->o->data, p->scratch->data, q->data, z->data, table->data,
           lengths->data, p->shape);
        return true;
    }
#ifdef WITH_CUDA
    static __typeof__(mla_decode_cuda) *const rungs[RUNGS] = {NULL,
                                                              mla_decode_naive_cuda,
                                                              mla_decode_online_cuda,
                                                              mla_decode_split_cuda,
                                                              mla_decode_mma_cuda,
                                                              mla_decode_e4m3_cuda,
                                                              mla_decode_hopper_cuda,
                                                              mla_decode_e4m3_hopper_cuda};
    if (ctx->device != CUDA) return false;
    if (rung <= ONLINE && p->shape.e4m3) return false;
    if (rung == E4M3 && !mla_decode_e4m3_supports(ctx->gpu, ctx->dtype, p->shape)) return false;
    if (rung == E4M3_HOPPER && !mla_decode_e4m3_hopper_supports(ctx->gpu, ctx->dtype, p->shape))
        return false;
    if (rung == NAIVE && p->shape.q_len * p->shape.heads > 65535) return false;
    if (rung == MMA && !mla_decode_mma_supports(ctx->gpu, ctx->dtype, p->shape)) return false;
    if (rung == HOPPER && !mla_decode_hopper_supports(ctx->gpu, ctx->dtype, p->shape)) return false;
    rungs[rung](ctx->gpu, ctx->dtype, p->o->data, p->scratch->data, q->data, z->data, table->data,
                lengths->data, p->shape);
    return true;
#else
    (void)ctx; /* without CUDA, ON() has no use for it, and the CPU has one rung */
    return false;
#endif
}

/*
 * Both sides see the same inputs. A score sums `width` products of normal numbers and is of order
 * `sharp`; its relative error becomes an absolute error of the exponent, thus a relative one of the
 * output. In BF16 the output is rounded once, and on tensor cores so are the probabilities: by
 * 2^-9 in the mean each, at random.
 */
static double tolerance(DType dtype, const MlaDecodeShape *s, float sharp) {
    return 8 * sharp * tolerance_of(F32, s->kv_lora_rank + s->rope_dim) + (dtype == BF16) * 0x1p-8;
}

static void check_case(Device device, DType dtype, Case c, float sharp) {
    Context ctx = test_context(device, dtype);
    Problem p = problem_new(&ctx, &c, 3, sharp);
    for (int rung = 0; rung < RUNGS; rung++) {
        test_poison(&ctx, p.o);
        test_poison(&ctx, p.scratch);
        if (!run(&ctx, rung, &p)) continue;
        char what[160];
        snprintf(what, sizeof what, "%s: batch %d, q_len %d, heads %d, %d + %d, length %d ...",
                 rung_names[rung], c.batch, c.q_len, c.heads, c.kv_lora_rank, c.rope_dim,
                 c.length[0]);
        check_tensor(&ctx, what, p.o, p.expected, tolerance(dtype, &p.shape, sharp));
    }
}

/* ---- cases ---- */

static const Case cases[] = {
    /* batch, q_len, heads, kv_lora_rank, rope_dim, lengths */
    {1, 1, 1, 1, 0, {1}},
    {3, 1, 16, 512, 64, {63, 64, 65}},
    {4, 1, 16, 512, 64, {127, 128, 129, 1}},
    {4, 1, 1, 512, 64, {1, 64, 200, 65}},
    {2, 2, 16, 512, 64, {2, 300}},
    {1, 1, 128, 512, 64, {321}},
    {1, 33, 3, 512, 64, {97}},
    {2, 5, 3, 128, 32, {5, 300}},
    {1, 33, 3, 128, 32, {270}}, /* the first queries see nothing of the last tokens' piece */
    {2, 33, 16, 16, 0, {33, 150}},
    {3, 2, 3, 33, 5, {2, 65, 129}},
    {2, 2, 128, 128, 32, {64, 190}},
    {1, 1, 16, 512, 64, {700}},
    {2, 1, 31, 256, 64, {500, 1}},
    {3, 1, 8, 192, 48, {129, 1, 64}},
    {1, 1, 3, 1000, 24, {70}},
    {1, 2, 1, 72, 8, {600}},
    {70, 1, 3, 128, 32, {1, 64, 130, 65}}, /* more sequences than a warp has lanes */
    {37, 1, 40, 64, 16, {300, 2, 65, 1}},
    {1, 16, 4096, 8, 4, {20}}, /* more rows of queries than a grid is high */
};
enum { CASES = sizeof cases / sizeof *cases };

DEVICE_TEST(mla_decode, agrees_with_the_reference) {
    for (int i = 0; i < CASES; i++) check_case(device, dtype, cases[i], 1);
}

/* The same rows in eight bits, against the reference on these rows. */
DEVICE_TEST(mla_decode, eight_bits_agree_with_the_reference) {
    eight_bits = true;
    for (int i = 0; i < CASES; i++)
        if (cases[i].kv_lora_rank % 4 == 0 && cases[i].rope_dim % 2 == 0)
            check_case(device, dtype, cases[i], 1);
    check_case(device, dtype, (Case){2, 2, 16, 512, 64, {65, 300}}, 64);
}

/* Scores of some hundreds: exp() of them overflows unless the maximum is taken off first. */
DEVICE_TEST(mla_decode, sharp_scores_do_not_overflow) {
    check_case(device, dtype, (Case){2, 2, 16, 512, 64, {65, 300}}, 64);
    check_case(device, dtype, (Case){2, 1, 3, 33, 5, {300, 64}}, 64);
    check_case(device, dtype, (Case){1, 2, 1, 128, 32, {300}}, 64);
}

/* Where the pages lie changes nothing, not even the last bit. */
DEVICE_TEST(mla_decode, pages_may_lie_anywhere) {
    Case c = {3, 2, 16, 128, 32, {300, 2, 190}};
    for (int rung = 0; rung < RUNGS; rung++) {
        Context ctx = test_context(device, dtype);
        Problem a = problem_new(&ctx, &c, 1, 1), b = problem_new(&ctx, &c, 5, 1);
        if (run(&ctx, rung, &a)) {
            run(&ctx, rung, &b);
            float *values = test_values(&ctx, a.o);
            check_tensor(&ctx, rung_names[rung], b.o, values, 0);
        }
        context_free(&ctx);
    }
}

/* Five tokens at once see what each would have seen alone: this is the causal mask of a chunk. */
CONTEXT_TEST(mla_decode, a_chunk_equals_its_steps) {
    Case chunk = {1, 5, 16, 128, 32, {130}};
    Problem p = problem_new(&ctx, &chunk, 3, 1);
    cr_assert(run(&ctx, IN_USE, &p));
    float *all = test_values(&ctx, p.o);
    int64_t q_row = 16 * (128 + 32), o_row = 16 * 128;
    for (int i = 0; i < 5; i++) {
        Problem step = p;
        Tensor q = *p.q;
        q.data = (char *)p.q->data + i * q_row * (int64_t)dtype_size(dtype);
        int32_t length = 130 - 4 + i;
        step.q = &q;
        step.shape.q_len = 1;
        step.lengths = tensor_copy_in(&ctx, "lengths", I32, &length, SHAPE(1));
        step.o = tensor_new(&ctx, "o", dtype, SHAPE(16, 128));
        test_poison(&ctx, step.o);
        run(&ctx, IN_USE, &step);
        /* the same products, perhaps cut and added otherwise; each side rounded to BF16 once */
        check_tensor(&ctx, "step", step.o, all + i * o_row, 2 * tolerance(dtype, &p.shape, 1));
    }
}

/* The CPU shares the work among its threads, and the sums are the same for any number of them. */
Test(mla_decode, threads_change_nothing) {
    static const Case many[] = {{2, 1, 16, 512, 64, {700, 300}}, {1, 1, 2, 512, 64, {1300}}};
    for (int i = 0; i < 2; i++) {
        Context ctx = test_context(CPU, F32);
        Problem p = problem_new(&ctx, &many[i], 3, 1);
        blas_set_threads(1);
        run(&ctx, IN_USE, &p);
        float *one = test_values(&ctx, p.o);
        test_poison(&ctx, p.o);
        blas_set_threads(3);
        run(&ctx, IN_USE, &p);
        blas_set_threads(0);
        check_tensor(&ctx, "with three threads", p.o, one, 0);
        context_free(&ctx);
    }
}

/* V3's memory-bound shape, by FlashMLA's count. */
Test(mla_decode, counts) {
    MlaDecodeShape v3 = {
        .batch = 128, .q_len = 1, .heads = 16, .kv_lora_rank = 512, .rope_dim = 64};
    cr_assert_eq(mla_decode_flop(v3, 8192), 2.0 * 128 * 16 * 8192 * 1088);
    cr_assert_eq(mla_decode_bytes(v3, 8192, BF16), 2.0 * 128 * (16 * 576 + 8192 * 576 + 16 * 512));
}
