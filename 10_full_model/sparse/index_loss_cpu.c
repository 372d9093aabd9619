/*
 * The indexer's loss on the CPU, QUERIES rows at a time.
 *
 * First the rows by themselves: p and I over the row's keys, the loss, dI, and from it dq and dw,
 * which are sums over the row's keys. dI is kept for the block, [QUERIES, T], zero where a row has
 * no key. Then the keys by themselves: dk is a sum over the block's rows, in order. Nothing is
 * added up by two threads.
 */
#include "10_full_model/sparse/index_loss.h"

#include "10_full_model/sparse/index_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { QUERIES = 32 };

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

/* One query: where its numbers are, and which keys it is about. */
typedef struct Row {
    int b, t, keys;
    const int32_t *list; /* NULL: keys 0 .. keys - 1 */
    const float *iq, *iw;
} Row;

static Row row_of(const IndexLossInput *in, const IndexLossShape *s, int b, int t) {
    int64_t row = (int64_t)b * s->tokens + t;
    Row r = {.b = b, .t = t, .keys = t + 1};
    r.iq = (const float *)in->iq + row * s->index_heads * s->index_dim;
    r.iw = in->iw + row * s->index_heads;
    if (!in->lists) return r;
    r.list = in->lists + row * s->count;
    for (r.keys = 0; r.keys < s->count && r.list[r.keys] >= 0; r.keys++) continue;
    return r;
}

static int key_at(const Row *r, int e) { return r->list ? r->list[e] : e; }

static const float *index_key(const IndexLossInput *in, const IndexLossShape *s, int b, int j) {
    return (const float *)in->ik + ((int64_t)b * s->tokens + j) * s->index_dim;
}

/* scores [keys] and products [keys, Hi] of the indexer. */
static void index_row(float *scores, float *products, const Row *r, const IndexLossInput *in,
                      const IndexLossShape *s) {
    for (int e = 0; e < r->keys; e++) {
        const float *k = index_key(in, s, r->b, key_at(r, e));
        float sum = 0;
        for (int h = 0; h < s->index_heads; h++) {
            float d = dot(r->iq + h * s->index_dim, k, s->index_dim);
            products[e * s->index_heads + h] = d;
            sum += r->iw[h] * fmaxf(d, 0);
        }
        scores[e] = s->index_scale * sum;
    }
}

/* [attention_row] */
/* p [keys]: the heads' probabilities, added up and divided by their number. lse: of each head, at
 * [h * tokens]; NULL: made here, over the row's keys. `room` [keys]. */
static void attention_row(float *p, float *room, const Row *r, const IndexLossInput *in,
                          const IndexLossShape *s, const float *lse) {
    int64_t H = s->heads, row = (int64_t)r->b * s->tokens, token = s->kv_heads * s->qk_dim;
    memset(p, 0, sizeof *p * (size_t)r->keys);
    for (int64_t h = 0; h < H; h++) {
        const float *q = (const float *)in->q + ((row + r->t) * H + h) * s->qk_dim;
        const float *k = (const float *)in->k + (row * s->kv_heads + h % s->kv_heads) * s->qk_dim;
        float top = -INFINITY, sum = 0;
        for (int e = 0; e < r->keys; e++) {
            room[e] = s->attention_scale * dot(q, k + key_at(r, e) * token, s->qk_dim);
            top = fmaxf(top, room[e]);
        }
        for (int e = 0; e < r->keys && !lse; e++) sum += expf(room[e] - top);
        float whole = lse ? lse[h * s->tokens] : top + logf(sum);
        for (int e = 0; e < r->keys; e++) p[e] += expf(room[e] - whole) / (float)H;
    }
}
/* [/attention_row] */

/* Memory of one thread. */
typedef struct Room {
    float *p, *scores, *one, *products;
} Room;

static Room room_open(const IndexLossShape *s) {
    size_t T = (size_t)s->tokens;
    float *all = must_alloc(T * (3 + (size_t)s->index_heads), sizeof *all);
    return (Room){all, all + T, all + 2 * T, all + 3 * T};
}

