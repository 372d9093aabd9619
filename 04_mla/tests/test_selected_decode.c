/*
 * Absorbed decoding over lists against plain loops over the rows that they name: lists in any
 * order, with repetitions, with what a query may not see, and empty; pages in a shuffled order, and
 * NaN wherever no token lies.
 */
#include "04_mla/selection.h"

#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Sequence b has length[b % 3] tokens; each query has a list of `count`. */
typedef struct Case {
    int batch, q_len, heads, kv_lora_rank, rope_dim, count, length[3];
} Case;

typedef struct Problem {
    MlaDecodeShape shape;
    int count;
    Tensor *q, *latent, *table, *lengths, *selected, *o, *work;
    float *expected;
} Problem;

static uint32_t at_random(uint64_t stream, int64_t i) {
    return philox(11, stream, (uint64_t)i).word[0];
}

/* A list of a query that sees `seen` tokens: mostly these, some of them twice, some beyond, some
 * negative. Every third list is in order, as an indexer's, and every seventh selects nothing. */
static void make_list(int32_t *list, int count, int seen, int64_t which) {
    for (int i = 0; i < count; i++) {
        uint32_t r = at_random(1, which * count + i);
        list[i] = r % 16 == 0 ? -(int32_t)(r % 5) - 1 : (int32_t)(r / 16 % (uint32_t)(seen + 2));
        if (which % 3 == 1) list[i] = 2 * i < seen ? 2 * i : -1;
        if (which % 7 == 6) list[i] = i % 2 ? -1 : seen + i;
    }
}

/* What the query's heads read by definition: [heads, kv_lora_rank]. */
static void decode_list(float *o, const float *q, const void *pool, const int32_t *pages,
                        const int32_t *list, int count, int seen, const MlaDecodeShape *s,
                        size_t row) {
    char *rows = calloc((size_t)seen / PAGE_TOKENS + 1, row * PAGE_TOKENS);
    int32_t *table = malloc(sizeof *table * ((size_t)seen / PAGE_TOKENS + 1)), n = 0;
    for (int j = 0; j < seen; j++) {
        bool in = false;
        for (int i = 0; i < count; i++) in = in || list[i] == j;
        if (!in) continue;
        memcpy(rows + (size_t)n++ * row, (const char *)pool + (size_t)page_row(pages, j) * row,
               row);
    }
    for (int i = 0; i <= seen / PAGE_TOKENS; i++) table[i] = i;
    MlaDecodeShape one = *s;
    one.batch = one.q_len = 1;
    one.pages = one.max_pages = seen / PAGE_TOKENS + 1, one.max_length = n;
    if (n)
        mla_decode_reference_cpu(o, NULL, q, (const float *)rows, table, &n, one);
    else
        memset(o, 0, sizeof *o * (size_t)s->heads * (size_t)s->kv_lora_rank);
    free(rows), free(table);
}

/* The tokens' rows in a pool on the host, and NaN everywhere else; the same on the device. */
static void *make_pool(Problem *p, Context *ctx, const int32_t *table, const int32_t *lengths) {
    const MlaDecodeShape *s = &p->shape;
    int rank = s->kv_lora_rank, width = rank + s->rope_dim;
    int64_t row = s->e4m3 ? latent_row_bytes(rank, s->rope_dim) : width;
    p->latent = tensor_new(ctx, "latent", s->e4m3 ? F8_E4M3 : ctx->dtype,
                           SHAPE(s->pages, PAGE_TOKENS, row));
    float *all =
        test_values(ctx, test_normal(ctx, "tokens", 2, SHAPE(s->pages * PAGE_TOKENS, width)));
    int64_t rows = (int64_t)s->pages * PAGE_TOKENS;
    bool *used = calloc((size_t)rows, 1);
    for (int b = 0; b < s->batch; b++)
        for (int t = 0; t < lengths[b]; t++) used[page_row(table + b * s->max_pages, t)] = true;
    if (!s->e4m3) {
        for (int64_t i = 0; i < rows * width; i++)
            if (!used[i / width]) all[i] = NAN;
        tensor_upload(ctx, p->latent, all);
        return all;
    }
    uint8_t *bytes = malloc((size_t)(rows * row));
    memset(bytes, 0xff, (size_t)(rows * row));
    for (int64_t i = 0; i < rows; i++)
        if (used[i])
            latent_row_write_cpu(bytes + i * row, all + i * width, all + i * width + rank, rank,
                                 s->rope_dim);
    device_put(ctx->gpu, p->latent->data, bytes, (size_t)(rows * row));
    return bytes;
}

