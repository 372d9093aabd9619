/*
 * Absorbed decoding on the CPU. See mla_decode.h for the formulas.
 *
 * mla_decode_reference_cpu: plain loops straight from them. Every other kernel is compared with it.
 *
 * mla_decode_cpu. A row is a query of one head; since all rows read the same latents, the q_len * H
 * rows of a sequence are simply its batch. VECTOR rows make a group and lie side by side in a
 * vector, as chapter 02's queries do, and a page z (64 tokens) joins them in three steps:
 *
 *     S = Z Q^T                     [64][VECTOR]             Q^T is packed once, scale included
 *     m' = max(m, max_j S),  P = exp(S - m'),  l' = l exp(m - m') + sum_j P
 *     O' = O exp(m - m') + C^T P    [kv_lora_rank][VECTOR]   C: the first columns of the same Z
 *
 * Both products broadcast numbers of Z against a vector of rows, so Z is used where and as it
 * lies. It is read from memory once for S; O finds it in the cache. A page in eight bits becomes
 * numbers first, in memory of its own that stays in the cache.
 *
 * Sequences are cut into pieces, a task is a group's share of a piece, and the tasks of one piece
 * follow each other, so that the later groups find its pages in the cache. A piece leaves m, l and
 * O in scratch; the join is chapter 03's. The cut depends on the sizes alone, so the result does
 * not depend on the number of threads.
 */
#include "04_mla/mla_decode.h"

#include "02_causal/causal_tile.h"
#include "common/core/cpu_matmul.h"
#include "common/core/fastmath.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the reference ---- */

/* Where token t of sequence b lies. */
static const float *row_of_token(const float *latent, const int32_t *block_table, int b, int t,
                                 const MlaDecodeShape *s) {
    const int32_t *pages = block_table + (int64_t)b * s->max_pages;
    return latent + page_row(pages, t) * (s->kv_lora_rank + s->rope_dim);
}

/* The numbers of `tokens` rows from token t on, all of one page: where they lie, or, of rows in
 * eight bits, in `room`. */
static const float *rows_of_tokens(float *room, const float *latent, const int32_t *block_table,
                                   int b, int t, int tokens, const MlaDecodeShape *s) {
    if (!s->e4m3) return row_of_token(latent, block_table, b, t, s);
    const int32_t *pages = block_table + (int64_t)b * s->max_pages;
    int64_t bytes = latent_row_bytes(s->kv_lora_rank, s->rope_dim);
    const char *row = (const char *)latent + page_row(pages, t) * bytes;
    for (int i = 0; i < tokens; i++) {
        float *z = room + i * (s->kv_lora_rank + s->rope_dim);
        latent_row_read_cpu(z, z + s->kv_lora_rank, row + i * bytes, s->kv_lora_rank, s->rope_dim);
    }
    return room;
}

void mla_decode_reference_cpu(float *o, float *scratch, const float *q, const float *latent,
                              const int32_t *block_table, const int32_t *lengths,
                              MlaDecodeShape s) {
    mla_decode_check("mla_decode_reference_cpu", &s);
    (void)scratch;
    int width = s.kv_lora_rank + s.rope_dim;
    double *p = must_alloc((size_t)s.max_length, sizeof(double));
    float room[MLA_DECODE_MAX_WIDTH];
    for (int64_t row = 0; row < (int64_t)s.batch * s.q_len * s.heads; row++) {
        int b = (int)(row / s.heads / s.q_len), i = (int)(row / s.heads % s.q_len);
        int seen = lengths[b] - s.q_len + i + 1;
        double max = -INFINITY, sum = 0;
        for (int j = 0; j < seen; j++) {
            const float *z = rows_of_tokens(room, latent, block_table, b, j, 1, &s);
            double dot = 0;
            for (int c = 0; c < width; c++) dot += (double)q[row * width + c] * z[c];
            p[j] = dot * s.scale;
            max = fmax(max, p[j]);
        }
        for (int j = 0; j < seen; j++) sum += p[j] = exp(p[j] - max);
        double out[MLA_DECODE_MAX_WIDTH] = {0};
        for (int j = 0; j < seen; j++) {
            const float *z = rows_of_tokens(room, latent, block_table, b, j, 1, &s);
            for (int c = 0; c < s.kv_lora_rank; c++) out[c] += p[j] * z[c];
        }
        for (int c = 0; c < s.kv_lora_rank; c++)
            o[row * s.kv_lora_rank + c] = (float)(out[c] / sum);
    }
    free(p);
}