/* [divergence] */
/* sum of p (log p - log softmax(scores)); scores become (softmax - p) / rows: their gradient. */
static float divergence(float *scores, const float *p, int n, float rows) {
    double sum = 0, loss = 0, whole = 0;
    float top = -INFINITY;
    for (int e = 0; e < n; e++) top = fmaxf(top, scores[e]);
    for (int e = 0; e < n; e++) sum += expf(scores[e] - top), whole += p[e];
    float lse = top + logf((float)sum);
    for (int e = 0; e < n; e++) {
        if (p[e] > 0) loss += p[e] * (logf(p[e]) - (scores[e] - lse));
        scores[e] = (expf(scores[e] - lse) * (float)whole - p[e]) / rows;
    }
    return (float)loss;
}
/* [/divergence] */

/* A row's loss; dI into the block's line, and with it dq and dw. */
static float one_row(float *line, float *dq, float *dw, const Row *r, Room *room,
                     const IndexLossInput *in, const IndexLossShape *s) {
    int heads = s->index_heads, dim = s->index_dim;
    const float *lse = in->lse + (int64_t)r->b * s->heads * s->tokens + r->t;
    index_row(room->scores, room->products, r, in, s);
    attention_row(room->p, room->one, r, in, s, lse);
    float loss = divergence(room->scores, room->p, r->keys, (float)((int64_t)s->batch * s->tokens));
    if (!dq) return loss;
    memset(line, 0, sizeof *line * (size_t)s->tokens);
    memset(dq, 0, sizeof *dq * (size_t)(heads * dim)), memset(dw, 0, sizeof *dw * (size_t)heads);
    for (int e = 0; e < r->keys; e++) {
        int j = key_at(r, e);
        float g = s->index_scale * room->scores[e];
        line[j] = g;
        for (int h = 0; h < heads; h++) {
            float d = room->products[e * heads + h];
            if (d <= 0) continue; /* ReLU */
            dw[h] += g * d;
            plus(dq + h * dim, g * r->iw[h], index_key(in, s, r->b, j), dim);
        }
    }
    return loss;
}

/* dk of key j += what the block's rows from t on have for it. */
static void one_key(float *dk, const float *lines, int b, int t, int count, int j,
                    const IndexLossInput *in, const IndexLossShape *s) {
    const float *k = index_key(in, s, b, j);
    for (int i = 0; i < count; i++) {
        float g = lines[(int64_t)i * s->tokens + j];
        if (g == 0) continue;
        Row r = row_of(&(IndexLossInput){.iq = in->iq, .iw = in->iw}, s, b, t + i);
        for (int h = 0; h < s->index_heads; h++) {
            const float *q = r.iq + h * s->index_dim;
            if (dot(q, k, s->index_dim) > 0) plus(dk, g * r.iw[h], q, s->index_dim);
        }
    }
}

size_t index_loss_scratch_cpu(IndexLossShape s) {
    (void)s; /* each thread has its own rows */
    return 0;
}

void index_loss_cpu(float *losses, float *dq, float *dk, float *dw, void *scratch,
                    IndexLossInput in, IndexLossShape s) {
    (void)scratch;
    int T = s.tokens;
    int64_t query = (int64_t)s.index_heads * s.index_dim;
    float *lines = must_alloc((size_t)QUERIES * (size_t)T, sizeof *lines);
    if (dk) memset(dk, 0, sizeof *dk * (size_t)s.batch * (size_t)T * (size_t)s.index_dim);
#pragma omp parallel
    {
        Room room = room_open(&s);
        for (int b = 0; b < s.batch; b++)
            for (int t = 0; t < T; t += QUERIES) {
                int count = T - t < QUERIES ? T - t : QUERIES;
#pragma omp for schedule(dynamic)
                for (int i = 0; i < count; i++) {
                    Row r = row_of(&in, &s, b, t + i);
                    int64_t row = (int64_t)b * T + t + i;
                    losses[row] = one_row(lines + (int64_t)i * T, dq ? dq + row * query : NULL,
                                          dw ? dw + row * s.index_heads : NULL, &r, &room, &in, &s);
                }
                if (!dk) continue;
#pragma omp for schedule(static)
                for (int j = 0; j < t + count; j++)
                    one_key(dk + ((int64_t)b * T + j) * s.index_dim, lines, b, t, count, j, &in,
                            &s);
            }
        free(room.p);
    }
    free(lines);
}

