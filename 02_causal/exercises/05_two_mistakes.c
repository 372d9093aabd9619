/*
 * Exercise 02.5: find the two mistakes.
 *
 * tiled_attention() is causal attention of one head: q [q_len, d], k and v [kv_len, d], o [q_len,
 * d]. The queries are the last q_len of kv_len positions. Somebody wrote it in an hour, tried it on
 * one tile of keys, and was content. Two lines are wrong. One mistake shows as soon as there is a
 * second tile; the other only with a cache, when q_len < kv_len. Mend both.
 *
 * POINTS: 2
 */
#include "02_causal/causal.h"

#include <math.h>

enum { TILE = 16 };

void tiled_attention(float *o, const float *q, const float *k, const float *v, int q_len,
                     int kv_len, int d, float scale);

void tiled_attention(float *o, const float *q, const float *k, const float *v, int q_len,
                     int kv_len, int d, float scale) {
    for (int i = 0; i < q_len; i++) {
        float m = -INFINITY, l = 0;
        for (int c = 0; c < d; c++) o[i * d + c] = 0;
        int seen = i + 1;
        for (int first = 0; first < seen; first += TILE) {
            int keys = seen - first < TILE ? seen - first : TILE;
            float s[TILE], m_new = m;
            for (int j = 0; j < keys; j++) {
                s[j] = 0;
                for (int c = 0; c < d; c++) s[j] += scale * q[i * d + c] * k[(first + j) * d + c];
                m_new = fmaxf(m_new, s[j]);
            }
            l *= expf(m - m_new);
            m = m_new;
            for (int j = 0; j < keys; j++) {
                float p = expf(s[j] - m);
                l += p;
                for (int c = 0; c < d; c++) o[i * d + c] += p * v[(first + j) * d + c];
            }
        }
        for (int c = 0; c < d; c++) o[i * d + c] /= l;
    }
}
