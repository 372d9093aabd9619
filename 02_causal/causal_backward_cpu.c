/*
 * Causal attention on the CPU, backward, with the same tiles as forward and no stored probability.
 *
 * For one query with probabilities p, output o = sum p_j v_j and incoming gradient do:
 *
 *     dv_j += p_j do                                 dp_j = do . v_j
 *     ds_j  = p_j (dp_j - delta)                     delta = sum_i p_i dp_i = do . o
 *     dq   += scale ds_j k_j                         dk_j += scale ds_j q
 *
 * Forward kept lse, so p_j = exp(s_j - lse): one product K Q^T more, and no T x T matrix (Dao et
 * al. 2022, alg. 4). Five products a tile, each of them tile_product(). In S, dP and dQ a lane is a
 * query, as in forward; dK and dV are sums over queries, so there the queries are the depth of the
 * product and a lane is a column.
 *
 * Which task owns what. dK and dV of a key collect from all later queries and from all query heads
 * of its group, in one fixed order: a task is one (batch, key head), and writes them directly. With
 * few heads that leaves threads idle, so the query tiles are dealt out to `chunks` tasks, like
 * cards. The first adds into dk and dv, the others into copies in scratch, which are added up
 * afterwards, in order. chunks follows from the shape alone: so do the results.
 */
#include "02_causal/causal.h"
#include "02_causal/causal_tile.h"

#include "common/core/fastmath.h"

enum { BK = 32 }; /* keys in a tile: two tiles of scores (8 KB) beside the packed queries */
enum { ENOUGH_TASKS = 8 }; /* with fewer (batch, key head) pairs than this, chunks */
enum { PARALLEL = 1 << 18 };

typedef struct BackwardTile {
    /* [column][lane] */
    float q[MAX_DIM * LANES], d_o[MAX_DIM * LANES], dq[MAX_DIM * LANES];
    /* [lane][column]: the same Q and dO once more, the columns padded to whole LANES */
    float q_rows[LANES * MAX_DIM], d_o_rows[LANES * MAX_DIM];
    float p[BK * LANES], ds[BK * LANES]; /* [key][lane] */
    float lse[LANES], delta[LANES];
} BackwardTile;

/* Where a task's gradients of K and V go: first row and row distance. NULL: not wanted. */
typedef struct KeyGradients {
    float *dk, *dv;
    int64_t dk_row, dv_row;
} KeyGradients;

/* The pointers of one (batch, query head). */
typedef struct Head {
    const float *q, *k, *v, *o, *d_o, *lse;
    float *dq;
} Head;

static int padded(int columns) { return (columns + LANES - 1) / LANES * LANES; }

static int chunks_of(const AttentionShape *shape) {
    int64_t pairs = (int64_t)shape->batch * shape->kv_heads;
    int64_t wanted = (ENOUGH_TASKS + pairs - 1) / pairs;
    int64_t tiles = (shape->q_len + LANES - 1) / LANES;
    return (int)(wanted < tiles ? wanted : tiles);
}

size_t causal_backward_scratch_cpu(AttentionShape shape) {
    int64_t copies = chunks_of(&shape) - 1;
    return sizeof(float) * (size_t)(copies * shape.batch * shape.kv_heads * shape.kv_len *
                                    (shape.qk_dim + shape.v_dim));
}

/* c[r][0..columns) += sum_k a[r][k] b[k][0..columns), a in rows of LANES; columns may be ragged. */
static void add_rows(float *c, int64_t c_row, const float *a, const float *b, int b_row, int depth,
                     int rows, int columns) {
    int column = 0;
    for (; column + LANES <= columns; column += LANES)
        tile_product(c + column, c_row, a, LANES, 1, b + column, b_row, depth, rows);
    if (column == columns) return;
    float edge[BK * LANES];
    memset(edge, 0, sizeof(float) * (size_t)rows * LANES);
    tile_product(edge, LANES, a, LANES, 1, b + column, b_row, depth, rows);
    for (int r = 0; r < rows; r++)
        for (int i = column; i < columns; i++) c[r * c_row + i] += edge[r * LANES + i - column];
}

