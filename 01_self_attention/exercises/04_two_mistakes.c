/*
 * Exercise 01.4: find the two mistakes.
 *
 * attention_head() is unmasked attention of one head: q [t, d], k and v [s, d], o [t, d]. Somebody
 * tried it on four tokens, as many queries as keys, with friendly numbers, and was content. Two
 * lines are wrong. Mend both.
 *
 * POINTS: 2
 */
#include <math.h>

enum { MOST_KEYS = 256 }; /* that the caller may have */

void attention_head(float *o, const float *q, const float *k, const float *v, int t, int s, int d);

void attention_head(float *o, const float *q, const float *k, const float *v, int t, int s, int d) {
    float scale = 1 / sqrtf((float)d);
    for (int i = 0; i < t; i++) {
        float score[MOST_KEYS], max = 0, sum = 0;
        for (int j = 0; j < s; j++) {
            score[j] = 0;
            for (int c = 0; c < d; c++) score[j] += scale * q[i * d + c] * k[j * d + c];
            max = fmaxf(max, score[j]);
        }
        for (int j = 0; j < t; j++) sum += expf(score[j] - max);
        for (int c = 0; c < d; c++) {
            o[i * d + c] = 0;
            for (int j = 0; j < s; j++) o[i * d + c] += expf(score[j] - max) / sum * v[j * d + c];
        }
    }
}
