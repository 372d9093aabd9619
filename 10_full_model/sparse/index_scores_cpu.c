/*
 * Scores of the lightning indexer on the CPU.
 *
 * A task is a tile of KEYS keys of one sequence. They are turned into columns once, as numbers if
 * they were in eight bits, so that a vector holds one number of several keys; then every query that
 * sees the tile broadcasts its numbers against them:
 *
 *     dots[h][key] = sum over c of q[h][c] K^T[c][key]         two heads at a time, in registers
 *     I[key]      += w[h] max(dots[h][key], 0)                 for each head, in order
 *
 * For a few queries turning would cost more than it saves: they take four keys at a time, with
 * vectors along a key, and add up the lanes of four sums together (common/core/lanes.h).
 *
 * Which of the two it is follows from the number of queries of a step alone, and a score is summed
 * in one order in each: so a query finds the same bits alone and among a few guesses behind it, and
 * whatever the passes.
 */
#include "10_full_model/sparse/index_kernels.h"
#include "common/core/cpu_matmul.h"
#include "common/core/lanes.h"

#include <math.h>
#include <stdlib.h>

enum { KEYS = 64, WIDE = KEYS / LANES };
typedef int32_t QuarterMask __attribute__((vector_size(16), aligned(4)));
typedef int32_t Mask __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(4)));

/* Row `row` of a pool in eight bits. */
static void read_key(float *room, const void *keys, int64_t row, int dim) {
    const uint8_t *codes = (const uint8_t *)keys + index_codes_at(row, dim);
    const float *scales = (const float *)((const char *)keys + index_scales_at(row, dim));
    for (int c = 0; c < dim; c++) room[c] = scales[c / LATENT_GROUP] * e4m3_to_float(codes[c]);
}

/* Key j of sequence b, as numbers: where it lies, or in `room`. */
static const float *key_of(float *room, const void *keys, const IndexShape *s, int b, int j) {
    if (!s->block_table) return (const float *)keys + ((int64_t)b * s->kv_len + j) * s->dim;
    int64_t row = page_row(s->block_table + (int64_t)b * s->max_pages, j);
    if (!s->e4m3) return (const float *)keys + row * s->dim;
    read_key(room, keys, row, s->dim);
    return room;
}

void index_scores_reference_cpu(float *scores, const float *q, const float *weights,
                                const void *keys, IndexShape s) {
    float *room = must_alloc((size_t)s.dim, sizeof *room);
    for (int b = 0; b < s.batch; b++)
        for (int i = 0; i < s.count; i++) {
            int64_t query = (int64_t)b * s.q_len + s.first + i;
            for (int j = 0; j < index_keys_seen(&s, b, s.first + i); j++) {
                const float *k = key_of(room, keys, &s, b, j);
                double sum = 0;
                for (int h = 0; h < s.heads; h++) {
                    double dot = 0;
                    for (int c = 0; c < s.dim; c++)
                        dot += (double)q[(query * s.heads + h) * s.dim + c] * k[c];
                    sum += (double)weights[query * s.heads + h] * fmax(dot, 0);
                }
                scores[((int64_t)b * s.count + i) * s.kv_len + j] = (float)(s.scale * sum);
            }
        }
    free(room);
}

/* turned [dim][KEYS]: `count` keys from j on, and zeros. */
static void turn_keys(float *turned, float *room, const void *keys, const IndexShape *s, int b,
                      int j, int count) {
    for (int i = 0; i < KEYS; i++) {
        const float *k = i < count ? key_of(room, keys, s, b, j + i) : NULL;
        for (int c = 0; c < s->dim; c++) turned[c * KEYS + i] = k ? k[c] : 0.0f;
    }
}

/* sum[KEYS] += w[h] ReLU(q[h] . key) for `heads` heads, 1 or 2, which is a constant. */
static inline __attribute__((always_inline)) void score_heads(Vector *sum, const float *q,
                                                              const float *w, const float *turned,
                                                              int dim, const int heads) {
    Vector dots[2][WIDE] = {0}, zero = {0};
    for (int c = 0; c < dim; c++)
        for (int v = 0; v < WIDE; v++) {
            Vector k = *(const Vector *)(turned + c * KEYS + v * LANES);
            for (int h = 0; h < heads; h++) dots[h][v] += q[h * dim + c] * k;
        }
    for (int h = 0; h < heads; h++)
        for (int v = 0; v < WIDE; v++) {
            Mask positive = dots[h][v] > zero; /* all ones where it is */
            sum[v] += w[h] * (Vector)((Mask)dots[h][v] & positive);
        }
}

static void score_tile(float *scores, const float *q, const float *w, const float *turned,
                       int count, const IndexShape *s) {
    Vector sum[WIDE] = {0};
    float all[KEYS];
    int h = 0;
    for (; h + 2 <= s->heads; h += 2) score_heads(sum, q + h * s->dim, w + h, turned, s->dim, 2);
    if (h < s->heads) score_heads(sum, q + h * s->dim, w + h, turned, s->dim, 1);
    for (int v = 0; v < WIDE; v++) sum[v] *= s->scale;
    memcpy(all, sum, sizeof all);
    memcpy(scores, all, sizeof(float) * (size_t)count);
}

/* ---- few queries ---- */

