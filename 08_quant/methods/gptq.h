/*
 * GPTQ (Frantar et al. 2022): rounding that makes up for itself.
 *
 * Round a weight, and the layer's output is off by the rounding error times the input. The inputs
 * of a layer are correlated, so weights that are not rounded yet can take over a part of it.
 * Column by column, with H = X^T X of the layer's inputs:
 *
 *     q_i = round(w_i),   e = (w_i - q_i) / U_ii,   w_j -= e U_ij   for all j > i
 *
 * H^-1 = U^T U (upper triangular), whose row i holds what is left of H^-1 once the columns before
 * i are fixed: the best change of the others, in the sense of ||X (W' - W)^T||^2 (eq. 2 and
 * algorithm 1).
 */
#ifndef QUANT_GPTQ_H
#define QUANT_GPTQ_H

#include "08_quant/formats.h"

__BEGIN_DECLS

typedef struct GptqSettings {
    float damp;     /* times the mean of H's diagonal, added to it: 0.01 */
    bool act_order; /* the columns with the largest inputs first, while there is most to make up
                     * with; then all scales are those of the original weights ("static groups"),
                     * and no index of groups need be stored */
} GptqSettings;

/*
 * w [out, in] becomes what it is worth after rounding; scales as from quantise(). format: U8 or I4
 * with block_out 1. gram F32 [in, in] = X^T X, by any factor. Without act_order, a group's scale is
 * made when its first column's turn comes, of the weights as they are by then.
 *
 * A column whose inputs were all zero is rounded by itself. -1 and a message if the format does
 * not fit, if w holds NaN, or if H is not positive definite: too little data for this damp.
 */
int gptq(float *w, float *scales, const float *gram, int64_t out, int64_t in,
         const QuantFormat *format, GptqSettings settings, Error *err);

__END_DECLS
#endif
