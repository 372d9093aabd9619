/*
 * Attention over selected keys on the CPU: plain loops, the online softmax of chapter 02 one key at
 * a time.
 *
 * Backward brings each probability back from lse: p = e^(s - lse), ds = p (dp - delta) with
 * delta = do . o (chapter 02). dq is a sum over a query's keys, dk and dv are sums over a key's
 * queries, always in the same order: so no result depends on the number of threads.
 */
#include "04_mla/selection.h"

#include <math.h>
#include <string.h>

void selected_mask_cpu(uint8_t *mask, const int32_t *selected, SelectedShape s) {
    int T = s.attention.q_len, S = s.attention.kv_len;
    memset(mask, 0, (size_t)s.attention.batch * (size_t)T * (size_t)S);
    for (int64_t row = 0; row < (int64_t)s.attention.batch * T; row++) {
        int seen = selected_keys_seen(&s, (int)(row / T), (int)(row % T));
        for (int i = 0; i < s.count; i++) {
            int j = selected[row * s.count + i];
            if (j >= 0 && j < seen && j < S) mask[row * S + j] = 1;
        }
    }
}

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

void selected_forward_cpu(float *o, float *lse, const float *q, const float *k, const float *v,
                          const uint8_t *mask, SelectedShape s) {
    const AttentionShape *a = &s.attention;
#pragma omp parallel for schedule(dynamic)
    for (int64_t row = 0; row < (int64_t)a->batch * a->heads * a->q_len; row++) {
        int t = (int)(row % a->q_len), h = (int)(row / a->q_len % a->heads);
        int b = (int)(row / a->q_len / a->heads);
        const uint8_t *seen = mask + ((int64_t)b * a->q_len + t) * a->kv_len;
        float *out = o + at(a->o, b, t, h), m = -INFINITY, l = 0;
        memset(out, 0, sizeof(float) * (size_t)a->v_dim);
        for (int j = 0; j < a->kv_len; j++) {
            if (!seen[j]) continue;
            float score = a->scale *
                          dot(q + at(a->q, b, t, h), k + selected_at(&s, a->k, b, j, h), a->qk_dim);
            float top = fmaxf(m, score), rescale = expf(m - top), p = expf(score - top);
            for (int c = 0; c < a->v_dim; c++) out[c] *= rescale;
            plus(out, p, v + selected_at(&s, a->v, b, j, h), a->v_dim);
            l = l * rescale + p, m = top;
        }
        for (int c = 0; c < a->v_dim && l > 0; c++) out[c] /= l;
        if (lse) lse[row] = m + logf(l);
    }
}

/* What a pair of a query and a key it selected gives to the gradients. */
typedef struct Pair {
    float p, ds; /* the probability; the score's gradient, times the scale */
} Pair;

static Pair pair_of(const float *d_o, const float *o, const float *q, const float *k,
                    const float *v, float lse, const AttentionShape *a) {
    float p = expf(a->scale * dot(q, k, a->qk_dim) - lse);
    return (Pair){p, a->scale * p * (dot(d_o, v, a->v_dim) - dot(d_o, o, a->v_dim))};
}

void selected_backward_cpu(float *dq, int add_q, float *dk, int add_k, float *dv, int add_v,
                           const float *d_o, const float *q, const float *k, const float *v,
                           const float *o, const float *lse, const uint8_t *mask, SelectedShape s) {
    const AttentionShape *a = &s.attention;
    CHECK(!s.block_table && a->kv_heads == a->heads, "selected_backward: keys of their own heads");
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < (int64_t)a->batch * a->heads; i++) {
        int b = (int)(i / a->heads), h = (int)(i % a->heads);
        for (int t = 0; t < a->q_len && dq && !add_q; t++)
            memset(dq + at(a->q, b, t, h), 0, sizeof(float) * (size_t)a->qk_dim);
        for (int j = 0; j < a->kv_len; j++) {
            if (dk && !add_k) memset(dk + at(a->k, b, j, h), 0, sizeof(float) * (size_t)a->qk_dim);
            if (dv && !add_v) memset(dv + at(a->v, b, j, h), 0, sizeof(float) * (size_t)a->v_dim);
        }
        for (int t = 0; t < a->q_len; t++)
            for (int j = 0; j < a->kv_len; j++) {
                if (!mask[((int64_t)b * a->q_len + t) * a->kv_len + j]) continue;
                const float *q_t = q + at(a->q, b, t, h), *k_j = k + at(a->k, b, j, h);
                const float *d_o_t = d_o + at(a->o, b, t, h);
                Pair pair = pair_of(d_o_t, o + at(a->o, b, t, h), q_t, k_j, v + at(a->v, b, j, h),
                                    lse[i * a->q_len + t], a);
                if (dq) plus(dq + at(a->q, b, t, h), pair.ds, k_j, a->qk_dim);
                if (dk) plus(dk + at(a->k, b, j, h), pair.ds, q_t, a->qk_dim);
                if (dv) plus(dv + at(a->v, b, j, h), pair.p, d_o_t, a->v_dim);
            }
    }
}