/* ---- in use ---- */

/* As many independent sums as hide the latency of a multiply-add and fit into the registers. */
enum { BLOCK = VECTOR == 16 ? 16 : 8 };
enum { VECTOR_ROWS = 4 };    /* below this, rows one by one are faster than a vector (measured) */
enum { PIECE_PAGES = 4 };    /* a piece's start and end cost a fraction of a page ... */
enum { FEW_TASKS = 4 };      /* ... but with fewer tasks than this, threads would be idle */
enum { MOST_TASKS = 1024 };  /* above this, pieces grow: their states would be a burden */
enum { PARALLEL = 1 << 18 }; /* multiply-adds below which waking threads does not pay */

/*
 * How the work is cut. Where a piece begins follows from batch, heads and the room in the block
 * table, and not from the lengths, nor from q_len while that is small: so a query's numbers are the
 * same, bit for bit, alone and among a few guesses behind it, whose keys it does not see.
 */
typedef struct Cut {
    int lanes, groups; /* of the rows of one sequence */
    bool rising;       /* the first pieces have 1 page, FEW_TASKS of them, then as many have 2 */
    int pages;         /* of all other pieces */
    int pieces;        /* of a sequence of max_length */
    int64_t state;     /* floats of one task: m[lanes], l[lanes], o[kv_lora_rank][lanes] */
} Cut;

/* The first token of a piece. */
static int piece_begin(const Cut *cut, int piece) {
    int page = piece * cut->pages;
    if (cut->rising)
        page = piece < FEW_TASKS       ? piece
               : piece < 2 * FEW_TASKS ? FEW_TASKS + 2 * (piece - FEW_TASKS)
                                       : 3 * FEW_TASKS + (piece - 2 * FEW_TASKS) * cut->pages;
    return page * PAGE_TOKENS;
}

static int pieces_of(const Cut *cut, int length) {
    int pieces = 0;
    while (piece_begin(cut, pieces) < length) pieces++;
    return pieces;
}

static Cut cut_of(const MlaDecodeShape *s) {
    bool single = s->heads < VECTOR_ROWS && s->q_len <= CPU_FEW_ROWS;
    Cut cut = {.lanes = single ? 1 : VECTOR, .pages = PIECE_PAGES};
    cut.groups = (s->q_len * s->heads + cut.lanes - 1) / cut.lanes;
    int64_t side_by_side = s->batch * (int64_t)((s->heads + cut.lanes - 1) / cut.lanes);
    while (side_by_side * (s->max_pages / cut.pages) > MOST_TASKS) cut.pages *= 2;
    cut.rising = side_by_side < FEW_TASKS;
    cut.pieces = pieces_of(&cut, s->max_length);
    cut.state = (int64_t)cut.lanes * (2 + s->kv_lora_rank);
    return cut;
}

size_t mla_decode_scratch_cpu(MlaDecodeShape s) {
    mla_decode_check("mla_decode_scratch_cpu", &s);
    Cut cut = cut_of(&s);
    return sizeof(float) * (size_t)s.batch * (size_t)cut.pieces * (size_t)cut.groups *
           (size_t)cut.state;
}

/* c[i][0..VECTOR) += sum_k a[i * a_row + k * a_col] * b[k][0..VECTOR) for i < rows, a constant */
static inline __attribute__((always_inline)) void lane_rows(float *c, const float *a, int64_t a_row,
                                                            int64_t a_col, const float *b,
                                                            int depth, const int rows) {
    Vector sum[BLOCK];
    for (int i = 0; i < rows; i++) sum[i] = load(c + i * VECTOR);
    for (int k = 0; k < depth; k++) {
        Vector b_k = load(b + k * VECTOR);
        for (int i = 0; i < rows; i++) sum[i] += a[i * a_row + k * a_col] * b_k;
    }
    for (int i = 0; i < rows; i++) store(c + i * VECTOR, sum[i]);
}

static void lane_product(float *c, const float *a, int64_t a_row, int64_t a_col, const float *b,
                         int depth, int rows) {
    int i = 0;
    for (; i + BLOCK <= rows; i += BLOCK)
        lane_rows(c + i * VECTOR, a + i * a_row, a_row, a_col, b, depth, BLOCK);
    for (; i < rows; i++) lane_rows(c + i * VECTOR, a + i * a_row, a_row, a_col, b, depth, 1);
}

