/*
 * Activations in INT8, too: whole numbers times whole numbers.
 *
 *     y[t, o] = s_x[t] s_w[o] sum_j q_x[t, j] q_w[o, j]
 *
 * One scale for each token and one for each output channel: what lies along the sum must share
 * them. Weights bear it well. Activations have a few channels that are ten or a hundred times
 * larger than the others, for every token; they make the token's scale so large that the other
 * channels are left with a few steps. Two ways out:
 *
 *   LLM.int8() (Dettmers et al. 2022)   columns of X with a number of 6 or more are taken out and
 *                                       multiplied in full precision; all others in INT8
 *   SmoothQuant (Xiao et al. 2022)      X / s and W s: the difficulty moves to the weights
 *
 *                  s_j = max |X_j|^alpha / max |W_j|^(1 - alpha)          (eq. 4; alpha 0.5)
 */
#ifndef QUANT_INT8_H
#define QUANT_INT8_H

#include "common/core/error.h"

#include <stdint.h>

__BEGIN_DECLS

#define LLMINT8_THRESHOLD 6.0f

/* Which columns of x [rows, in] have a number of at least `threshold`: outlier [in], 0 or 1.
 * Returns how many. INFINITY finds none. */
int64_t int8_outliers(uint8_t *outlier, const float *x, int64_t rows, int64_t in, float threshold);

/*
 * y [rows, out] = x W^T with x quantised as above, W as codes U8 [out, in] and a scale for each row
 * (formats.h). A token's scale is that of its numbers outside of the outlier columns; with these
 * the weights are multiplied as their codes say, in F32. Plain loops: the definition.
 */
void int8_linear(float *y, const float *x, const uint8_t *codes, const float *scales, int64_t rows,
                 int64_t in, int64_t out, float threshold);

/* What x is worth in that product: to [rows, in], which may be x. So the product is to times the
 * dequantised W^T, but for the order of summation. */
void int8_activations(float *to, const float *x, int64_t rows, int64_t in, float threshold);

/* s [in], from the largest |x| and |w| of each channel, both taken as at least 1e-5. */
void smoothquant_scales(float *s, const float *max_x, const float *max_w, int64_t in, float alpha);

__END_DECLS
#endif
