/*
 * Causal attention twice more, as yardsticks.
 *
 * causal_reference_*: plain loops straight from the formulas, one row of scores at a time. Slow,
 * and easy to believe: every other kernel, on every device, is compared with it.
 *
 * causal_materialised_*: what one writes first. All T x T scores of a head by one matrix product
 * (OpenBLAS), mask, softmax, a second product; the probabilities are kept for backward. Its time
 * and memory are what the lesson's charts compare the tiles with.
 */
#include "02_causal/causal.h"

#include "common/core/fastmath.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double dot(const float *a, const float *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* Offsets of row (b, token, head) in a tensor. */
static int64_t at(HeadStrides strides, int64_t b, int64_t token, int64_t head) {
    return b * strides.batch + token * strides.token + head * strides.head;
}

static double *row_of(int n) {
    double *row = must_alloc((size_t)n, sizeof(double));
    return row;
}

/* ---- the reference ---- */

void causal_reference_cpu(float *o, float *lse, const float *q, const float *k, const float *v,
                          AttentionShape shape) {
    attention_shape_check("causal_reference_cpu", &shape);
    double *p = row_of(shape.kv_len);
    for (int b = 0; b < shape.batch; b++)
        for (int h = 0; h < shape.heads; h++) {
            int h_kv = h / (shape.heads / shape.kv_heads);
            for (int i = 0; i < shape.q_len; i++) {
                const float *q_i = q + at(shape.q, b, i, h);
                float *o_i = o + at(shape.o, b, i, h);
                int seen = attention_keys_seen(&shape, i);
                double max = -INFINITY, sum = 0;
                for (int j = 0; j < seen; j++) {
                    p[j] = shape.scale * dot(q_i, k + at(shape.k, b, j, h_kv), shape.qk_dim);
                    max = fmax(max, p[j]);
                }
                for (int j = 0; j < seen; j++) sum += p[j] = exp(p[j] - max);
                for (int c = 0; c < shape.v_dim; c++) {
                    double out = 0;
                    for (int j = 0; j < seen; j++) out += p[j] * v[at(shape.v, b, j, h_kv) + c];
                    o_i[c] = (float)(out / sum);
                }
                lse[((int64_t)b * shape.heads + h) * shape.q_len + i] = (float)(max + log(sum));
            }
        }
    free(p);
}

/* One query's share of all three gradients; see causal_backward_cpu.c for the formulas. */
static void reference_backward_row(float *dq, float *dk, float *dv, const float *d_o,
                                   const float *q, const float *k, const float *v, const float *o,
                                   double lse, int seen, const AttentionShape *shape) {
    double delta = dot(d_o, o, shape->v_dim);
    for (int j = 0; j < seen; j++) {
        const float *k_j = k + j * shape->k.token, *v_j = v + j * shape->v.token;
        double p = exp(shape->scale * dot(q, k_j, shape->qk_dim) - lse);
        double ds = shape->scale * p * (dot(d_o, v_j, shape->v_dim) - delta);
        for (int c = 0; c < shape->qk_dim; c++) {
            if (dq) dq[c] += (float)(ds * k_j[c]);
            if (dk) dk[j * shape->k.token + c] += (float)(ds * q[c]);
        }
        for (int c = 0; c < shape->v_dim && dv; c++)
            dv[j * shape->v.token + c] += (float)(p * d_o[c]);
    }
}

static void clear(float *x, HeadStrides strides, int batch, int tokens, int heads, int columns) {
    for (int b = 0; b < batch; b++)
        for (int t = 0; t < tokens; t++)
            for (int h = 0; h < heads; h++)
                memset(x + at(strides, b, t, h), 0, sizeof(float) * (size_t)columns);
}

static void clear_gradients(float *dq, int add_q, float *dk, int add_k, float *dv, int add_v,
                            const AttentionShape *s) {
    if (dq && !add_q) clear(dq, s->q, s->batch, s->q_len, s->heads, s->qk_dim);
    if (dk && !add_k) clear(dk, s->k, s->batch, s->kv_len, s->kv_heads, s->qk_dim);
    if (dv && !add_v) clear(dv, s->v, s->batch, s->kv_len, s->kv_heads, s->v_dim);
}

void causal_reference_backward_cpu(float *dq, int add_q, float *dk, int add_k, float *dv, int add_v,
                                   const float *d_o, const float *q, const float *k, const float *v,
                                   const float *o, const float *lse, AttentionShape shape) {
    attention_shape_check("causal_reference_backward_cpu", &shape);
    clear_gradients(dq, add_q, dk, add_k, dv, add_v, &shape);
    for (int b = 0; b < shape.batch; b++)
        for (int h = 0; h < shape.heads; h++) {
            int h_kv = h / (shape.heads / shape.kv_heads);
            int64_t k_at = at(shape.k, b, 0, h_kv), v_at = at(shape.v, b, 0, h_kv);
            for (int i = 0; i < shape.q_len; i++) {
                int64_t q_at = at(shape.q, b, i, h), o_at = at(shape.o, b, i, h);
                reference_backward_row(dq ? dq + q_at : NULL, dk ? dk + k_at : NULL,
                                       dv ? dv + v_at : NULL, d_o + o_at, q + q_at, k + k_at,
                                       v + v_at, o + o_at,
                                       lse[((int64_t)b * shape.heads + h) * shape.q_len + i],
                                       attention_keys_seen(&shape, i), &shape);
            }
        }
}

