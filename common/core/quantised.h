/*
 * Quantised weights: the small door through which weights of few bits enter the products.
 *
 *     W[i, j] = scale[i / block_out, j / block_in] * q[i, j]
 *
 * A weight whose Tensor has `quantised` set holds codes instead of numbers, one or two a byte; q is
 * symmetric, there is no zero point. The shape stays that of the weight, [out, in], or [E, out,
 * in]: E of these one after the other, in the codes and in the scales.
 *
 *     dtype     a number's code        block                         codes in memory
 *     F8_E4M3   its 8 bits             any, usually 128 x 128;       one a byte
 *                                      the last ones may be ragged
 *     U8        q + 128                1 x group, which divides      one a byte
 *                                      in; in: a scale a row
 *     I4        q + 8                  1 x 32, 64 or 128, which      two a byte: byte b of a group
 *                                      divides in                    has number b (low four bits)
 *                                                                    and b + group / 2
 *
 * linear(), linear_residual(), rmsnorm_linear(), grouped_linear(), grouped_swiglu() and latent
 * attention's absorbed products look at `quantised` and hand such a weight to its products; nothing
 * else takes it. Chapter 08 supplies the products, and common/ knows no kernel for codes.
 *
 * Invariant: a quantised weight's dtype is never a context's dtype. So whoever reads numbers where
 * they lie, and asks for weights of ctx's dtype, has asked whether they are numbers.
 */
#ifndef COMMON_QUANTISED_H
#define COMMON_QUANTISED_H

#include "common/core/context.h"

__BEGIN_DECLS

struct MlaShape; /* 04_mla/mla.h */

/* How a quantised weight is multiplied. x and y have ctx's dtype and device; ctx does not record,
 * and quantised_check() has seen the weight. */
typedef struct QuantisedProducts {
    /* y [rows, out] = base + x W^T + bias;  base [rows, out] and bias [out] may be NULL, base may
     * be y */
    void (*linear)(Context *ctx, void *y, const void *base, const void *x, const Tensor *w,
                   const void *bias, int64_t rows);
    /* y = x W_e^T, expert by expert, as grouped_forward (05_moe/grouped.h); rows: of x and y */
    void (*grouped)(Context *ctx, void *y, const void *x, const Tensor *w, const int32_t *offsets,
                    int64_t rows);
    /* mla_absorb_query and mla_absorb_output (04_mla/mla.h) with this kv_b_proj */
    void (*absorb_query)(Context *ctx, void *q_absorbed, const void *q, const Tensor *kv_b,
                         int64_t rows, struct MlaShape shape);
    void (*absorb_output)(Context *ctx, void *o, const void *o_latent, const Tensor *kv_b,
                          int64_t rows, struct MlaShape shape);
    /* Rows first .. first + count - 1 of W as [E out, in], as numbers of ctx's dtype, to ctx's
     * device */
    void (*dequantise)(Context *ctx, void *to, const Tensor *w, int64_t first, int64_t count);
} QuantisedProducts;

/* What Tensor.quantised points to. */
typedef struct Quantised {
    int block_out, block_in;
    Tensor scale; /* F32 [ceil(out / block_out), ceil(in / block_in)], or [E, ...]; where W is */
    const QuantisedProducts *products;
} Quantised;

/* The scales' shape for a weight of this shape; returns how many dimensions it has. */
int quantised_scale_shape(int64_t *shape, const Tensor *weight, int block_out, int block_in);

/* 0, or -1 and a message: can a weight of this shape be held in these codes and blocks? */
int quantised_format_check(const Tensor *weight, DType dtype, int block_out, int block_in,
                           Error *err);

/* Aborts unless w is a quantised weight on ctx's device that the caller may multiply with: whole,
 * and recording off, for there is no gradient through codes. */
void quantised_check(Context *ctx, const char *where, const Tensor *w);

/* linear() and linear_residual() of a quantised weight: base [..., out] + x W^T + bias; base and
 * bias may be NULL. */
Tensor *quantised_linear(Context *ctx, const char *where, const Tensor *x, const Tensor *w,
                         const Tensor *bias, const Tensor *base);

__END_DECLS
#endif
