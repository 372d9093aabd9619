/*
 * The indexer's kernels on every device, each rung against the CPU's definitions: keys in pages and
 * not, as numbers and in eight bits, with NaN wherever no key lies; rows of scores that are all
 * ties.
 */
#include "10_full_model/sparse/index_kernels.h"
#include "10_full_model/tests/test_rows.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- scores ---- */

/* Sequence b has length[b % 3] keys; pages false: kv_len = length[0] for all. */
typedef struct Case {
    int batch, q_len, heads, dim, length[3];
    bool pages, e4m3;
} Case;

typedef struct Problem {
    IndexShape shape;
    Tensor *q, *w, *keys, *scores, *lengths, *table;
    float *expected; /* NaN where a query does not see */
    int64_t count;
} Problem;

static int pages_of(int tokens) { return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS; }

/* Keys where the table says, NaN elsewhere. Returns what the reference reads. */
static void *make_pool(Problem *p, Context *ctx, const Case *c, const int32_t *table,
                       const int32_t *lengths, int pages, int max_pages) {
    int64_t row = c->e4m3 ? latent_row_bytes(c->dim, 0) : c->dim;
    int64_t rows = (int64_t)pages * PAGE_TOKENS, n = rows * row;
    float *all = test_values(ctx, test_normal(ctx, "keys", 3, SHAPE(rows, c->dim)));
    p->keys = tensor_new(ctx, "keys", c->e4m3 ? F8_E4M3 : ctx->dtype, SHAPE(rows, row));
    bool *used = calloc((size_t)rows, 1);
    for (int b = 0; b < c->batch; b++)
        for (int t = 0; t < lengths[b]; t++) used[page_row(table + b * max_pages, t)] = true;
    if (!c->e4m3) {
        for (int64_t i = 0; i < n; i++)
            if (!used[i / c->dim]) all[i] = NAN;
        tensor_upload(ctx, p->keys, all);
        return all;
    }
    char *bytes = malloc((size_t)n);
    memset(bytes, 0xff, (size_t)n);
    for (int64_t i = 0; i < rows; i++) { /* as if row i were a sequence's last token */
        int32_t page = (int32_t)(i / PAGE_TOKENS), length = (int32_t)(i % PAGE_TOKENS) + 1;
        if (used[i])
            index_append_e4m3_cpu(bytes, &page, &length, all + i * c->dim, 1, 1, c->dim, 1);
    }
    device_put(ctx->gpu, p->keys->data, bytes, (size_t)n);
    return bytes;
}

static Problem problem_new(Context *ctx, const Case *c) {
    int32_t lengths[16], table[16 * 64];
    int pages = 2, longest = 0;
    for (int b = 0; b < c->batch; b++) {
        lengths[b] = c->length[c->pages ? b % 3 : 0];
        pages += pages_of(lengths[b]);
        if (lengths[b] > longest) longest = lengths[b];
    }
    int S = c->pages ? longest + 70 : longest, max_pages = pages_of(S), page = pages - 1;
    for (int i = 0; i < c->batch * max_pages; i++) table[i] = 1 << 28;
    for (int b = 0; b < c->batch; b++)
        for (int i = 0; i < pages_of(lengths[b]); i++) table[b * max_pages + i] = page--;

    Problem p = {.count = (int64_t)c->batch * c->q_len * S};
    p.shape = (IndexShape){.batch = c->batch,
                           .q_len = c->q_len,
                           .count = c->q_len,
                           .heads = c->heads,
                           .dim = c->dim,
                           .scale = 0.37f,
                           .kv_len = S,
                           .e4m3 = c->e4m3};
    p.q = test_normal(ctx, "q", 1, SHAPE(c->batch, c->q_len, c->heads, c->dim));
    if (c->e4m3) ON(ctx, index_round, p.q->data, (int64_t)c->batch * c->q_len * c->heads, c->dim);
    float *w = test_values(ctx, test_normal(ctx, "w", 2, SHAPE(c->batch, c->q_len, c->heads)));
    p.w = tensor_copy_in(ctx, "w", F32, w, SHAPE(c->batch, c->q_len, c->heads));
    p.scores = tensor_new(ctx, "scores", F32, SHAPE(c->batch, c->q_len, S));
    IndexShape host = p.shape;
    void *pool;
    if (c->pages) {
        pool = make_pool(&p, ctx, c, table, lengths, pages, max_pages);
        p.table = tensor_copy_in(ctx, "table", I32, table, SHAPE(c->batch, max_pages));
        p.lengths = tensor_copy_in(ctx, "lengths", I32, lengths, SHAPE(c->batch));
        p.shape.block_table = p.table->data, p.shape.lengths = p.lengths->data;
        host.block_table = table, host.lengths = lengths;
        host.max_pages = p.shape.max_pages = max_pages;
    } else {
        p.keys = test_normal(ctx, "keys", 3, SHAPE(c->batch, S, c->dim));
        pool = test_values(ctx, p.keys);
    }
    float *q = test_values(ctx, p.q);
    p.expected = test_floats(p.count); /* NaN */
    index_scores_reference_cpu(p.expected, q, w, pool, host);
    free(q), free(w), free(pool);
    return p;
}