static Problem problem_new(Context *ctx, const Case *c, bool e4m3) {
    MlaDecodeShape s = {.batch = c->batch,
                        .q_len = c->q_len,
                        .heads = c->heads,
                        .kv_lora_rank = c->kv_lora_rank,
                        .rope_dim = c->rope_dim,
                        .e4m3 = e4m3,
                        .pages = 1,
                        .scale = 1.0f / sqrtf((float)(c->kv_lora_rank + c->rope_dim))};
    int32_t lengths[16];
    for (int b = 0; b < c->batch; b++) {
        lengths[b] = c->length[b % 3];
        s.pages += (lengths[b] + PAGE_TOKENS - 1) / PAGE_TOKENS;
        if (lengths[b] > s.max_length) s.max_length = lengths[b];
    }
    s.max_length += 70; /* sequences may grow */
    s.max_pages = (s.max_length + PAGE_TOKENS - 1) / PAGE_TOKENS;
    int32_t *table = malloc(sizeof *table * (size_t)(s.batch * s.max_pages)), page = s.pages - 1;
    for (int i = 0; i < s.batch * s.max_pages; i++) table[i] = 1 << 28;
    for (int b = 0; b < c->batch; b++)
        for (int i = 0; i * PAGE_TOKENS < lengths[b]; i++) table[b * s.max_pages + i] = page--;

    Problem p = {.shape = s, .count = c->count};
    int lists = s.batch * s.q_len, width = s.kv_lora_rank + s.rope_dim;
    int64_t q_row = (int64_t)s.heads * width, o_row = (int64_t)s.heads * s.kv_lora_rank;
    p.q = test_normal(ctx, "q", 1, SHAPE(s.batch, s.q_len, s.heads, width));
    void *pool = make_pool(&p, ctx, table, lengths);
    p.table = tensor_copy_in(ctx, "table", I32, table, SHAPE(s.batch, s.max_pages));
    p.lengths = tensor_copy_in(ctx, "lengths", I32, lengths, SHAPE(s.batch));
    p.o = tensor_new(ctx, "o", ctx->dtype, SHAPE(s.batch, s.q_len, s.heads, s.kv_lora_rank));
    size_t bytes = ON(ctx, selected_decode_work, p.count, s);
#ifdef WITH_CUDA
    if (ctx->device == CUDA) {
        size_t most = selected_decode_gathered_work_cuda(ctx->gpu, ctx->dtype, p.count, s);
        if (most > bytes) bytes = most;
    }
#endif
    p.work = tensor_new(ctx, "work", F32, SHAPE((int64_t)(bytes / sizeof(float)) + 1));
    p.expected = malloc(sizeof(float) * (size_t)(lists * o_row));
    int32_t *selected = malloc(sizeof *selected * (size_t)(lists * p.count));
    float *q = test_values(ctx, p.q);
    size_t row =
        e4m3 ? (size_t)latent_row_bytes(s.kv_lora_rank, s.rope_dim) : sizeof(float) * (size_t)width;
    for (int l = 0; l < lists; l++) {
        int b = l / s.q_len, seen = lengths[b] - s.q_len + l % s.q_len + 1;
        make_list(selected + l * p.count, p.count, seen, l);
        decode_list(p.expected + l * o_row, q + l * q_row, pool, table + b * s.max_pages,
                    selected + l * p.count, p.count, seen, &s, row);
    }
    p.selected = tensor_copy_in(ctx, "selected", I32, selected, SHAPE(lists, p.count));
    free(selected), free(q), free(pool), free(table);
    return p;
}