/*
 * The softmax of `keys` scores s[key][lane] joins the state; lane i sees seen[i] of them. A lane
 * that has seen nothing so far keeps m = -inf, which must not be subtracted from itself.
 */
static void join_scores(float *m, float *l, float *o, float *s, int keys, const int *seen,
                        int kv_lora_rank) {
    float base[VECTOR], rescale[VECTOR], sum[VECTOR] = {0};
    for (int i = 0; i < VECTOR; i++) {
        for (int j = seen[i] > 0 ? seen[i] : 0; j < keys; j++) s[j * VECTOR + i] = -INFINITY;
        base[i] = m[i];
    }
    for (int j = 0; j < keys; j++)
        for (int i = 0; i < VECTOR; i++) {
            float x = s[j * VECTOR + i];
            base[i] = x > base[i] ? x : base[i];
        }
    for (int i = 0; i < VECTOR; i++) {
        float top = base[i];
        base[i] = top == -INFINITY ? 0.0f : top;
        rescale[i] = fast_exp(m[i] - base[i]);
        m[i] = top;
    }
    for (int j = 0; j < keys; j++)
        for (int i = 0; i < VECTOR; i++) {
            float p = fast_exp(s[j * VECTOR + i] - base[i]);
            s[j * VECTOR + i] = p;
            sum[i] += p;
        }
    for (int i = 0; i < VECTOR; i++) l[i] = l[i] * rescale[i] + sum[i];
    for (int c = 0; c < kv_lora_rank; c++)
        for (int i = 0; i < VECTOR; i++) o[c * VECTOR + i] *= rescale[i];
}

/* Asks for the `numbers` of a page, so that it is on its way while the one before it is used. */
static void prefetch_page(const float *z, int64_t numbers) {
    for (int64_t i = 0; i < numbers; i += 16) __builtin_prefetch(z + i, 0, 2);
}

/* Tokens begin .. end - 1 for the rows first .. first + rows - 1 of sequence b. */
static void group_task(float *state, const float *q, const float *latent,
                       const int32_t *block_table, int length, const MlaDecodeShape *s, int b,
                       int first, int rows, int begin, int end) {
    float packed[MLA_DECODE_MAX_WIDTH * VECTOR], scores[PAGE_TOKENS * VECTOR];
    float room[PAGE_TOKENS * MLA_DECODE_MAX_WIDTH];
    float *m = state, *l = state + VECTOR, *o = state + 2 * VECTOR;
    int width = s->kv_lora_rank + s->rope_dim, seen[VECTOR];
    const float *q_rows = q + ((int64_t)b * s->q_len * s->heads + first) * width;
    for (int c = 0; c < width; c++)
        for (int i = 0; i < VECTOR; i++)
            packed[c * VECTOR + i] = i < rows ? q_rows[i * width + c] * s->scale : 0.0f;
    for (int i = 0; i < VECTOR; i++) m[i] = -INFINITY;
    memset(l, 0, sizeof(float) * (size_t)VECTOR * (size_t)(1 + s->kv_lora_rank));

    for (int token = begin; token < end; token += PAGE_TOKENS) {
        int keys = end - token < PAGE_TOKENS ? end - token : PAGE_TOKENS;
        const float *z = rows_of_tokens(room, latent, block_table, b, token, keys, s);
        if (token + PAGE_TOKENS < end && !s->e4m3)
            prefetch_page(row_of_token(latent, block_table, b, token + PAGE_TOKENS, s),
                          (int64_t)width * PAGE_TOKENS);
        memset(scores, 0, sizeof(float) * (size_t)(keys * VECTOR));
        lane_product(scores, z, width, 1, packed, width, keys);
        for (int i = 0; i < VECTOR; i++)
            seen[i] = (i < rows ? mla_keys_seen(s, length, first + i) : length) - token;
        join_scores(m, l, o, scores, keys, seen, s->kv_lora_rank);
        lane_product(o, z, 1, width, scores, keys, s->kv_lora_rank);
    }
}

