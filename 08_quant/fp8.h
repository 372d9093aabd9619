/*
 * FP8 as DeepSeek-V3 trains in it (arXiv 2412.19437, section 3.3): fine-grained scales, and sums
 * that leave the tensor core every 128 products.
 *
 *     activations   1 x 128    one scale for 128 numbers of a token
 *     weights     128 x 128    one scale for a square: its transpose has the same scales
 *
 *     D = A B^T     d[i, j] = sum over blocks b of  sa[b, i] sb[j / 128, b] (sum over k in b of
 *                             a[i, k] b[j, k])
 *
 * All numbers are E4M3: a scale for every few numbers makes its narrow range enough, and its third
 * bit of fraction is worth more than E5M2's range.
 *
 *     quantised        codes [rows, cols], as the numbers lie
 *     scales 1 x 128   [ceil(cols / 128)][fp8_scale_stride(rows)]: those of one step of a product
 *                      side by side, each row padded to 16 bytes
 *     scales 128x128   [ceil(rows / 128)][ceil(cols / 128)]
 *     scale            amax / 448, amax at least 1e-4; power_of_two: the next 2^n from there up
 *
 * A product sums along the last dimension of both operands, for bytes lie no other way in a tensor
 * core. So the two products of the backward pass need transposes: dx = dy W takes W's (the same
 * codes, the same scales), dW = dy^T x takes those of dy and of x, with the scales along tokens.
 * They are quantised from the high-precision numbers, not from the codes: one rounding, not two.
 */
#ifndef QUANT_FP8_H
#define QUANT_FP8_H

#include "05_moe/grouped.h"
#include "common/core/context.h"

__BEGIN_DECLS

enum { FP8_STEP = 128 }; /* numbers that share a scale, and one step of a product along k */

#ifdef __CUDACC__
#define FP8_INLINE static inline __host__ __device__
#else
#define FP8_INLINE static inline
#endif

FP8_INLINE int64_t fp8_blocks(int64_t n) { return (n + FP8_STEP - 1) / FP8_STEP; }
FP8_INLINE int64_t fp8_scale_stride(int64_t rows) { return (rows + 3) / 4 * 4; }

/* Numbers of the scales of [rows, cols]. */
FP8_INLINE int64_t fp8_row_scales(int64_t rows, int64_t cols) {
    return fp8_blocks(cols) * fp8_scale_stride(rows);
}

/*
 * Where an expert's tokens begin in a transpose: each at a multiple of 128, so that no block of
 * scales has tokens of two. Room for all of them:
 */
FP8_INLINE int64_t fp8_padded_rows(int64_t rows, int experts) {
    return (fp8_blocks(rows) + (experts > 1 ? experts : 0)) * FP8_STEP;
}

/*
 * Training in FP8: ctx->products = &fp8_products, after fp8_check() has found nothing against it
 * (0, or -1 and a message): on CUDA it takes Hopper and BF16; the CPU imitates it in F32, slowly.
 */
struct Products;
extern const struct Products fp8_products;
int fp8_check(const Context *ctx, Error *err);
/* Is this weight multiplied in FP8? Not the embedding, the head, the router's gate and a MTP
 * module's eh_proj, and no weight with a side that is no multiple of 16. */
bool fp8_takes(const Context *ctx, const Tensor *w);

/* The scale of numbers whose largest magnitude is amax. */
float fp8_scale(float amax, int power_of_two);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* x [rows, cols] -> codes [rows, cols], scales 1 x 128 */
KERNEL(fp8_quantise_rows, uint8_t *codes, float *scales, const Real *x, int64_t rows, int64_t cols,
       int power_of_two);

/*
 * The transpose, scales along tokens: x [rows, cols] -> codes [cols][padded], padded =
 * fp8_padded_rows(rows, experts), scales [padded / 128][fp8_scale_stride(cols)]. Expert e's tokens,
 * rows offsets[e] .. offsets[e + 1] - 1, begin at the next multiple of 128 behind those of e - 1,
 * and zeros fill what is left. offsets NULL: one expert, who has all rows.
 */
KERNEL(fp8_quantise_columns, uint8_t *codes, float *scales, const Real *x, const int32_t *offsets,
       int experts, int64_t rows, int64_t cols, int power_of_two);

/* w [E, out, in] -> codes [E, out, in] and scales 128 x 128, and the same of each transpose
 * [E, in, out]. Either pair may be NULL: not wanted. */
KERNEL(fp8_quantise_blocks, uint8_t *codes, float *scales, uint8_t *codes_t, float *scales_t,
       const Real *w, int experts, int64_t out, int64_t in, int power_of_two);

/* d [m, n] = base + a b^T: a [m, k] with scales 1 x 128, b [n, k] with scales 128 x 128. base may
 * be NULL, or d. */
KERNEL(fp8_product, Real *d, const Real *base, const uint8_t *a, const float *a_scale,
       const uint8_t *b, const float *b_scale, int64_t m, int64_t n, int64_t k);

/* The same for the rows of every expert: y [rows, out], x [rows, in], w [E, out, in]. */
KERNEL(fp8_grouped, Real *y, const Real *base, const uint8_t *x, const float *x_scale,
       const uint8_t *w, const float *w_scale, const int32_t *offsets, GroupedShape shape);

/* dw [E, out, in] = (or +=) dy_e^T x_e of two transposes from fp8_quantise_columns(); F32. Zero for
 * an expert without rows when overwriting. offsets NULL: one expert, who has all rows. */
KERNEL(fp8_weight, float *dw, int add, const uint8_t *dy_t, const float *dy_scale,
       const uint8_t *x_t, const float *x_scale, const int32_t *offsets, GroupedShape shape);

/* Zeros to the rows of y [rows, cols] that no expert has. */
KERNEL(fp8_clear_rest, Real *y, const int32_t *offsets, int experts, int64_t rows, int64_t cols);

/* The definition of the three products: plain loops, summed in double precision. */
__typeof__(fp8_product_cpu) fp8_product_reference_cpu;
__typeof__(fp8_grouped_cpu) fp8_grouped_reference_cpu;
__typeof__(fp8_weight_cpu) fp8_weight_reference_cpu;

__END_DECLS
#endif
