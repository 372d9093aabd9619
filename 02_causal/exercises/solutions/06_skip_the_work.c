/*
 * Solution 02.6. The mask is an interval of keys, so it is two loop bounds and no comparison of
 * single scores. Tempting: first = end - window without a look at its sign, which reads keys before
 * the first.
 */
#include <math.h>

typedef float (*Dot)(const float *a, const float *b, int n);

void scores(float *s, const float *q, const float *k, int q_len, int kv_len, int d, int window,
            Dot dot);

void scores(float *s, const float *q, const float *k, int q_len, int kv_len, int d, int window,
            Dot dot) {
    for (int i = 0; i < q_len; i++) {
        int end = kv_len - q_len + i + 1;
        int first = window > 0 && end > window ? end - window : 0;
        for (int j = 0; j < kv_len; j++) s[i * kv_len + j] = -INFINITY;
        for (int j = first; j < end; j++) s[i * kv_len + j] = dot(q + i * d, k + j * d, d);
    }
}