/* ---- the T x T matrix in memory ---- */

/* C (+)= alpha op(A) op(B), row-major; the last sizes are the rows' distances. */
static void gemm(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int m, int n, int k, float alpha,
                 const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                 int64_t ldc) {
    cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
}

/* The masked softmax of one row in place: what the query does not see gets probability 0. */
static void softmax_row(float *p, int seen, int n) {
    float max = -INFINITY, sum = 0;
#pragma omp simd reduction(max : max)
    for (int j = 0; j < seen; j++) max = p[j] > max ? p[j] : max;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < seen; j++) {
        p[j] = fast_exp(p[j] - max);
        sum += p[j];
    }
    for (int j = 0; j < seen; j++) p[j] /= sum;
    for (int j = seen; j < n; j++) p[j] = 0;
}

void causal_materialised_cpu(float *o, float *p, const float *q, const float *k, const float *v,
                             AttentionShape shape) {
    attention_shape_check("causal_materialised_cpu", &shape);
    const int t = shape.q_len, s = shape.kv_len;
#pragma omp parallel for
    for (int64_t head = 0; head < (int64_t)shape.batch * shape.heads; head++) {
        int64_t b = head / shape.heads, h = head % shape.heads;
        int64_t h_kv = h / (shape.heads / shape.kv_heads);
        float *p_head = p + head * t * s;
        gemm(CblasNoTrans, CblasTrans, t, s, shape.qk_dim, shape.scale, q + at(shape.q, b, 0, h),
             shape.q.token, k + at(shape.k, b, 0, h_kv), shape.k.token, 0, p_head, s);
        for (int i = 0; i < t; i++)
            softmax_row(p_head + (int64_t)i * s, attention_keys_seen(&shape, i), s);
        gemm(CblasNoTrans, CblasNoTrans, t, shape.v_dim, s, 1, p_head, s,
             v + at(shape.v, b, 0, h_kv), shape.v.token, 0, o + at(shape.o, b, 0, h),
             shape.o.token);
    }
}

/* dS = P (dP - delta), one head, in place of dP. */
static void softmax_backward(float *dp, const float *p, int rows, int n) {
    for (int i = 0; i < rows; i++) {
        float delta = 0;
#pragma omp simd reduction(+ : delta)
        for (int j = 0; j < n; j++) delta += p[(int64_t)i * n + j] * dp[(int64_t)i * n + j];
        for (int j = 0; j < n; j++)
            dp[(int64_t)i * n + j] = p[(int64_t)i * n + j] * (dp[(int64_t)i * n + j] - delta);
    }
}

void causal_materialised_backward_cpu(float *dq, int add_q, float *dk, int add_k, float *dv,
                                      int add_v, float *scratch, const float *d_o, const float *q,
                                      const float *k, const float *v, const float *p,
                                      AttentionShape shape) {
    attention_shape_check("causal_materialised_backward_cpu", &shape);
    const int t = shape.q_len, s = shape.kv_len, group = shape.heads / shape.kv_heads;
    clear_gradients(NULL, 0, dk, add_k, dv, add_v, &shape);
    /* The heads of a group add to the same dK and dV: one thread does them all. */
#pragma omp parallel for
    for (int64_t pair = 0; pair < (int64_t)shape.batch * shape.kv_heads; pair++) {
        int64_t b = pair / shape.kv_heads, h_kv = pair % shape.kv_heads;
        int64_t k_at = at(shape.k, b, 0, h_kv), v_at = at(shape.v, b, 0, h_kv);
        for (int64_t h = h_kv * group; h < (h_kv + 1) * group; h++) {
            int64_t q_at = at(shape.q, b, 0, h), o_at = at(shape.o, b, 0, h);
            const float *p_head = p + (b * shape.heads + h) * t * s;
            float *ds = scratch + (b * shape.heads + h) * t * s;
            if (dv)
                gemm(CblasTrans, CblasNoTrans, s, shape.v_dim, t, 1, p_head, s, d_o + o_at,
                     shape.o.token, 1, dv + v_at, shape.v.token);
            gemm(CblasNoTrans, CblasTrans, t, s, shape.v_dim, 1, d_o + o_at, shape.o.token,
                 v + v_at, shape.v.token, 0, ds, s);
            softmax_backward(ds, p_head, t, s);
            if (dq)
                gemm(CblasNoTrans, CblasNoTrans, t, shape.qk_dim, s, shape.scale, ds, s, k + k_at,
                     shape.k.token, (float)add_q, dq + q_at, shape.q.token);
            if (dk)
                gemm(CblasTrans, CblasNoTrans, s, shape.qk_dim, t, shape.scale, ds, s, q + q_at,
                     shape.q.token, 1, dk + k_at, shape.k.token);
        }
    }
}