/* [score_four] */
/* A query's scores of four keys; q [heads][dim]. */
static Quarter score_four(const float *q, const float *w, const float *const keys[4],
                          const IndexShape *s) {
    Quarter sum = {0}, zero = {0};
    for (int h = 0; h < s->heads; h++) {
        const float *q_h = q + h * s->dim;
        Vector dots[4] = {0};
        int c = 0;
        for (; c + LANES <= s->dim; c += LANES)
            for (int i = 0; i < 4; i++)
                dots[i] += *(const Vector *)(q_h + c) * *(const Vector *)(keys[i] + c);
        for (int i = 0; i < 4 && c < s->dim; i++)
            dots[i] += first_lanes(q_h + c, s->dim - c) * first_lanes(keys[i] + c, s->dim - c);
        Quarter four = add_lanes(dots);
        QuarterMask positive = four > zero;
        sum += w[h] * (Quarter)((QuarterMask)four & positive);
    }
    return s->scale * sum;
}
/* [/score_four] */

/* `count` keys of sequence b from j on, for all queries of the pass; room [4][dim]. */
static void score_few(float *scores, const float *q, const float *weights, const void *keys,
                      float *room, const IndexShape *s, int b, int j, int count) {
    for (int from = j; from < j + count; from += 4) {
        const float *four[4];
        for (int i = 0; i < 4; i++) /* behind the last: that one again */
            four[i] = key_of(room + i * s->dim, keys, s, b, from + i < j + count ? from + i : j);
        for (int i = 0; i < s->count; i++) {
            int seen = index_keys_seen(s, b, s->first + i) - from;
            int64_t query = (int64_t)b * s->q_len + s->first + i;
            if (seen <= 0) continue;
            Quarter sum =
                score_four(q + query * s->heads * s->dim, weights + query * s->heads, four, s);
            memcpy(scores + ((int64_t)b * s->count + i) * s->kv_len + from, &sum,
                   sizeof(float) * (size_t)(seen < 4 ? seen : 4));
        }
    }
}

void index_scores_cpu(float *scores, const float *q, const float *weights, const void *keys,
                      IndexShape s) {
    int64_t tiles = (s.kv_len + KEYS - 1) / KEYS;
    double work = (double)s.batch * s.count * s.kv_len * s.heads * s.dim;
#pragma omp parallel if (work > 1 << 18)
    {
        float *turned = must_alloc((size_t)s.dim * (KEYS + 1), sizeof *turned);
        float *room = turned + (size_t)s.dim * KEYS;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < s.batch * tiles; task++) {
            int b = (int)(task / tiles), from = (int)(task % tiles) * KEYS;
            int length = index_keys_seen(&s, b, s.first + s.count - 1);
            int keys_here = length - from < KEYS ? length - from : KEYS;
            if (keys_here <= 0) continue;
            if (s.q_len <= CPU_FEW_ROWS) {
                score_few(scores, q, weights, keys, turned, &s, b, from, keys_here);
                continue;
            }
            turn_keys(turned, room, keys, &s, b, from, keys_here);
            for (int i = 0; i < s.count; i++) {
                int seen = index_keys_seen(&s, b, s.first + i) - from;
                int64_t query = (int64_t)b * s.q_len + s.first + i;
                if (seen > 0)
                    score_tile(scores + ((int64_t)b * s.count + i) * s.kv_len + from,
                               q + query * s.heads * s.dim, weights + query * s.heads, turned,
                               seen < keys_here ? seen : keys_here, &s);
            }
        }
        free(turned);
    }
}

/* ---- eight bits ---- */

/* H of 2n is [H H; H -H]: log2(d) passes of sums and differences (Fino & Algazi 1976). */
void hadamard_cpu(float *x, int64_t rows, int64_t d) {
    CHECK(d > 0 && (d & (d - 1)) == 0, "hadamard: rows of %lld numbers", (long long)d);
    float scale = 1 / sqrtf((float)d);
#pragma omp parallel for if (rows * d > 1 << 16)
    for (int64_t row = 0; row < rows; row++) {
        float *y = x + row * d;
        for (int64_t half = 1; half < d; half *= 2)
            for (int64_t i = 0; i < d; i += 2 * half)
                for (int64_t j = i; j < i + half; j++) {
                    float a = y[j], b = y[j + half];
                    y[j] = a + b, y[j + half] = a - b;
                }
        for (int64_t i = 0; i < d; i++) y[i] *= scale;
    }
}

void index_append_e4m3_cpu(void *keys, const int32_t *block_table, const int32_t *lengths,
                           const float *k, int64_t batch, int64_t tokens, int64_t dim,
                           int64_t max_pages) {
#pragma omp parallel if (batch * tokens * dim > 1 << 14)
    {
        char *bytes = must_alloc((size_t)latent_row_bytes(dim, 0), 1);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < batch * tokens; i++) {
            int64_t b = i / tokens, t = lengths[b] - tokens + i % tokens;
            int64_t row = page_row(block_table + b * max_pages, t);
            latent_row_write_cpu(bytes, k + i * dim, NULL, dim, 0);
            memcpy((char *)keys + index_codes_at(row, dim), bytes, (size_t)dim);
            memcpy((char *)keys + index_scales_at(row, dim), bytes + latent_row_scales(dim),
                   (size_t)(latent_row_bytes(dim, 0) - dim));
        }
        free(bytes);
    }
}

void index_widen_cpu(float *y, const float *x, int64_t n) { memcpy(y, x, sizeof *y * (size_t)n); }

void index_round_cpu(float *x, int64_t rows, int64_t d) {
#pragma omp parallel if (rows * d > 1 << 14)
    {
        char *bytes = must_alloc((size_t)latent_row_bytes(d, 0), 1);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            latent_row_write_cpu(bytes, x + row * d, NULL, d, 0);
            latent_row_read_cpu(x + row * d, NULL, bytes, d, 0);
        }
        free(bytes);
    }
}
