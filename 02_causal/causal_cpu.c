/*
 * Causal attention on the CPU, forward: tiles of keys, online softmax. See causal.h for layout and
 * invariant.
 *
 * Work is cut into tiles of LANES queries of one head. A tile walks over its keys BK at a time:
 *
 *     S = K Q^T          [BK][LANES]      Q^T is packed once, with the scale multiplied in
 *     m' = max(m, max_k S)
 *     l' = l exp(m - m') + sum_k exp(S - m')
 *     O' = O exp(m - m') + V^T exp(S - m')     [v_dim][LANES]
 *
 * Keys after the tile's last query are never visited: that is the mask. Only where the diagonal
 * crosses a tile of keys are single scores set to -inf. A tile needs (MAX_DIM + MAX_DIM + BK) *
 * LANES floats of stack, whatever T is.
 *
 * A few queries at a time (decoding) would leave most lanes empty, so they go through
 * online_softmax() row by row. A tile's result depends on nothing but its own queries: the same for
 * any number of threads.
 */
#include "02_causal/causal.h"
#include "02_causal/causal_tile.h"

#include "common/core/fastmath.h"

#include <math.h>

enum { BK = 64 };            /* keys in a tile: its scores (8 KB) stay in the first-level cache */
enum { FEW_QUERIES = 5 };    /* below this, rows are faster than lanes (measured) */
enum { PREFETCH_ROWS = 16 }; /* how far ahead a single query asks for keys */
enum { PARALLEL = 1 << 18 }; /* multiply-adds below which waking threads does not pay */

typedef struct ForwardTile {
    float q[MAX_DIM * LANES], o[MAX_DIM * LANES]; /* [column][lane] */
    float s[BK * LANES];                          /* [key][lane]: scores, then exponentials */
    float m[LANES], l[LANES], rescale[LANES];
} ForwardTile;

/* One tile of `keys` scores joins the running maximum m, sum l and output o. */
static void online_update(ForwardTile *t, int keys, int v_dim) {
    float m_new[LANES], sum[LANES] = {0};
    for (int i = 0; i < LANES; i++) m_new[i] = t->m[i];
    for (int j = 0; j < keys; j++)
        for (int i = 0; i < LANES; i++) {
            float s = t->s[j * LANES + i];
            m_new[i] = s > m_new[i] ? s : m_new[i];
        }
    for (int j = 0; j < keys; j++)
        for (int i = 0; i < LANES; i++) {
            float p = fast_exp(t->s[j * LANES + i] - m_new[i]);
            t->s[j * LANES + i] = p;
            sum[i] += p;
        }
    for (int i = 0; i < LANES; i++) {
        t->rescale[i] = fast_exp(t->m[i] - m_new[i]);
        t->l[i] = t->l[i] * t->rescale[i] + sum[i];
        t->m[i] = m_new[i];
    }
    for (int c = 0; c < v_dim; c++)
        for (int i = 0; i < LANES; i++) t->o[c * LANES + i] *= t->rescale[i];
}

/* Lane i sees seen + i keys: the scores of later ones become -inf. */
static void mask_diagonal(float *s, int first_key, int keys, int seen) {
    for (int j = seen > first_key ? seen - first_key : 0; j < keys; j++)
        for (int i = 0; i < LANES && i < first_key + j - seen + 1; i++)
            s[j * LANES + i] = -INFINITY;
}

