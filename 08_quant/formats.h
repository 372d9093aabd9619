/*
 * Fewer bits for a number: blocks of a matrix that share a scale.
 *
 *     w[i, j]  ~  scale[i / block_out, j / block_in] * q[i, j]
 *
 * q is what the format can write: a whole number from -127 to 127 (INT8) or from -7 to 7 (INT4), or
 * a float of eight bits (E4M3, E5M2: common/core/dtype.h). The scale makes the block's largest
 * number the largest q, so nothing is cut off:
 *
 *     scale = max |w| / largest q          (absmax; a block of zeros: 1, so that nothing is 0 / 0)
 *     q     = w / scale, rounded to the nearest that the format has, a tie to the even one
 *
 * block_out x block_in says who shares a scale. Of a weight [out, in]: 0 x 0 is one scale for the
 * tensor, 1 x 0 one for each output channel (a row), 1 x 128 groups, 128 x 128 DeepSeek-V3's tiles.
 * Of activations [tokens, in]: 1 x 0 is one for each token, 1 x 128 V3's, 0 x 1 one for each input
 * channel, which no product can use, since it sums over them.
 *
 * In memory, as in the Tensor of a quantised weight (common/core/quantised.h):
 *
 *     U8        q + 128, one byte a number
 *     I4        q + 8, two a byte: of each block_in numbers of a row, byte i of block_in / 2 holds
 *               number i in its low four bits and number i + block_in / 2 in its high four
 *     F8_...    the code, one byte a number
 *
 * Everything here works on plain arrays of the host.
 */
#ifndef QUANT_FORMATS_H
#define QUANT_FORMATS_H

#include "common/core/error.h"
#include "common/core/tensor.h"

__BEGIN_DECLS

/* What a scale may be: any number; the next power of two upwards (ue8m0); the nearest of BF16's, as
 * files of packed weights have them. */
typedef enum QuantScale { SCALE_ANY, SCALE_POWER_OF_TWO, SCALE_BF16 } QuantScale;

typedef struct QuantFormat {
    DType dtype;             /* U8, I4, F8_E4M3 or F8_E5M2 */
    int block_out, block_in; /* numbers that share a scale; 0: all there are in that direction */
    QuantScale scale;
} QuantFormat;

/* 0, or -1 and a message: can a matrix [out, in] be written so? Blocks of integers must divide a
 * row, and I4's be even; those of F8 may be cut off at the edges. */
int quant_check(const QuantFormat *format, int64_t out, int64_t in, Error *err);

size_t quant_code_bytes(const QuantFormat *format, int64_t out, int64_t in);
int64_t quant_scale_count(const QuantFormat *format, int64_t out, int64_t in);
/* Columns of the array of scales; its rows follow. */
int64_t quant_scale_columns(const QuantFormat *format, int64_t in);

/* Bits that a number takes, its share of the F32 scales included. */
double quant_bits(const QuantFormat *format, int64_t out, int64_t in);

/* The largest q, and the q nearest to x = w / scale. */
float quant_largest(DType dtype);
float quant_round(float x, DType dtype);

/* The scale of a block whose largest |w| is amax. At least 2^-126: w / scale is always a number. */
float quant_scale(float amax, const QuantFormat *format);

/*
 * w [out, in] -> codes, scales F32 [ceil(out / block_out), ceil(in / block_in)]. -1 and a message
 * if the format does not fit, or if w holds a NaN or an infinity: where.
 */
int quantise(void *codes, float *scales, const float *w, int64_t out, int64_t in,
             const QuantFormat *format, Error *err);

/* The same with scales that are there already: what is too large for them is cut off. */
int quantise_with(void *codes, const float *scales, const float *w, int64_t out, int64_t in,
                  const QuantFormat *format, Error *err);

void dequantise(float *w, const void *codes, const float *scales, int64_t out, int64_t in,
                const QuantFormat *format);

/* What is left of w after both: `to` may be w; scales may be NULL, or gets them. */
int quant_round_trip(float *to, float *scales, const float *w, int64_t out, int64_t in,
                     const QuantFormat *format, Error *err);

/* ||a - b|| / ||b||; 0 where both are zero throughout */
double quant_error(const float *a, const float *b, int64_t count);

/* ---- for the lesson: two formats that our models do not use ---- */

/*
 * With a zero point, for numbers that lie to one side of zero:
 *
 *     w ~ scale * (q - zero),     q from 0 to 255 (U8) or 15 (I4),     0 <= zero <= the same
 *
 * The range is widened to hold 0, and zero is whole, so 0 itself stays 0 exactly. A product pays
 * for it: sum_j x_j (q_j - zero) needs the sum of x as well.
 */
int quantise_affine(void *codes, float *scales, uint8_t *zeros, const float *w, int64_t out,
                    int64_t in, const QuantFormat *format, Error *err);
void dequantise_affine(float *w, const void *codes, const float *scales, const uint8_t *zeros,
                       int64_t out, int64_t in, const QuantFormat *format);

/*
 * NF4 (Dettmers et al. 2023): the sixteen numbers are quantiles of a normal distribution instead of
 * evenly spaced, from -1 to 1, and 0 is one of them; scale = max |w| of `block` numbers in a row,
 * the last block may be shorter. Two codes a byte, the first in the HIGH four bits (bitsandbytes);
 * (count + 1) / 2 bytes.
 */
extern const float quant_nf4[16];
int quantise_nf4(uint8_t *codes, float *scales, const float *w, int64_t count, int block,
                 Error *err);
void dequantise_nf4(float *w, const uint8_t *codes, const float *scales, int64_t count, int block);

__END_DECLS
#endif
