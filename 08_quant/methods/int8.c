/*
 * INT8 activations in plain loops. The fast kernels are those of quantised weights (quantised.h);
 * these say what is meant.
 */
#include "08_quant/methods/int8.h"

#include "08_quant/formats.h"
#include "common/core/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const QuantFormat per_token = {U8, 1, 0, false};

int64_t int8_outliers(uint8_t *outlier, const float *x, int64_t rows, int64_t in, float threshold) {
    int64_t count = 0;
    memset(outlier, 0, (size_t)in);
    for (int64_t i = 0; i < rows * in; i++)
        if (!(fabsf(x[i]) < threshold)) outlier[i % in] = 1; /* NaN and infinity, too: they stay */
    for (int64_t j = 0; j < in; j++) count += outlier[j];
    return count;
}

/* A token's scale: of what is not an outlier. */
static float token_scale(const float *x, const uint8_t *outlier, int64_t in) {
    float amax = 0;
    for (int64_t j = 0; j < in; j++)
        if (!outlier[j]) amax = fmaxf(amax, fabsf(x[j]));
    return quant_scale(amax, &per_token);
}

void int8_linear(float *y, const float *x, const uint8_t *codes, const float *scales, int64_t rows,
                 int64_t in, int64_t out, float threshold) {
    uint8_t *outlier = must_alloc((size_t)in, 1);
    int8_outliers(outlier, x, rows, in, threshold);
    for (int64_t t = 0; t < rows; t++) {
        const float *row = x + t * in;
        float scale = token_scale(row, outlier, in);
        for (int64_t o = 0; o < out; o++) {
            int32_t sum = 0; /* of whole numbers */
            float apart = 0; /* of the outliers */
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

void int8_activations(float *to, const float *x, int64_t rows, int64_t in, float threshold) {
    uint8_t *outlier = must_alloc((size_t)in, 1);
    int8_outliers(outlier, x, rows, in, threshold);
    for (int64_t t = 0; t < rows; t++) {
        float scale = token_scale(x + t * in, outlier, in);
        for (int64_t j = 0; j < in; j++) {
            float value = x[t * in + j];
            to[t * in + j] = outlier[j] ? value : scale * quant_round(value / scale, U8);
        }
    }
    free(outlier);
}

void smoothquant_scales(float *s, const float *max_x, const float *max_w, int64_t in, float alpha) {
    for (int64_t j = 0; j < in; j++) {
        float x = powf(fmaxf(max_x[j], 1e-5f), alpha), w = powf(fmaxf(max_w[j], 1e-5f), 1 - alpha);
        s[j] = fmaxf(x / w, 1e-5f);
    }
}
