/*
 * Solution 08.9: sum of (c - 8) a = sum of c a - 8 sum of a, and the second sum knows nothing of
 * the row: it is made once for each group of a. A row's sum begins at it. (Tempting: to subtract 8
 * sum of a at the end of each row's group, which is right and costs an operation more for each of
 * them; a sum must begin somewhere, and it may as well begin there.)
 */
#include "08_quant/exercises/counted.h"

void int4_product(float *y, CountedWeight w, const int8_t *a, const float *scale_a) {
    int half = w.group / 2, groups = w.in / w.group, begin[groups];
    for (int g = 0; g < groups; g++) {
        int sum = 0;
        for (int i = 0; i < w.group; i++) sum = counted_add(sum, a[g * w.group + i]);
        begin[g] = counted_multiply(sum, -8);
    }
    for (int o = 0; o < w.out; o++) {
        y[o] = 0;
        for (int g = 0; g < groups; g++) {
            const uint8_t *codes = w.codes + (o * w.in + g * w.group) / 2;
            const int8_t *its = a + g * w.group;
            int sum = begin[g];
            for (int i = 0; i < half; i++) {
                sum = counted_add(sum, counted_multiply(codes[i] & 15, its[i]));
                sum = counted_add(sum, counted_multiply(codes[i] >> 4, its[half + i]));
            }
            y[o] += w.scales[o * groups + g] * scale_a[g] * (float)sum;
        }
    }
}
