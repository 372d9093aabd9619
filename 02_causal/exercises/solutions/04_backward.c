/*
 * Solution 02.4. One function a row, so that the indices stay out of the formulas.
 *
 * Two tempting mistakes: to clear dk and dv inside the loop over query heads, where with grouped
 * heads the second head of a group wipes out the first one's sum; and to leave `scale` out of ds,
 * since p already has it. It belongs there a second time, for s = scale q . k, and dq needs the
 * derivative of that.
 */
#include "02_causal/causal.h"

#include <math.h>

static double dot(const float *a, const float *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

static int64_t at(HeadStrides s, int b, int t, int h) {
    return b * s.batch + t * s.token + h * s.head;
}

static void clear(float *x, HeadStrides s, int batch, int tokens, int heads, int columns) {
    for (int b = 0; b < batch; b++)
        for (int t = 0; t < tokens; t++)
            for (int h = 0; h < heads; h++)
                for (int c = 0; c < columns; c++) x[at(s, b, t, h) + c] = 0;
}

/* to += a x */
static void add_scaled(float *to, double a, const float *x, int n) {
    for (int i = 0; to && i < n; i++) to[i] += (float)(a * x[i]);
}

void causal_reference_backward_cpu(float *dq, int add_q, float *dk, int add_k, float *dv, int add_v,
                                   const float *d_o, const float *q, const float *k, const float *v,
                                   const float *o, const float *lse, AttentionShape s) {
    if (dq && !add_q) clear(dq, s.q, s.batch, s.q_len, s.heads, s.qk_dim);
    if (dk && !add_k) clear(dk, s.k, s.batch, s.kv_len, s.kv_heads, s.qk_dim);
    if (dv && !add_v) clear(dv, s.v, s.batch, s.kv_len, s.kv_heads, s.v_dim);
    for (int b = 0; b < s.batch; b++)
        for (int h = 0; h < s.heads; h++)
            for (int i = 0; i < s.q_len; i++) {
                int64_t q_i = at(s.q, b, i, h), o_i = at(s.o, b, i, h);
                double delta = dot(d_o + o_i, o + o_i, s.v_dim);
                double lse_i = lse[((int64_t)b * s.heads + h) * s.q_len + i];
                for (int j = 0; j < attention_keys_seen(&s, i); j++) {
                    int64_t k_j = at(s.k, b, j, h / (s.heads / s.kv_heads));
                    int64_t v_j = at(s.v, b, j, h / (s.heads / s.kv_heads));
                    double p = exp(s.scale * dot(q + q_i, k + k_j, s.qk_dim) - lse_i);
                    double ds = s.scale * p * (dot(d_o + o_i, v + v_j, s.v_dim) - delta);
                    add_scaled(dq ? dq + q_i : NULL, ds, k + k_j, s.qk_dim);
                    add_scaled(dk ? dk + k_j : NULL, ds, q + q_i, s.qk_dim);
                    add_scaled(dv ? dv + v_j : NULL, p, d_o + o_i, s.v_dim);
                }
            }
}
