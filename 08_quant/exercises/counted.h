/*
 * Exercise 08.9: arithmetic that is counted.
 *
 * A weight in INT4 lies as in models: of each group of `group` numbers of a row, byte i of
 * group / 2 holds number i in its low four bits and number i + group / 2 in its high ones, as
 * q + 8. x is in INT8, with a scale for each group. The product of a row is
 *
 *     y = sum over groups of  scale_w scale_x  sum over j of q[j] a[j]
 */
#ifndef COUNTED_H
#define COUNTED_H

#include <stdint.h>

typedef struct CountedWeight {
    const uint8_t *codes; /* [out, in / 2] */
    const float *scales;  /* [out, in / group] */
    int out, in, group;
} CountedWeight;

/* One whole-number operation each. */
int counted_multiply(int a, int b);
int counted_add(int a, int b);

/* y [out]; a [in], scale_a [in / group] */
void int4_product(float *y, CountedWeight w, const int8_t *a, const float *scale_a);

#endif
