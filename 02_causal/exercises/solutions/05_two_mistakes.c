/*
 * Solution 02.5. Query i stands at position kv_len - q_len + i and sees one key more than that. And
 * o, like l, was measured against the old maximum: both are multiplied by exp(m - m_new). It is
 * tempting to divide by l at the end of each tile instead: then o / l is right after the first tile
 * and wrong after every other.
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
        int seen = kv_len - q_len + i + 1;
        for (int first = 0; first < seen; first += TILE) {
            int keys = seen - first < TILE ? seen - first : TILE;
            float s[TILE], m_new = m;
            for (int j = 0; j < keys; j++) {
                s[j] = 0;
                for (int c = 0; c < d; c++) s[j] += scale * q[i * d + c] * k[(first + j) * d + c];
                m_new = fmaxf(m_new, s[j]);
            }
            l *= expf(m - m_new);
            for (int c = 0; c < d; c++) o[i * d + c] *= expf(m - m_new);
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