enum { IN_USE, PLAIN, HOPPER, MMA, RUNGS };

/* The pass of queries first .. first + count - 1; false: this rung is not for them. */
static bool score(Context *ctx, int rung, Problem *p, int first, int count, Tensor *scores) {
    IndexShape s = p->shape;
    s.first = first, s.count = count;
    test_poison(ctx, scores);
    if (rung == IN_USE) {
        ON(ctx, index_scores, scores->data, p->q->data, p->w->data, p->keys->data, s);
        return true;
    }
#ifdef WITH_CUDA
    if (ctx->device != CUDA) return false;
    if (rung == HOPPER &&
        !index_scores_hopper_supports(ctx->gpu, ctx->dtype, p->q->data, p->keys->data, s))
        return false;
    if (rung == MMA &&
        !index_scores_mma_supports(ctx->gpu, ctx->dtype, p->q->data, p->keys->data, s))
        return false;
    (rung == PLAIN    ? index_scores_plain_cuda
     : rung == HOPPER ? index_scores_hopper_cuda
                      : index_scores_mma_cuda)(ctx->gpu, ctx->dtype, scores->data, p->q->data,
                                               p->w->data, p->keys->data, s);
    return true;
#else
    return false;
#endif
}

static void check_scores(Device device, DType dtype, const Case *c) {
    static const char *const names[] = {"in use", "plain", "hopper", "mma"};
    Context ctx = test_context(device, dtype);
    Problem p = problem_new(&ctx, c);
    int S = p.shape.kv_len;
    for (int rung = 0; rung < RUNGS; rung++) {
        char what[100];
        if (!score(&ctx, rung, &p, 0, c->q_len, p.scores)) continue;
        snprintf(what, sizeof what, "%s: batch %d, %d of %d keys, %d x %d, pages %d, e4m3 %d",
                 names[rung], c->batch, c->q_len, S, c->heads, c->dim, c->pages, c->e4m3);
        float *got = test_values(&ctx, p.scores), *want = test_floats(p.count);
        for (int64_t i = 0; i < p.count; i++) { /* what a query does not see stays as it was */
            cr_assert(isnan(got[i]) == isnan(p.expected[i]), "%s: score %lld is %g", what,
                      (long long)i, got[i]);
            want[i] = isnan(got[i]) ? 0 : p.expected[i];
            if (isnan(got[i])) got[i] = 0;
        }
        /* Inputs are the same numbers. Tensor cores add up products of eight bits with some 13 bits
         * behind the largest. */
        bool coarse = c->e4m3 && dtype == BF16 && (rung == IN_USE || rung == HOPPER);
        check_close(what, got, want, p.count,
                    coarse ? 0x1p-10 : 16 * tolerance_of(F32, c->heads * c->dim));
        /* in passes, the same bits */
        for (int first = 0, count; first < c->q_len; first += count) {
            count = first == 0 ? 1 : c->q_len - first < 7 ? c->q_len - first : 7;
            Tensor *part = tensor_new(&ctx, "part", F32, SHAPE(c->batch, count, S));
            score(&ctx, rung, &p, first, count, part);
            float *some = test_values(&ctx, part);
            for (int64_t i = 0; i < (int64_t)c->batch * count * S; i++) {
                int64_t b = i / S / count,
                        whole = (b * c->q_len + first + i / S % count) * S + i % S;
                cr_assert(isnan(some[i]) || some[i] == got[whole], "%s: %g in a pass, %g whole",
                          what, some[i], got[whole]);
            }
            free(some);
        }
        free(got), free(want);
    }
    context_free(&ctx);
}

