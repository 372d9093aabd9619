/*
 * Solution 04.9. The norm is c's alone, and a score is a sum of nope + rope products, so the scale
 * is one over the root of that. Both mistakes vanish when rope is 0, which is what was tried. It is
 * tempting to give k_rope the norm's factor as well; but nothing is made from k_rope, and V2 leaves
 * it as it is.
 */
#include "04_mla/exercises/plain_mla.h"

#include <math.h>
#include <string.h>

enum { MOST_TOKENS = 64, MOST_LATENT = 128, MOST_HEAD = 64 };

/* y [out] = W x, W [out, in] */
static void times(float *y, const float *w, const float *x, int out, int in) {
    for (int i = 0; i < out; i++) {
        y[i] = 0;
        for (int j = 0; j < in; j++) y[i] += w[i * in + j] * x[j];
    }
}

void plain_mla(float *y, const float *x, PlainWeights w, const MlaConfig *cfg, int T) {
    int hidden = cfg->hidden_size, H = cfg->num_attention_heads, rank = cfg->kv_lora_rank;
    int nope = cfg->qk_nope_head_dim, rope = cfg->qk_rope_head_dim, v = cfg->v_head_dim;
    float latent[MOST_TOKENS][MOST_LATENT];
    for (int t = 0; t < T; t++) {
        float square = 0;
        times(latent[t], w.kv_a, x + t * hidden, rank + rope, hidden);
        for (int i = 0; i < rank; i++) square += latent[t][i] * latent[t][i];
        float rstd = 1 / sqrtf(square / (float)rank + MLA_NORM_EPS);
        for (int i = 0; i < rank; i++) latent[t][i] *= rstd * w.norm[i];
    }
    memset(y, 0, sizeof *y * (size_t)(T * hidden));
    for (int h = 0; h < H; h++) {
        const float *w_q = w.q + h * (nope + rope) * hidden, *w_uk = w.kv_b + h * (nope + v) * rank;
        for (int t = 0; t < T; t++) {
            float q[MOST_HEAD], k[MOST_HEAD], value[MOST_HEAD], o[MOST_HEAD] = {0};
            float p[MOST_TOKENS], top = -INFINITY, sum = 0;
            times(q, w_q, x + t * hidden, nope + rope, hidden);
            for (int s = 0; s <= t; s++) {
                times(k, w_uk, latent[s], nope, rank);
                memcpy(k + nope, latent[s] + rank, sizeof *k * (size_t)rope);
                p[s] = 0;
                for (int c = 0; c < nope + rope; c++) p[s] += q[c] * k[c];
                p[s] /= sqrtf((float)(nope + rope));
                top = fmaxf(top, p[s]);
            }
            for (int s = 0; s <= t; s++) sum += p[s] = expf(p[s] - top);
            for (int s = 0; s <= t; s++) {
                times(value, w_uk + nope * rank, latent[s], v, rank);
                for (int c = 0; c < v; c++) o[c] += p[s] / sum * value[c];
            }
            for (int i = 0; i < hidden; i++)
                for (int c = 0; c < v; c++) y[t * hidden + i] += w.o[(i * H + h) * v + c] * o[c];
        }
    }
}
