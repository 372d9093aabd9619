/*
 * Exercise 08.5: outliers apart.
 *
 * LLM.int8(). y [rows, out] = x W^T with x [rows, in] in whole numbers, too. W is there as codes
 * [out, in] (q + 128) with a scale for each row. Columns of x in which any row has |x| >= threshold
 * are outliers (int8_outliers() marks them). For the others, each row t of x has a scale of its
 * own, s_t = largest |x| of the row WITHOUT the outlier columns / 127 (quant_scale() makes 1 of 0),
 * and
 *
 *     y[t, o] = scales[o] * (s_t * sum of round(x / s_t) q  +  sum over outlier columns of x q)
 *
 * The first sum is of whole numbers. Whoever wrote this rounds all columns.
 *
 * POINTS: 3
 *
 * REPLACES: int8_linear in 08_quant/methods/int8.c
 *
 * TESTS: test_methods:int8
 */
#include "08_quant/formats.h"
#include "08_quant/methods/int8.h"

#include "common/core/memory.h"

#include <math.h>
#include <stdlib.h>

void int8_linear(float *y, const float *x, const uint8_t *codes, const float *scales, int64_t rows,
                 int64_t in, int64_t out, float threshold) {
    static const QuantFormat per_token = {U8, 1, 0, false};
    for (int64_t t = 0; t < rows; t++) {
        const float *row = x + t * in;
        float amax = 0;
        for (int64_t j = 0; j < in; j++) amax = fmaxf(amax, fabsf(row[j]));
        float scale = quant_scale(amax, &per_token);
        for (int64_t o = 0; o < out; o++) {
            int32_t sum = 0;
            for (int64_t j = 0; j < in; j++)
                sum += (int)quant_round(row[j] / scale, U8) * (codes[o * in + j] - 128);
            y[t * out + o] = scales[o] * scale * (float)sum;
        }
    }
}