/* The same for a single row, in chapter 02's loops: with so few, vectors of rows would be empty. */
static void row_task(float *state, const float *q, const float *latent, const int32_t *block_table,
                     int length, const MlaDecodeShape *s, int b, int row, int begin, int end) {
    OnlineSoftmax online = {-INFINITY, 0};
    float scores[PAGE_TOKENS], room[PAGE_TOKENS * MLA_DECODE_MAX_WIDTH], *o = state + 2;
    int width = s->kv_lora_rank + s->rope_dim, seen = mla_keys_seen(s, length, row);
    const float *q_row = q + ((int64_t)b * s->q_len * s->heads + row) * width;
    memset(o, 0, sizeof(float) * (size_t)s->kv_lora_rank);
    for (int token = begin; token < end && token < seen; token += PAGE_TOKENS) {
        int stop = end < seen ? end : seen;
        int keys = stop - token < PAGE_TOKENS ? stop - token : PAGE_TOKENS;
        const float *z = rows_of_tokens(room, latent, block_table, b, token, keys, s);
        for (int j = 0; j < keys; j++) {
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int c = 0; c < width; c++) dot += q_row[c] * z[j * width + c];
            scores[j] = dot * s->scale;
        }
        online_softmax(&online, o, scores, keys, z, width, s->kv_lora_rank);
    }
    state[0] = online.m;
    state[1] = online.l;
}

/* Chapter 03's join for one group's lanes: o = sum_p e^(m_p - m) o_p / sum_p e^(m_p - m) l_p. The
 * sums are made in the first piece's place. */
static void join_pieces(float *o, float *state, int pieces, int64_t from_piece_to_piece, int lanes,
                        int rows, int kv_lora_rank) {
    float m[VECTOR], weight[VECTOR];
    for (int i = 0; i < lanes; i++) {
        m[i] = -INFINITY;
        for (int p = 0; p < pieces; p++) m[i] = fmaxf(m[i], state[p * from_piece_to_piece + i]);
    }
    for (int p = 0; p < pieces; p++) {
        float *piece = state + p * from_piece_to_piece;
        for (int i = 0; i < lanes; i++) weight[i] = fast_exp(piece[i] - m[i]);
        for (int c = 1; c < 2 + kv_lora_rank; c++)
            for (int i = 0; i < lanes; i++) {
                float x = weight[i] * piece[c * lanes + i];
                state[c * lanes + i] = p ? state[c * lanes + i] + x : x;
            }
    }
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < kv_lora_rank; c++)
            o[i * kv_lora_rank + c] = state[(2 + c) * lanes + i] / state[lanes + i];
}

void mla_decode_cpu(float *o, float *scratch, const float *q, const float *latent,
                    const int32_t *block_table, const int32_t *lengths, MlaDecodeShape s) {
    mla_decode_check("mla_decode_cpu", &s);
    const Cut cut = cut_of(&s);
    const int rows = s.q_len * s.heads;
    const int64_t tasks = (int64_t)s.batch * cut.pieces * cut.groups;
    const bool parallel =
        (int64_t)s.batch * rows * s.max_length * (2 * s.kv_lora_rank + s.rope_dim) > PARALLEL;

#pragma omp parallel for schedule(dynamic) if (parallel)
    for (int64_t turn = 0; turn < tasks; turn++) {
        int64_t task = tasks - 1 - turn; /* the longer pieces come first: the rest fills up */
        int group = (int)(task % cut.groups), first = group * cut.lanes;
        int piece = (int)(task / cut.groups % cut.pieces);
        int b = (int)(task / cut.groups / cut.pieces), begin = piece_begin(&cut, piece);
        int end = piece_begin(&cut, piece + 1);
        if (end > lengths[b]) end = lengths[b];
        float *state = scratch + task * cut.state;
        if (begin >= end) continue; /* the sequence ends before this piece */
        if (cut.lanes == 1)
            row_task(state, q, latent, block_table, lengths[b], &s, b, first, begin, end);
        else
            group_task(state, q, latent, block_table, lengths[b], &s, b, first,
                       rows - first < cut.lanes ? rows - first : cut.lanes, begin, end);
    }
#pragma omp parallel for schedule(static) if (parallel)
    for (int64_t task = 0; task < (int64_t)s.batch * cut.groups; task++) {
        int b = (int)(task / cut.groups), group = (int)(task % cut.groups);
        int first = group * cut.lanes, pieces = pieces_of(&cut, lengths[b]);
        join_pieces(o + ((int64_t)b * rows + first) * s.kv_lora_rank,
                    scratch + ((int64_t)b * cut.pieces * cut.groups + group) * cut.state, pieces,
                    cut.groups * cut.state, cut.lanes,
                    rows - first < cut.lanes ? rows - first : cut.lanes, s.kv_lora_rank);
    }
}