/* [forward_tile] */
/* Queries first .. first + queries - 1 of one head; the pointers are to the head's first row. */
static void forward_tile(float *o, float *lse, const float *q, const float *k, const float *v,
                         const AttentionShape *shape, int first, int queries) {
    ForwardTile t;
    int d = shape->qk_dim, dv = shape->v_dim;
    lanes_from_rows(t.q, q + first * shape->q.token, shape->q.token, queries, d);
    for (int i = 0; i < d * LANES; i++) t.q[i] *= shape->scale;
    memset(t.o, 0, sizeof(float) * (size_t)dv * LANES);
    for (int i = 0; i < LANES; i++) {
        t.m[i] = -INFINITY;
        t.l[i] = 0;
    }
    int end = attention_keys_seen(shape, first + queries - 1);
    for (int key = 0; key < end; key += BK) {
        int keys = end - key < BK ? end - key : BK;
        memset(t.s, 0, sizeof(float) * (size_t)keys * LANES);
        tile_product(t.s, LANES, k + key * shape->k.token, shape->k.token, 1, t.q, LANES, d, keys);
        if (shape->causal) mask_diagonal(t.s, key, keys, attention_keys_seen(shape, first));
        online_update(&t, keys, dv);
        tile_product(t.o, LANES, v + key * shape->v.token, 1, shape->v.token, t.s, LANES, keys, dv);
    }
    for (int c = 0; c < dv; c++)
        for (int i = 0; i < LANES; i++) t.o[c * LANES + i] /= t.l[i];
    rows_from_lanes(o + first * shape->o.token, shape->o.token, t.o, queries, dv, 0);
    for (int i = 0; i < queries; i++) lse[first + i] = t.m[i] + logf(t.l[i]);
}
/* [/forward_tile] */

/* Rows of one head lie far apart, so the processor does not guess the next one: we ask for it. */
static inline void prefetch(const float *row, int columns) {
    for (int c = 0; c < columns; c += 16)
        __builtin_prefetch(row + c); /* a cache line is 16 floats */
}

/* One query, without lanes: the scores of BK keys by dot products, then online_softmax(). */
static void forward_row(float *o, float *lse, const float *q, const float *k, const float *v,
                        const AttentionShape *shape, int query) {
    OnlineSoftmax state = {-INFINITY, 0};
    float s[BK], out[MAX_DIM] = {0};
    int d = shape->qk_dim, dv = shape->v_dim, end = attention_keys_seen(shape, query);
    const float *q_row = q + query * shape->q.token;
    for (int key = 0; key < end; key += BK) {
        int keys = end - key < BK ? end - key : BK;
        for (int j = 0; j < keys; j++) {
            const float *k_row = k + (key + j) * shape->k.token;
            prefetch(v + (key + j) * shape->v.token, dv);
            prefetch(k_row + PREFETCH_ROWS * shape->k.token, d);
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int c = 0; c < d; c++) dot += q_row[c] * k_row[c];
            s[j] = dot * shape->scale;
        }
        online_softmax(&state, out, s, keys, v + key * shape->v.token, shape->v.token, dv);
    }
    for (int c = 0; c < dv; c++) o[query * shape->o.token + c] = out[c] / state.l;
    lse[query] = state.m + logf(state.l);
}

void causal_forward_cpu(float *o, float *lse, const float *q, const float *k, const float *v,
                        AttentionShape shape) {
    attention_shape_check("causal_forward_cpu", &shape);
    const int step = shape.q_len < FEW_QUERIES && !shape.tiles ? 1 : LANES;
    const int group = shape.heads / shape.kv_heads;
    const int tiles = (shape.q_len + step - 1) / step;
    const int64_t tasks = (int64_t)shape.batch * shape.heads * tiles;
    const int64_t work = (int64_t)shape.batch * shape.heads * shape.q_len * shape.kv_len *
                         (shape.qk_dim + shape.v_dim);

    /* Head by head, so that its keys are still in the cache. Later queries see more keys: they come
     * first, so that no long task begins when the others are done. */
#pragma omp parallel for schedule(dynamic) if (work > PARALLEL)
    for (int64_t task = tasks - 1; task >= 0; task--) {
        int64_t head_index = task / tiles;
        int first = (int)(task % tiles) * step;
        int64_t b = head_index / shape.heads, h = head_index % shape.heads;
        float *o_head = o + b * shape.o.batch + h * shape.o.head;
        float *lse_head = lse + head_index * shape.q_len;
        const float *q_head = q + b * shape.q.batch + h * shape.q.head;
        const float *k_head = k + b * shape.k.batch + h / group * shape.k.head;
        const float *v_head = v + b * shape.v.batch + h / group * shape.v.head;
        if (step == 1)
            forward_row(o_head, lse_head, q_head, k_head, v_head, &shape, first);
        else
            forward_tile(o_head, lse_head, q_head, k_head, v_head, &shape, first,
                         shape.q_len - first < LANES ? shape.q_len - first : LANES);
    }
}
