/*
 * Solution 03.5: neighbours share a key head, and v is shared like k. h % H_kv is tempting because
 * it is right at both ends, with H_kv = H and with H_kv = 1: try the middle.
 */
#include <math.h>

enum { MOST_TOKENS = 256 }; /* that the caller may have */

void grouped_attention(float *o, const float *q, const float *k, const float *v, int T, int H,
                       int H_kv, int D);

void grouped_attention(float *o, const float *q, const float *k, const float *v, int T, int H,
                       int H_kv, int D) {
    for (int h = 0; h < H; h++) {
        int g = h / (H / H_kv);
        for (int t = 0; t < T; t++) {
            float weight[MOST_TOKENS], top = -INFINITY, sum = 0;
            for (int s = 0; s <= t; s++) {
                weight[s] = 0;
                for (int d = 0; d < D; d++)
                    weight[s] += q[(t * H + h) * D + d] * k[(s * H_kv + g) * D + d];
                weight[s] /= sqrtf((float)D);
                top = fmaxf(top, weight[s]);
            }
            for (int s = 0; s <= t; s++) sum += weight[s] = expf(weight[s] - top);
            for (int d = 0; d < D; d++) {
                float total = 0;
                for (int s = 0; s <= t; s++) total += weight[s] / sum * v[(s * H_kv + g) * D + d];
                o[(t * H + h) * D + d] = total;
            }
        }
    }
}
