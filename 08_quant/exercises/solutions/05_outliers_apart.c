/*
 * Solution 08.5: which columns are outliers is decided once, for all rows: an outlier of one token
 * takes the column out for all. Scales are each row's own, of what is left. (Tempting: to leave the
 * outliers in while the scale is made. Then they are multiplied exactly, and the others are rounded
 * as coarsely as before.)
 */
#include "08_quant/formats.h"
#include "08_quant/methods/int8.h"

#include "common/core/memory.h"

#include <math.h>
#include <stdlib.h>

void int8_linear(float *y, const float *x, const uint8_t *codes, const float *scales, int64_t rows,
                 int64_t in, int64_t out, float threshold) {
    static const QuantFormat per_token = {U8, 1, 0, false};
    uint8_t *outlier = must_alloc((size_t)in, 1);
    int8_outliers(outlier, x, rows, in, threshold);
    for (int64_t t = 0; t < rows; t++) {
        const float *row = x + t * in;
        float amax = 0;
        for (int64_t j = 0; j < in; j++)
            if (!outlier[j]) amax = fmaxf(amax, fabsf(row[j]));
        float scale = quant_scale(amax, &per_token);
        for (int64_t o = 0; o < out; o++) {
            int32_t sum = 0;
            float apart = 0;
            for (int64_t j = 0; j < in; j++) {
                int q = codes[o * in + j] - 128;
                if (outlier[j])
                    apart += row[j] * (float)q;
                else
                    sum += (int)quant_round(row[j] / scale, U8) * q;
            }
            y[t * out + o] = scales[o] * (scale * (float)sum + apart);
        }
    }
    free(outlier);
}
