/*
 * The block when it decodes: a few new tokens behind a cache.
 *
 * With so few rows a weight is read once and hardly computed with, and a layer is some thirty
 * launches with little work in each. On the GPU each half of a block has a fused form for this:
 * mla_few_rows.h (five kernels), ffn_few_rows.h (three). block_decode() takes each where it
 * applies, and does as block_forward() does elsewhere; the results differ by the order of sums.
 *
 * A caller that decodes calls this one. Nothing else in the block knows that there are two ways.
 */
#ifndef BLOCK_DECODE_H
#define BLOCK_DECODE_H

#include "05_moe/decoder/block.h"

/* As block_forward(), with a cache and off the tape: x [B, T, hidden_size], B T up to FEW_ROWS for
 * the fused forms. */
Tensor *block_decode(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                     const BlockRun *run);

/* Which halves have a fused form here. Where one is declined decoding is slower, and no result
 * shows it: the tests list which features are. */
typedef struct BlockFused {
    bool attention, feed_forward;
} BlockFused;

BlockFused block_fused(Context *ctx, const Tensor *x, const Block *w, const BlockConfig *cfg,
                       const BlockRun *run);

#endif
