/*
 * Solution 10.1. Two halves of one form: normalise, compute, add. The tempting mistakes: to add to
 * the normed h instead of to x (the stream then forgets what it held), and to give both halves the
 * same norm.
 */
#include "05_moe/block.h"

#include "common/core/ops.h"

Tensor *block_forward(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                      const Position *position, BlockCache *cache, MoeRecord *record) {
    Tensor *h = rmsnorm(ctx, x, w->input_layernorm, cfg->rms_norm_eps);
    LatentCache *latent = cache ? &cache->latent : NULL;
    x = add(ctx, x, mla_forward(ctx, h, &w->mla, &cfg->mla, position, latent, MLA_AUTO));
    h = rmsnorm(ctx, x, w->post_attention_layernorm, cfg->rms_norm_eps);
    return add(ctx, x,
               w->dense ? mlp_forward(ctx, h, &w->mlp)
                        : moe_forward(ctx, h, &w->moe, &cfg->moe, record));
}
