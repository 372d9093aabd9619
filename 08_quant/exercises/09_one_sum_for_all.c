/*
 * Exercise 08.9: one sum for all rows.
 *
 * Graded by a count. int4_product() below is right (counted.h has the shapes): it takes 8 off each
 * code before it multiplies, so each number costs three operations: an addition for the 8, a
 * multiplication, and an addition to the sum. The instruction that fast kernels live on multiplies
 * the codes as they are. Do the same: two operations for each number of the weight, and
 * 2 in + 2 (in / group) more for everything else, however many rows there are.
 *
 * POINTS: 3
 */
#include "08_quant/exercises/counted.h"

void int4_product(float *y, CountedWeight w, const int8_t *a, const float *scale_a) {
    int half = w.group / 2, groups = w.in / w.group;
    for (int o = 0; o < w.out; o++) {
        y[o] = 0;
        for (int g = 0; g < groups; g++) {
            const uint8_t *codes = w.codes + (o * w.in + g * w.group) / 2;
            const int8_t *its = a + g * w.group;
            int sum = 0;
            for (int i = 0; i < half; i++) {
                sum = counted_add(sum, counted_multiply(counted_add(codes[i] & 15, -8), its[i]));
                sum = counted_add(sum,
                                  counted_multiply(counted_add(codes[i] >> 4, -8), its[half + i]));
            }
            y[o] += w.scales[o * groups + g] * scale_a[g] * (float)sum;
        }
    }
}