/* to[lane][column] = scale * from[lane][column]; padding and lanes without a query are 0. */
static void pack_rows(float *to, const float *from, int64_t from_row, int rows, int columns,
                      float scale) {
    int width = padded(columns);
    memset(to, 0, sizeof(float) * (size_t)width * LANES);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) to[r * width + c] = from[r * from_row + c] * scale;
}

static void pack_queries(BackwardTile *t, const Head *head, const AttentionShape *shape, int first,
                         int queries) {
    int d = shape->qk_dim, dv = shape->v_dim;
    const float *q = head->q + first * shape->q.token;
    const float *o = head->o + first * shape->o.token, *d_o = head->d_o + first * shape->o.token;
    pack_rows(t->q_rows, q, shape->q.token, queries, d, shape->scale);
    pack_rows(t->d_o_rows, d_o, shape->o.token, queries, dv, 1.0f);
    lanes_from_rows(t->q, t->q_rows, padded(d), queries, d);
    lanes_from_rows(t->d_o, t->d_o_rows, padded(dv), queries, dv);
    memset(t->dq, 0, sizeof(float) * (size_t)d * LANES);
    for (int i = 0; i < LANES; i++) {
        float delta = 0;
        if (i < queries) {
#pragma omp simd reduction(+ : delta)
            for (int c = 0; c < dv; c++)
                delta += o[i * shape->o.token + c] * t->d_o_rows[i * padded(dv) + c];
        }
        t->delta[i] = delta;
        t->lse[i] = i < queries ? head->lse[first + i] : 0;
    }
}

/* [probabilities] */
/* p from s and lse, dS from dP. Lane i sees seen + i keys: the ones after them get 0. */
static void softmax_backward(BackwardTile *t, int first_key, int keys, int seen) {
    for (int j = 0; j < keys; j++) {
        float *p = t->p + j * LANES, *ds = t->ds + j * LANES;
        for (int i = 0; i < LANES; i++) {
            p[i] = fast_exp(p[i] - t->lse[i]);
            ds[i] = p[i] * (ds[i] - t->delta[i]);
        }
        for (int i = 0; i < LANES && i < first_key + j - seen + 1; i++) p[i] = ds[i] = 0;
    }
}
/* [/probabilities] */

static void backward_tile(const Head *head, const KeyGradients *out, int add_q,
                          const AttentionShape *shape, int first, int queries) {
    BackwardTile t;
    int d = shape->qk_dim, dv = shape->v_dim;
    int64_t k_row = shape->k.token, v_row = shape->v.token;
    pack_queries(&t, head, shape, first, queries);
    int seen = attention_keys_seen(shape, first);
    int end = attention_keys_seen(shape, first + queries - 1);
    for (int key = 0; key < end; key += BK) {
        int keys = end - key < BK ? end - key : BK;
        const float *k = head->k + key * k_row, *v = head->v + key * v_row;
        memset(t.p, 0, sizeof(float) * (size_t)keys * LANES);
        memset(t.ds, 0, sizeof(float) * (size_t)keys * LANES);
        tile_product(t.p, LANES, k, k_row, 1, t.q, LANES, d, keys);     /* S  = K Q^T  */
        tile_product(t.ds, LANES, v, v_row, 1, t.d_o, LANES, dv, keys); /* dP = V dO^T */
        softmax_backward(&t, key, keys, seen);
        if (out->dv) /* dV += P^T dO */
            add_rows(out->dv + key * out->dv_row, out->dv_row, t.p, t.d_o_rows, padded(dv), LANES,
                     keys, dv);
        if (out->dk) /* dK += dS^T Q */
            add_rows(out->dk + key * out->dk_row, out->dk_row, t.ds, t.q_rows, padded(d), LANES,
                     keys, d);
        if (head->dq) /* dQ += dS K   */
            tile_product(t.dq, LANES, k, 1, k_row, t.ds, LANES, keys, d);
    }
    if (!head->dq) return;
    for (int i = 0; i < d * LANES; i++) t.dq[i] *= shape->scale;
    rows_from_lanes(head->dq + first * shape->q.token, shape->q.token, t.dq, queries, d, add_q);
}