enum { IN_USE, PLAIN, GATHERED, HOPPER, RUNGS };

/* Runs the rung, unless this device, dtype or size is not for it. */
static bool run(Context *ctx, int rung, Problem *p) {
    test_poison(ctx, p->o);
    test_poison(ctx, p->work);
    if (rung == IN_USE) {
        ON(ctx, selected_decode, p->o->data, p->work->data, p->q->data, p->latent->data,
           p->table->data, p->lengths->data, p->selected->data, p->count, p->shape);
        return true;
    }
#ifdef WITH_CUDA
    static __typeof__(selected_decode_cuda) *const rungs[RUNGS] = {NULL, selected_decode_plain_cuda,
                                                                   selected_decode_gathered_cuda,
                                                                   selected_decode_hopper_cuda};
    if (ctx->device != CUDA) return false;
    if (rung == HOPPER && !selected_decode_hopper_supports(ctx->gpu, ctx->dtype, p->shape))
        return false;
    rungs[rung](ctx->gpu, ctx->dtype, p->o->data, p->work->data, p->q->data, p->latent->data,
                p->table->data, p->lengths->data, p->selected->data, p->count, p->shape);
    return true;
#else
    return false;
#endif
}

static void check_case(Device device, DType dtype, const Case *c, bool e4m3) {
    static const char *const names[] = {"in use", "plain", "gathered", "hopper"};
    Context ctx = test_context(device, dtype);
    Problem p = problem_new(&ctx, c, e4m3);
    /* as test_mla_decode.c has it: sums in another order; BF16 rounds o, and probabilities */
    double tolerance =
        8 * tolerance_of(F32, c->kv_lora_rank + c->rope_dim) + (dtype == BF16) * 0x1p-8;
    for (int rung = 0; rung < RUNGS; rung++) {
        if (!run(&ctx, rung, &p)) continue;
        char what[120];
        snprintf(what, sizeof what, "%s: batch %d, q_len %d, heads %d, %d + %d, %d of %d ...",
                 names[rung], c->batch, c->q_len, c->heads, c->kv_lora_rank, c->rope_dim, c->count,
                 c->length[0]);
        check_tensor(&ctx, what, p.o, p.expected, tolerance);
        float *once = test_values(&ctx, p.o);
        run(&ctx, rung, &p);
        check_tensor(&ctx, "again", p.o, once, 0); /* the same bits */
        free(once);
    }
    context_free(&ctx);
}

static const Case cases[] = {
    /* batch, q_len, heads, kv_lora_rank, rope_dim, count, lengths */
    {1, 1, 1, 4, 0, 1, {1}},
    {3, 1, 3, 33, 5, 40, {2, 65, 129}},
    {2, 2, 5, 16, 0, 7, {2, 150}},
    {9, 1, 16, 512, 64, 64, {63, 300, 65}},
    {8, 2, 16, 512, 64, 200, {2, 700, 129}},
    {4, 1, 128, 512, 64, 65, {400, 64, 1}},
    {8, 2, 128, 512, 64, 130, {300, 65, 190}},
    {2, 1, 64, 512, 64, 500, {900, 3}},
    {3, 3, 40, 128, 32, 31, {270, 3, 64}},
    {2, 1, 3, 1000, 24, 9, {70, 11}},
};
enum { CASES = sizeof cases / sizeof *cases };

DEVICE_TEST(selected_decode, agrees_with_the_definition) {
    for (int i = 0; i < CASES; i++) check_case(device, dtype, &cases[i], false);
}

DEVICE_TEST(selected_decode, eight_bits_agree_with_the_definition) {
    for (int i = 0; i < CASES; i++)
        if (cases[i].kv_lora_rank % 4 == 0 && cases[i].rope_dim % 2 == 0)
            check_case(device, dtype, &cases[i], true);
}
