/*
 * Attention over selected keys on the CPU: a list is put in order once, and then only the keys in
 * it are looked at.
 *
 * Order. A list may come in any order and say things twice. A bit for each key of the sequence is
 * set where the list says so, and the bits are read from the first to the last: what comes out is
 * ascending, once each, in count + keys / 64 steps.
 *
 * Forward. Keys and values of a tile of TILE entries are read where they lie, their scores join the
 * online softmax of chapter 02.
 *
 * Backward brings each probability back from lse: p = e^(s - lse), ds = p (dp - delta) with
 * delta = do . o (chapter 02). dq is a sum over a query's keys, dk and dv are sums over a key's
 * queries, always in the same order: so no result depends on the number of threads.
 *
 * Decoding. The rows that a query selected are copied into a cache of their own, and that is read
 * by mla_decode: sparse decoding is dense decoding of a short text. The copy is a hundredth of the
 * work, for a row takes part in 2 H (2 kv_lora_rank + rope_dim) operations.
 */
#include "04_mla/selection.h"

#include "common/core/fastmath.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 64 };

/* ---- order ---- */

/* `count` entries, of which those below `seen` count, as keys in order. `bits` is all zero, one for
 * each key, and is so again. Returns how many they are. */
static int tidy_list(int32_t *tidy, const int32_t *list, int count, int seen, uint64_t *bits) {
    int filled = 0;
    for (int i = 0; i < count; i++)
        if (list[i] >= 0 && list[i] < seen) bits[list[i] / 64] |= 1ull << list[i] % 64;
    for (int word = 0; word <= (seen - 1) / 64 && seen > 0; word++)
        for (; bits[word]; bits[word] &= bits[word] - 1)
            tidy[filled++] = 64 * word + __builtin_ctzll(bits[word]);
    for (int i = filled; i < count; i++) tidy[i] = -1;
    return filled;
}

void selected_tidy_cpu(int32_t *tidy, const int32_t *selected, SelectedShape s) {
    int T = s.attention.q_len, S = s.attention.kv_len;
    int32_t *counts = tidy + (int64_t)s.attention.batch * T * s.count;
#pragma omp parallel
    {
        uint64_t *bits = must_alloc((size_t)S / 64 + 1, sizeof *bits);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < (int64_t)s.attention.batch * T; row++) {
            int seen = selected_keys_seen(&s, (int)(row / T), (int)(row % T));
            counts[row] = tidy_list(tidy + row * s.count, selected + row * s.count, s.count,
                                    seen < S ? seen : S, bits);
        }
        free(bits);
    }
}

size_t selected_work_cpu(SelectedShape s) {
    return sizeof(int32_t) * (size_t)s.attention.batch * (size_t)s.attention.q_len *
           ((size_t)s.count + 1);
}

/* ---- attention ---- */

static float dot(const float *a, const float *b, int n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static void plus(float *to, float factor, const float *from, int n) {
#pragma omp simd
    for (int i = 0; i < n; i++) to[i] += factor * from[i];
}

static int64_t at(HeadStrides strides, int b, int t, int h) {
    return b * strides.batch + t * strides.token + h * strides.head;
}

/* One query of one head: o is cleared, and the log of the sum is returned. */
static float selected_row(float *o, const float *q, const float *k, const float *v,
                          const int32_t *list, int b, int h, const SelectedShape *s) {
    const AttentionShape *a = &s->attention;
    float m = -INFINITY, l = 0, p[TILE];
    memset(o, 0, sizeof(float) * (size_t)a->v_dim);
    for (int first = 0, keys; first < s->count && list[first] >= 0; first += keys) {
        float top = m;
        for (keys = 0; keys < TILE && first + keys < s->count && list[first + keys] >= 0; keys++) {
            const float *key = k + selected_at(s, a->k, b, list[first + keys], h);
            p[keys] = a->scale * dot(q, key, a->qk_dim);
            top = fmaxf(top, p[keys]);
        }
        float rescale = fast_exp(m - top);
        for (int c = 0; c < a->v_dim; c++) o[c] *= rescale;
        l *= rescale, m = top;
        for (int i = 0; i < keys; i++) {
            l += p[i] = fast_exp(p[i] - m);
            plus(o, p[i], v + selected_at(s, a->v, b, list[first + i], h), a->v_dim);
        }
    }
    for (int c = 0; c < a->v_dim && l > 0; c++) o[c] /= l;
    return m + logf(l);
}

void selected_forward_cpu(float *o, float *lse, const float *q, const float *k, const float *v,
                          const int32_t *selected, void *work, SelectedShape s) {
    const AttentionShape *a = &s.attention;
    const int32_t *lists = work;
    selected_tidy_cpu(work, selected, s);
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t row = 0; row < (int64_t)a->batch * a->heads * a->q_len; row++) {
        int t = (int)(row % a->q_len), h = (int)(row / a->q_len % a->heads);
        int b = (int)(row / a->q_len / a->heads);
        float sum = selected_row(o + at(a->o, b, t, h), q + at(a->q, b, t, h), k, v,
                                 lists + ((int64_t)b * a->q_len + t) * s.count, b, h, &s);
        if (lse) lse[row] = sum;
    }
}