/* rows x columns zeros, the rows `row` apart. */
static void clear_rows(float *to, int64_t row, int rows, int columns) {
    for (int r = 0; r < rows; r++) memset(to + r * row, 0, sizeof(float) * (size_t)columns);
}

/* Chunk > 0 of one (batch, key head): a dk [kv_len, qk_dim], then a dv [kv_len, v_dim]. */
static float *copy_of(float *scratch, const AttentionShape *shape, int64_t pair, int chunk) {
    int64_t pairs = (int64_t)shape->batch * shape->kv_heads;
    return scratch + ((chunk - 1) * pairs + pair) * shape->kv_len * (shape->qk_dim + shape->v_dim);
}

static void add_copy(float *to, int64_t to_row, const float *copy, int rows, int columns) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) to[r * to_row + c] += copy[r * columns + c];
}

void causal_backward_cpu(float *dq, int add_q, float *dk, int add_k, float *dv, int add_v,
                         float *scratch, const float *d_o, const float *q, const float *k,
                         const float *v, const float *o, const float *lse, AttentionShape shape) {
    attention_shape_check("causal_backward_cpu", &shape);
    if (!dq && !dk && !dv) return;
    const int group = shape.heads / shape.kv_heads, chunks = chunks_of(&shape);
    const int64_t pairs = (int64_t)shape.batch * shape.kv_heads;
    const int64_t work = pairs * group * shape.q_len * shape.kv_len * (shape.qk_dim + shape.v_dim);

#pragma omp parallel for schedule(dynamic) if (work > PARALLEL)
    for (int64_t task = 0; task < pairs * chunks; task++) {
        int64_t pair = task % pairs, b = pair / shape.kv_heads, h_kv = pair % shape.kv_heads;
        int chunk = (int)(task / pairs);
        int64_t k_at = b * shape.k.batch + h_kv * shape.k.head;
        int64_t v_at = b * shape.v.batch + h_kv * shape.v.head;
        KeyGradients out = {dk ? dk + k_at : NULL, dv ? dv + v_at : NULL, shape.k.token,
                            shape.v.token};
        if (chunk > 0) {
            float *copy = copy_of(scratch, &shape, pair, chunk);
            out = (KeyGradients){dk ? copy : NULL,
                                 dv ? copy + (int64_t)shape.kv_len * shape.qk_dim : NULL,
                                 shape.qk_dim, shape.v_dim};
        }
        if (out.dk && (chunk || !add_k)) clear_rows(out.dk, out.dk_row, shape.kv_len, shape.qk_dim);
        if (out.dv && (chunk || !add_v)) clear_rows(out.dv, out.dv_row, shape.kv_len, shape.v_dim);
        for (int64_t h = h_kv * group; h < (h_kv + 1) * group; h++) {
            int64_t q_at = b * shape.q.batch + h * shape.q.head;
            int64_t o_at = b * shape.o.batch + h * shape.o.head;
            Head head = {q + q_at,
                         k + k_at,
                         v + v_at,
                         o + o_at,
                         d_o + o_at,
                         lse + (b * shape.heads + h) * shape.q_len,
                         dq ? dq + q_at : NULL};
            for (int first = chunk * LANES; first < shape.q_len; first += chunks * LANES)
                backward_tile(&head, &out, add_q, &shape, first,
                              shape.q_len - first < LANES ? shape.q_len - first : LANES);
        }
    }
    if (chunks == 1) return;
#pragma omp parallel for if (work > PARALLEL)
    for (int64_t pair = 0; pair < pairs; pair++) {
        int64_t b = pair / shape.kv_heads, h = pair % shape.kv_heads;
        for (int chunk = 1; chunk < chunks; chunk++) {
            const float *copy = copy_of(scratch, &shape, pair, chunk);
            if (dk)
                add_copy(dk + b * shape.k.batch + h * shape.k.head, shape.k.token, copy,
                         shape.kv_len, shape.qk_dim);
            if (dv)
                add_copy(dv + b * shape.v.batch + h * shape.v.head, shape.v.token,
                         copy + (int64_t)shape.kv_len * shape.qk_dim, shape.kv_len, shape.v_dim);
        }
    }
}
