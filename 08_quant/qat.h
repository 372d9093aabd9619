/*
 * Quantisation-aware training: the model learns with the numbers it will have.
 *
 *     y = s round(clip(w / s)),        s = clip_at max |w| / largest q      for each block of w
 *
 * In the forward pass a layer sees its rounded weight y; the optimizer moves w itself, which keeps
 * the small steps that rounding would lose. round() has a derivative of zero wherever it has one,
 * so the backward pass acts as if it were not there ("straight-through": Bengio et al. 2013; Jacob
 * et al. 2018, 3):
 *
 *     dw = dy inside of what q can reach,   0 outside,   and s is taken as a constant
 *
 * Outside, w could move without y moving, so a gradient there would push it ever further.
 */
#ifndef QUANT_QAT_H
#define QUANT_QAT_H

#include "05_moe/decoder/decoder.h"
#include "08_quant/formats.h"

__BEGIN_DECLS

/*
 * w [..., in] of ctx's dtype -> the same shape, on the tape. A weight's gradient is F32, and so is
 * this result's. format: U8 or I4 with block_out 1, which must fit w; clip_at from 0 (not
 * included) to 1: of each block's largest, 1 cuts nothing off.
 */
Tensor *fake_quantise(Context *ctx, Tensor *w, const QuantFormat *format, float clip_at);

/*
 * The decoder with the weights of all linear layers that the format fits fake-quantised, for one
 * step: it lives in the arena, computes with the same weights otherwise, and its loss trains the
 * decoder it was made from. Ask that one for the records.
 */
Decoder *qat_decoder(Context *ctx, const Decoder *decoder, const QuantFormat *format,
                     float clip_at);

/* ---- kernels (KERNEL and Real: gpu.h) ---- */

/* y and w [blocks, block], scales F32 [blocks]; largest: q's (127 or 7) */
KERNEL(fake_quantise_forward, Real *y, float *scales, const Real *w, int64_t blocks, int64_t block,
       float largest, float clip_at);
/* dw = (or +=) dy where |round(w / scale)| <= largest, else 0 */
KERNEL(fake_quantise_backward, float *dw, int add, const float *dy, const Real *w,
       const float *scales, int64_t blocks, int64_t block, float largest);

__END_DECLS
#endif
