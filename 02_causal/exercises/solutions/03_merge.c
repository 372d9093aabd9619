/*
 * Solution 02.3. Merging is symmetric and associative, so any number of workers may be merged in
 * any order; the order changes only the rounding.
 *
 * Tempting: to merge the finished outputs, (o_a + o_b) / 2 or by the numbers of keys. A share is a
 * share of all keys' exponentials, so the sums must be brought to one maximum first. And with two
 * empty workers the difference of their maxima is -infinity less -infinity, which is no number.
 */
#include "02_causal/causal.h"

#include <math.h>

void merge(OnlineSoftmax *a, float *o_a, const OnlineSoftmax *b, const float *o_b, int v_dim);

void merge(OnlineSoftmax *a, float *o_a, const OnlineSoftmax *b, const float *o_b, int v_dim) {
    float m = fmaxf(a->m, b->m);
    float weight_a = a->m == -INFINITY ? 0 : expf(a->m - m); /* -inf - -inf would be NaN */
    float weight_b = b->m == -INFINITY ? 0 : expf(b->m - m);
    a->m = m;
    a->l = weight_a * a->l + weight_b * b->l;
    for (int c = 0; c < v_dim; c++) o_a[c] = weight_a * o_a[c] + weight_b * o_b[c];
}
