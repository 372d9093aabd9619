/*
 * Solution 10.13. Attention's scores come back without their scale, so p is not attention's (its
 * sum is not even 1); and where ReLU gave nothing, it passes a gradient on. The first makes the
 * indexer learn another distribution; the second moves heads by what they did not say. (Tempting:
 * the factor 1 / (batch T) in the gradient and not in the losses. The losses are the rows', and
 * their mean is taken elsewhere; the gradient is that of the mean.)
 */
#include "10_full_model/sparse/index_loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static float dot(const float *a, const float *b, int n) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

void index_loss_cpu(float *losses, float *dq, float *dk, float *dw, void *scratch,
                    IndexLossInput in, IndexLossShape s) {
    int T = s.tokens, H = s.heads, G = s.kv_heads, D = s.qk_dim, Hi = s.index_heads,
        Di = s.index_dim;
    const float *q = in.q, *k = in.k, *iq = in.iq, *ik = in.ik;
    (void)scratch;
    float *p = must_alloc((size_t)T, sizeof *p), *score = must_alloc((size_t)T, sizeof *score);
    size_t queries = (size_t)(s.batch * T * Hi), keys = (size_t)(s.batch * T);
    if (dq) memset(dq, 0, queries * (size_t)Di * 4), memset(dw, 0, queries * 4);
    if (dk) memset(dk, 0, keys * (size_t)Di * 4);
    for (int row = 0; row < s.batch * T; row++) {
        int b = row / T, t = row % T, n = 0;
        int32_t *key = must_alloc((size_t)T, sizeof *key);
        for (int j = 0; !in.lists && j <= t; j++) key[n++] = b * T + j;
        for (int e = 0; in.lists && e < s.count && in.lists[row * s.count + e] >= 0; e++)
            key[n++] = b * T + in.lists[row * s.count + e];
        float top = -INFINITY, sum = 0;
        for (int e = 0; e < n; e++) {
            p[e] = score[e] = 0;
            for (int h = 0; h < H; h++)
                p[e] += expf(s.attention_scale *
                                 dot(q + (row * H + h) * D, k + (key[e] * G + h % G) * D, D) -
                             in.lse[(b * H + h) * T + t]) /
                        (float)H;
            for (int h = 0; h < Hi; h++)
                score[e] += s.index_scale * in.iw[row * Hi + h] *
                            fmaxf(0, dot(iq + (row * Hi + h) * Di, ik + key[e] * Di, Di));
            top = fmaxf(top, score[e]);
        }
        for (int e = 0; e < n; e++) sum += expf(score[e] - top);
        float lse = top + logf(sum);
        losses[row] = 0;
        for (int e = 0; e < n; e++) {
            if (p[e] > 0) losses[row] += p[e] * (logf(p[e]) - (score[e] - lse));
            float g = s.index_scale * (expf(score[e] - lse) - p[e]) / (float)(s.batch * T);
            for (int h = 0; h < Hi && dq; h++) {
                const float *q_h = iq + (row * Hi + h) * Di, *k_e = ik + key[e] * Di;
                float product = dot(q_h, k_e, Di), w = in.iw[row * Hi + h];
                if (product <= 0) continue; /* ReLU */
                dw[row * Hi + h] += g * product;
                for (int c = 0; c < Di; c++) {
                    dq[(row * Hi + h) * Di + c] += g * w * k_e[c];
                    dk[key[e] * Di + c] += g * w * q_h[c];
                }
            }
        }
        free(key);
    }
    free(p), free(score);
}