DEVICE_TEST(index_kernels, scores_of_every_kind_of_key) {
    static const Case cases[] = {
        {1, 1, 1, 4, {1}, true, false},
        {2, 31, 3, 13, {31}, false, false},
        {2, 19, 11, 48, {131}, false, false},
        {2, 2, 11, 64, {131, 64}, true, true},
        {3, 2, 5, 16, {130, 2, 65}, true, false},
        {3, 2, 5, 16, {130, 2, 65}, true, true},
        {2, 3, 2, 256, {70, 3}, true, true},
        {3, 1, 64, 128, {63, 300, 1}, true, false},
        {3, 1, 64, 128, {63, 300, 1}, true, true},
        {2, 2, 64, 128, {129, 700}, true, true},
        {2, 2, 64, 128, {129, 700}, true, false},
        {1, 9, 64, 128, {260}, true, true},
        {2, 21, 64, 128, {150}, false, false},
        {2, 5, 32, 128, {200, 64}, true, false},
        {2, 5, 32, 128, {200, 64}, true, true},
        {1, 67, 32, 128, {67}, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_scores(device, dtype, &cases[i]);
}

/* ---- the k largest ---- */

/* Every kind of row as a query of its own, the last of `length` keys. */
static void check_top_k(Context *ctx, int length, int k) {
    int S = length + 3;
    float *rows = test_floats(KINDS * (int64_t)S);
    int32_t *want = malloc(sizeof *want * (size_t)(KINDS * k));
    IndexShape shape = {.batch = 1, .q_len = KINDS, .count = KINDS, .kv_len = S};
    int32_t seen = length;
    shape.lengths = &seen;
    for (int kind = 0; kind < KINDS; kind++)
        for (int i = 0; i < length; i++) rows[kind * (int64_t)S + i] = row_value(kind, i);
    for (int kind = 0; kind < KINDS; kind++)
        top_k_row_cpu(want + kind * k, rows + kind * (int64_t)S,
                      length - KINDS + kind + 1 > 0 ? length - KINDS + kind + 1 : 0, k);
    Tensor *scores = tensor_copy_in(ctx, "scores", F32, rows, SHAPE(KINDS, S));
    shape.lengths = tensor_copy_in(ctx, "lengths", I32, &seen, SHAPE(1))->data;
    for (int rung = 0; rung <= HOPPER; rung++) {
        Tensor *selected = tensor_new(ctx, "selected", I32, SHAPE(KINDS, k));
        if (rung == IN_USE) ON(ctx, top_k, selected->data, scores->data, k, shape);
#ifdef WITH_CUDA
        if (rung && ctx->device != CUDA) continue;
        if (rung == HOPPER && !top_k_hopper_supports(ctx->gpu, shape)) continue;
        if (rung)
            (rung == PLAIN ? top_k_plain_cuda : top_k_hopper_cuda)(
                ctx->gpu, ctx->dtype, selected->data, scores->data, k, shape);
#else
        if (rung) continue;
#endif
        int32_t *got = test_ints(ctx, selected);
        for (int i = 0; i < KINDS * k; i++)
            cr_assert(got[i] == want[i], "rung %d, kind %d, %d of %d: entry %d is %d, not %d", rung,
                      i / k, k, length, i % k, got[i], want[i]);
        free(got);
    }
    free(rows), free(want);
    context_reset(ctx);
}

DEVICE_TEST(index_kernels, top_k_as_the_rows_alone) {
    static const int lengths[] = {8, 9, 31, 64, 1000, 2049, 20000, 131072};
    static const int ks[] = {1, 2, 33, 1000, 2048};
    Context ctx = test_context(device, dtype);
    for (int l = 0; l < 8; l++)
        for (int i = 0; i < 5; i++) check_top_k(&ctx, lengths[l], ks[i]);
}

/* Of many sequences, in passes: the lists of the others stay as they were. */
DEVICE_TEST(index_kernels, top_k_in_passes) {
    enum { B = 70, T = 5, S = 300, K = 40 };
    Context ctx = test_context(device, dtype);
    float *rows = test_values(&ctx, test_normal(&ctx, "scores", 4, SHAPE(B, T, S)));
    int32_t lengths[B], *want = malloc(sizeof *want * B * T * K);
    for (int b = 0; b < B; b++) lengths[b] = T + b * 7 % (S - T + 1);
    Tensor *selected = tensor_new(&ctx, "selected", I32, SHAPE(B, T, K));
    IndexShape shape = {.batch = B, .q_len = T, .kv_len = S};
    shape.lengths = tensor_copy_in(&ctx, "lengths", I32, lengths, SHAPE(B))->data;
    for (int first = 0; first < T; first += shape.count) {
        shape.first = first, shape.count = first ? T - 2 : 2;
        float *part = test_floats((int64_t)B * shape.count * S);
        for (int b = 0; b < B; b++)
            memcpy(part + (int64_t)b * shape.count * S, rows + ((int64_t)b * T + first) * S,
                   sizeof *part * (size_t)(shape.count * S));
        Tensor *scores = tensor_copy_in(&ctx, "part", F32, part, SHAPE(B, shape.count, S));
        ON(&ctx, top_k, selected->data, scores->data, K, shape);
        free(part);
    }
    for (int row = 0; row < B * T; row++)
        top_k_row_cpu(want + row * K, rows + row * S, lengths[row / T] - T + row % T + 1, K);
    int32_t *got = test_ints(&ctx, selected);
    for (int i = 0; i < B * T * K; i++)
        cr_assert(got[i] == want[i], "list %d, entry %d is %d, not %d", i / K, i % K, got[i],
                  want[i]);
}

/* ---- turning and rounding ---- */

DEVICE_TEST(index_kernels, turning_and_rounding) {
    static const int dims[] = {4, 32, 128, 512};
    for (int i = 0; i < 4; i++) {
        Context ctx = test_context(device, dtype);
        int rows = 33, dim = dims[i];
        Tensor *x = test_normal(&ctx, "x", 5, SHAPE(rows, dim));
        float *want = test_values(&ctx, x);
        ON(&ctx, hadamard, x->data, rows, dim);
        hadamard_cpu(want, rows, dim);
        check_tensor(&ctx, "turned", x, want, 2 * tolerance_of(dtype, dim));
        float *turned = test_values(&ctx, x);
        ON(&ctx, index_round, x->data, rows, dim);
        index_round_cpu(turned, rows, dim);
        check_tensor(&ctx, "rounded", x, turned, 0); /* every number is one of BF16, too */
        Tensor *wide = tensor_new(&ctx, "wide", F32, SHAPE(rows, dim));
        ON(&ctx, index_widen, wide->data, x->data, (int64_t)rows * dim);
        check_tensor(&ctx, "widened", wide, turned, 0);
    }
}

/* DeepGEMM's: 64 times 128 codes, then 64 scales; 132 bytes a token. */
Test(index_kernels, layout_of_a_page) {
    cr_assert_eq(index_codes_at(0, 128), 0);
    cr_assert_eq(index_codes_at(63, 128), 63 * 128);
    cr_assert_eq(index_scales_at(0, 128), 64 * 128);
    cr_assert_eq(index_scales_at(63, 128), 64 * 128 + 63 * 4);
    cr_assert_eq(index_codes_at(64 + 1, 128), 64 * 132 + 128);
    cr_assert_eq(index_scales_at(128 + 5, 256), 2 * 64 * 264 + 64 * 256 + 5 * 8);
}

/* Keys enter a page where the CPU puts them, to the byte; the rest of the pool stays. */
DEVICE_TEST(index_kernels, keys_in_eight_bits) {
    static const int dims[] = {4, 128, 256};
    for (int i = 0; i < 3; i++) {
        enum { B = 3, T = 5, PAGES = 6, MAX = 2 };
        static const int32_t table[B * MAX] = {3, 1, 0, 5, 4, 2}, lengths[B] = {5, 66, 128};
        Context ctx = test_context(device, dtype);
        int64_t dim = dims[i], n = PAGES * PAGE_TOKENS * latent_row_bytes(dim, 0);
        Tensor *k = test_normal(&ctx, "k", 6, SHAPE(B, T, dim));
        Tensor *pool = tensor_new(&ctx, "pool", F8_E4M3, SHAPE(n));
        uint8_t *got = malloc((size_t)n), *want = malloc((size_t)n);
        memset(want, 0xff, (size_t)n);
        device_put(ctx.gpu, pool->data, want, (size_t)n);
        const Tensor *t = tensor_copy_in(&ctx, "table", I32, table, SHAPE(B, MAX));
        const Tensor *l = tensor_copy_in(&ctx, "lengths", I32, lengths, SHAPE(B));
        ON(&ctx, index_append_e4m3, pool->data, t->data, l->data, k->data, B, T, dim, MAX);
        index_append_e4m3_cpu(want, table, lengths, test_values(&ctx, k), B, T, dim, MAX);
        device_get(ctx.gpu, got, pool->data, (size_t)n);
        cr_assert(!memcmp(got, want, (size_t)n), "dim %d", dims[i]);
    }
}
