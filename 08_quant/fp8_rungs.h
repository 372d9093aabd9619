/*
 * The rungs of the FP8 product on CUDA, and what it is judged by.
 *
 *     plain        one thread for one number; any size
 *     mma          tensor cores by mma.sync: E4M3 from sm_89 on, BF16 of the same codes on sm_80
 *     wgmma        Hopper's own, fed by TMA; a block for a tile, sums promoted every 128
 *     persistent   one block for an SM; shapes of tiles, clusters, and the sum over k in parts
 *     blas         cuBLASLt's block-scaled product (CUDA 12.9, Hopper): the yardstick
 *
 * d is BF16 except on the plain rung, which takes F32 as well.
 */
#ifndef QUANT_FP8_RUNGS_H
#define QUANT_FP8_RUNGS_H

#include "08_quant/fp8.h"

__BEGIN_DECLS

__typeof__(fp8_product_cuda) fp8_product_plain_cuda, fp8_product_mma_cuda, fp8_product_wgmma_cuda,
    fp8_product_persistent_cuda, fp8_product_blas_cuda;

__typeof__(fp8_grouped_cuda) fp8_grouped_plain_cuda, fp8_grouped_persistent_cuda;
__typeof__(fp8_weight_cuda) fp8_weight_plain_cuda, fp8_weight_hopper_cuda;

int fp8_mma_available(Gpu *gpu, DType dtype, int64_t n, int64_t k);
int fp8_hopper_available(Gpu *gpu, DType dtype, int64_t n, int64_t k);
int fp8_weight_hopper_available(Gpu *gpu, GroupedShape shape);
/* NULL, or why cuBLASLt does not multiply this. It pads scales where we do not: it is asked for
 * m % 4 = 0, n % 128 = 0 and k % 512 = 0 alone. */
const char *fp8_blas_refusal(Gpu *gpu, DType dtype, int64_t m, int64_t n, int64_t k);

/* The persistent rung in one of its shapes, of which there are fp8_shape_count(); fp8_product picks
 * by fp8_shape_best(). */
int fp8_shape_count(void);
const char *fp8_shape_name(int shape);
int fp8_shape_best(Gpu *gpu, int64_t m, int64_t n, int64_t k);
void fp8_product_shape_cuda(Gpu *gpu, int shape, void *d, const void *base, const uint8_t *a,
                            const float *a_scale, const uint8_t *b, const float *b_scale, int64_t m,
                            int64_t n, int64_t k);
void fp8_grouped_shape_cuda(Gpu *gpu, int shape, void *y, const void *base, const uint8_t *x,
                            const float *x_scale, const uint8_t *w, const float *w_scale,
                            const int32_t *offsets, GroupedShape s);

int fp8_weight_shape_count(void);
const char *fp8_weight_shape_name(int shape);
void fp8_weight_shape_cuda(Gpu *gpu, int shape, float *dw, int add, const uint8_t *dy_t,
                           const float *dy_scale, const uint8_t *x_t, const float *x_scale,
                           const int32_t *offsets, GroupedShape s);

/*
 * Hopper's short accumulator. The wgmma rung without scales, the tensor core adding up `promote`
 * products (a multiple of 128, or 0: all k) before F32 registers do: d F32 [m, n].
 */
void fp8_accumulate_cuda(Gpu *gpu, float *d, const uint8_t *a, const uint8_t *b, int64_t m,
                         int64_t n, int64_t k, int64_t promote);

__END_DECLS
#endif
