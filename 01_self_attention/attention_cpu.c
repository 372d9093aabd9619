/*
 * Attention with plain loops: what the tests hold the fast one against, and the place to look when
 * the formula is clear and the code is not. One query at a time; sums in double, so that its own
 * rounding does not count.
 */
#include "01_self_attention/attention.h"

#include <math.h>
#include <stdlib.h>

static double dot(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* One query q [D] over the keys k [S, D] and values v [S, E]: weights p [S], output o [E]. */
static void one_query(float *o, float *p, const float *q, const float *k, const float *v, int64_t s,
                      int64_t d, int64_t e) {
    double max = -INFINITY, sum = 0, scale = 1 / sqrt((double)d);
    for (int64_t j = 0; j < s; j++) max = fmax(max, scale * dot(q, k + j * d, d));
    for (int64_t j = 0; j < s; j++) sum += exp(scale * dot(q, k + j * d, d) - max);
    for (int64_t j = 0; j < s; j++) p[j] = (float)(exp(scale * dot(q, k + j * d, d) - max) / sum);
    for (int64_t c = 0; c < e; c++) {
        double mean = 0;
        for (int64_t j = 0; j < s; j++) mean += (double)p[j] * v[j * e + c];
        o[c] = (float)mean;
    }
}

void attention_reference_forward_cpu(float *o, float *weights, const float *q, const float *k,
                                     const float *v, int64_t batch, int64_t t, int64_t s, int64_t d,
                                     int64_t e) {
    for (int64_t b = 0; b < batch; b++, k += s * d, v += s * e)
        for (int64_t i = 0; i < t; i++, o += e, weights += s, q += d)
            one_query(o, weights, q, k, v, s, d, e);
}

/*
 * From the last step to the first, with P = softmax(S) and S = Q K^T / sqrt(D):
 *     dV = P^T dO,   dP = dO V^T,   dS = P (dP - rowsum(dP P)),
 *     dQ = dS K / sqrt(D),   dK = dS^T Q / sqrt(D)
 */
void attention_reference_backward_cpu(float *dq, float *dk, float *dv, const float *d_o,
                                      const float *weights, const float *q, const float *k,
                                      const float *v, int64_t batch, int64_t t, int64_t s,
                                      int64_t d, int64_t e) {
    double *sum_k = must_alloc((size_t)(batch * s * d), sizeof *sum_k);
    double *sum_v = must_alloc((size_t)(batch * s * e), sizeof *sum_v);
    double *dp = must_alloc((size_t)s, sizeof *dp);
    double scale = 1 / sqrt((double)d);
    for (int64_t row = 0; row < batch * t; row++) { /* one query */
        int64_t first = row / t * s;                /* its sequence's first key */
        const float *p = weights + row * s, *g = d_o + row * e;
        double mean = 0;
        for (int64_t j = 0; j < s; j++) {
            dp[j] = dot(g, v + (first + j) * e, e);
            mean += dp[j] * p[j];
            for (int64_t c = 0; c < e; c++) sum_v[(first + j) * e + c] += (double)p[j] * g[c];
        }
        for (int64_t c = 0; c < d; c++) {
            double sum = 0;
            for (int64_t j = 0; j < s; j++) {
                double ds = p[j] * (dp[j] - mean);
                sum += ds * k[(first + j) * d + c];
                sum_k[(first + j) * d + c] += scale * ds * q[row * d + c];
            }
            dq[row * d + c] = (float)(scale * sum);
        }
    }
    for (int64_t i = 0; i < batch * s * d; i++) dk[i] = (float)sum_k[i];
    for (int64_t i = 0; i < batch * s * e; i++) dv[i] = (float)sum_v[i];
    free(sum_k);
    free(sum_v);
    free(dp);
}