double index_loss_reference_cpu(IndexLossInput in, IndexLossShape s) {
    double total = 0;
    double *p = must_alloc((size_t)s.tokens, sizeof *p), *score = must_alloc((size_t)s.tokens, 8);
    for (int64_t row = 0; row < (int64_t)s.batch * s.tokens; row++) {
        Row r = row_of(&in, &s, (int)(row / s.tokens), (int)(row % s.tokens));
        double sum = 0, all = 0;
        for (int e = 0; e < r.keys; e++) score[e] = p[e] = 0;
        for (int h = 0; h < s.heads; h++) {
            double own[r.keys], own_sum = 0;
            const float *q = (const float *)in.q + (row * s.heads + h) * s.qk_dim;
            for (int e = 0; e < r.keys; e++) {
                int64_t key = (int64_t)r.b * s.tokens + key_at(&r, e);
                const float *k =
                    (const float *)in.k + (key * s.kv_heads + h % s.kv_heads) * s.qk_dim;
                own[e] = 0;
                for (int c = 0; c < s.qk_dim; c++) own[e] += (double)q[c] * k[c];
                own_sum += own[e] = exp(own[e] * s.attention_scale);
            }
            for (int e = 0; e < r.keys; e++) p[e] += own[e] / own_sum, all += own[e] / own_sum;
        }
        for (int e = 0; e < r.keys; e++) {
            const float *k = index_key(&in, &s, r.b, key_at(&r, e));
            for (int h = 0; h < s.index_heads; h++) {
                double d = 0;
                for (int c = 0; c < s.index_dim; c++) d += (double)r.iq[h * s.index_dim + c] * k[c];
                score[e] += s.index_scale * (double)r.iw[h] * fmax(d, 0);
            }
            sum += exp(score[e]);
        }
        for (int e = 0; e < r.keys; e++)
            total += p[e] / all * (log(p[e] / all) - (score[e] - log(sum)));
    }
    free(p), free(score);
    return total / ((double)s.batch * s.tokens);
}

/* ---- measures ---- */

/* Of one query; keys: 0 if it sees no more than k. */
typedef struct Found {
    float keys, recall, mass, best;
} Found;

/* Of the two lists, both ascending: how many are in both, and what they hold of p. */
static Found compare(const int32_t *best, const int32_t *own, int k, const float *p) {
    Found found = {.keys = 1};
    for (int i = 0, j = 0; i < k; i++) {
        found.mass += p[own[i]], found.best += p[best[i]];
        while (j < k && best[j] < own[i]) j++;
        found.recall += (j < k && best[j] == own[i]) / (float)k;
    }
    return found;
}

void index_measure_cpu(float *out, void *scratch, IndexLossInput in, IndexLossShape s) {
    (void)scratch;
    int64_t rows = (int64_t)s.batch * s.tokens,
            sampled = (rows + INDEX_MEASURED - 1) / INDEX_MEASURED;
    Found *found = must_alloc((size_t)sampled, sizeof *found);
    bool *alive = must_alloc((size_t)s.index_heads, sizeof *alive);
    in.lists = NULL;
#pragma omp parallel
    {
        Room room = room_open(&s);
        int32_t *lists = must_alloc((size_t)s.topk * 2, sizeof *lists);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < sampled; i++) {
            /* the last of every few, for the first see next to nothing */
            int64_t row =
                (i + 1) * INDEX_MEASURED - 1 < rows ? (i + 1) * INDEX_MEASURED - 1 : rows - 1;
            Row r = row_of(&in, &s, (int)(row / s.tokens), (int)(row % s.tokens));
            index_row(room.scores, room.products, &r, &in, &s);
            for (int j = 0; j < r.keys * s.index_heads; j++)
                if (room.products[j] > 0)
#pragma omp atomic write
                    alive[j % s.index_heads] = true;
            if (r.keys <= s.topk) continue;
            attention_row(room.p, room.one, &r, &in, &s, NULL);
            top_k_row_cpu(lists, room.p, r.keys, s.topk);
            top_k_row_cpu(lists + s.topk, room.scores, r.keys, s.topk);
            found[i] = compare(lists, lists + s.topk, s.topk, room.p);
        }
        free(lists);
        free(room.p);
    }
    memset(out, 0, 5 * sizeof *out);
    for (int64_t i = 0; i < sampled; i++)
        out[0] += found[i].keys, out[1] += found[i].recall, out[2] += found[i].mass,
            out[3] += found[i].best;
    for (int h = 0; h < s.index_heads; h++) out[4] += alive[h];
    free(found), free(alive);
}

void index_mean_cpu(float *mean, const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    *mean = (float)(sum / (double)n);
}

void index_multiply_cpu(float *to, int add, const float *from, const float *factor, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = (add ? to[i] : 0) + *factor * from[i];
}