/* What a pair of a query and a key it selected gives to the gradients. */
typedef struct Pair {
    float p, ds; /* the probability; the score's gradient, times the scale */
} Pair;

static Pair pair_of(const float *d_o, float delta, const float *q, const float *k, const float *v,
                    float lse, const AttentionShape *a) {
    float p = expf(a->scale * dot(q, k, a->qk_dim) - lse);
    return (Pair){p, a->scale * p * (dot(d_o, v, a->v_dim) - delta)};
}

void selected_backward_check(const SelectedShape *s, const void *k, const void *v, const void *dv) {
    const AttentionShape *a = &s->attention;
    CHECK(!s->block_table, "selected_backward: keys in pages have no gradient");
    CHECK(!s->latent || (a->kv_heads == 1 && k == v && !dv && a->v_dim <= a->qk_dim),
          "selected_backward: latents are one head of keys, and their values");
}

size_t selected_backward_scratch_cpu(SelectedShape s) {
    (void)s;
    return 0;
}

/* Query t of head h: dq, and what it gives to its keys. */
static void query_gradient(float *dq, float *dk, float *dv, const float *d_o, const float *q,
                           const float *k, const float *v, const float *o, float lse,
                           const int32_t *list, int b, int h, const SelectedShape *s) {
    const AttentionShape *a = &s->attention;
    float delta = dot(d_o, o, a->v_dim);
    for (int e = 0; e < s->count && list[e] >= 0; e++) {
        int64_t at_k = selected_at(s, a->k, b, list[e], h);
        int64_t at_v = selected_at(s, a->v, b, list[e], h);
        Pair pair = pair_of(d_o, delta, q, k + at_k, v + at_v, lse, a);
        if (dq) plus(dq, pair.ds, k + at_k, a->qk_dim);
        if (dk) plus(dk + at_k, pair.ds, q, a->qk_dim);
        if (dv) plus(dv + at_v, pair.p, d_o, a->v_dim);
    }
}

void selected_backward_cpu(float *dq, int add_q, float *dk, int add_k, float *dv, int add_v,
                           void *scratch, const float *d_o, const float *q, const float *k,
                           const float *v, const float *o, const float *lse, const void *work,
                           SelectedShape s) {
    const AttentionShape *a = &s.attention;
    const int32_t *lists = work;
    int group = a->heads / a->kv_heads;
    (void)scratch;
    selected_backward_check(&s, k, v, dv);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < (int64_t)a->batch * a->kv_heads; i++) {
        int b = (int)(i / a->kv_heads), kv_head = (int)(i % a->kv_heads);
        for (int j = 0; j < a->kv_len; j++) {
            int64_t at_k = at(a->k, b, j, kv_head), at_v = at(a->v, b, j, kv_head);
            if (dk && !add_k) memset(dk + at_k, 0, sizeof(float) * (size_t)a->qk_dim);
            if (dv && !add_v) memset(dv + at_v, 0, sizeof(float) * (size_t)a->v_dim);
        }
        for (int h = kv_head * group; h < (kv_head + 1) * group; h++)
            for (int t = 0; t < a->q_len; t++) {
                int64_t at_q = at(a->q, b, t, h), at_o = at(a->o, b, t, h);
                if (dq && !add_q) memset(dq + at_q, 0, sizeof(float) * (size_t)a->qk_dim);
                query_gradient(dq ? dq + at_q : NULL, dk, s.latent ? dk : dv, d_o + at_o, q + at_q,
                               k, v, o + at_o, lse[((int64_t)b * a->heads + h) * a->q_len + t],
                               lists + ((int64_t)b * a->q_len + t) * s.count, b, h, &s);
            }
    }
}

/* ---- decoding ---- */

SelectedShape selected_pages_shape(const int32_t *block_table, const int32_t *lengths, int count,
                                   MlaDecodeShape s) {
    SelectedShape shape = {.attention =
                               attention_shape(s.batch, s.heads, 1, s.q_len, s.max_length,
                                               s.kv_lora_rank + s.rope_dim, s.kv_lora_rank, 1),
                           .count = count,
                           .latent = true,
                           .block_table = block_table,
                           .lengths = lengths,
                           .max_pages = s.max_pages};
    shape.attention.v = shape.attention.k;
    shape.attention.scale = s.scale;
    return shape;
}

/* One query of each sequence, against a cache of `count` rows: its pages lie one after the other.
 * A list that selects nothing becomes one row of zeros, whose weighted mean is zero. */
static MlaDecodeShape gathered_shape(int count, MlaDecodeShape s) {
    s.q_len = 1;
    s.max_pages = (count + PAGE_TOKENS - 1) / PAGE_TOKENS;
    s.pages = s.batch * s.max_pages;
    s.max_length = count;
    return s;
}

static size_t row_bytes(const MlaDecodeShape *s) {
    return s->e4m3 ? (size_t)latent_row_bytes(s->kv_lora_rank, s->rope_dim)
                   : sizeof(float) * (size_t)(s->kv_lora_rank + s->rope_dim);
}

/* What lies where in the work. */
typedef struct DecodeWork {
    int32_t *tidy, *table, *lengths;
    float *q, *o; /* of one query of each sequence */
    char *rows;
    float *scratch;
    size_t bytes;
} DecodeWork;

static void *part(DecodeWork *w, char *work, size_t bytes) {
    char *at = work + w->bytes;
    w->bytes += (bytes + 63) / 64 * 64;
    return at;
}

static DecodeWork decode_work(char *work, int count, MlaDecodeShape s) {
    DecodeWork w = {0};
    MlaDecodeShape g = gathered_shape(count, s);
    size_t B = (size_t)s.batch, H = (size_t)s.heads, rank = (size_t)s.kv_lora_rank;
    w.tidy = part(&w, work, sizeof(int32_t) * B * (size_t)s.q_len * ((size_t)count + 1));
    w.table = part(&w, work, sizeof(int32_t) * B * (size_t)g.max_pages);
    w.lengths = part(&w, work, sizeof(int32_t) * B);
    w.q = part(&w, work, sizeof(float) * B * H * (rank + (size_t)s.rope_dim));
    w.o = part(&w, work, sizeof(float) * B * H * rank);
    w.rows = part(&w, work, (size_t)g.pages * PAGE_TOKENS * row_bytes(&s));
    w.scratch = part(&w, work, mla_decode_scratch_cpu(g));
    return w;
}

size_t selected_decode_work_cpu(int count, MlaDecodeShape s) {
    return decode_work(NULL, count, s).bytes;
}

/* [gather_rows] */
/* The rows that a list selects, one behind the other; returns how many. */
static int gather_rows(char *to, const char *latent, const int32_t *pages, const int32_t *list,
                       int count, size_t bytes) {
    int n = 0;
    for (; n < count && list[n] >= 0; n++)
        memcpy(to + (size_t)n * bytes, latent + (size_t)page_row(pages, list[n]) * bytes, bytes);
    if (n == 0) memset(to, 0, bytes);
    return n ? n : 1;
}
/* [/gather_rows] */

void selected_decode_cpu(float *o, void *work, const float *q, const void *latent,
                         const int32_t *block_table, const int32_t *lengths,
                         const int32_t *selected, int count, MlaDecodeShape s) {
    DecodeWork w = decode_work(work, count, s);
    MlaDecodeShape g = gathered_shape(count, s);
    SelectedShape lists = {
        .attention = {.batch = s.batch, .q_len = s.q_len, .kv_len = s.max_length},
        .count = count,
        .lengths = lengths};
    int64_t q_row = (int64_t)s.heads * (s.kv_lora_rank + s.rope_dim);
    int64_t o_row = (int64_t)s.heads * s.kv_lora_rank;
    size_t bytes = row_bytes(&s);
    selected_tidy_cpu(w.tidy, selected, lists);
    for (int i = 0; i < g.pages; i++) w.table[i] = i;
    for (int t = 0; t < s.q_len; t++) {
#pragma omp parallel for if ((size_t)s.batch * (size_t)count * bytes > 1 << 18)
        for (int b = 0; b < s.batch; b++) {
            int64_t row = (int64_t)b * s.q_len + t;
            w.lengths[b] = gather_rows(
                w.rows + (size_t)b * (size_t)g.max_pages * PAGE_TOKENS * bytes, latent,
                block_table + (int64_t)b * s.max_pages, w.tidy + row * count, count, bytes);
            memcpy(w.q + b * q_row, q + row * q_row, sizeof(float) * (size_t)q_row);
        }
        mla_decode_cpu(w.o, w.scratch, w.q, (const float *)w.rows, w.table, w.lengths, g);
        for (int b = 0; b < s.batch; b++)
            memcpy(o + ((int64_t)b * s.q_len + t) * o_row, w.o + b * o_row,
                   sizeof(float) * (size_t)o_row);
    }
}
