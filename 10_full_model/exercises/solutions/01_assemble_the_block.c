/*
 * Solution 10.1. Two halves of one form: normalise, compute, add. The tempting mistakes: to add to
 * the normed h instead of to x (the stream then forgets what it held), and to give both halves the
 * same norm.
 */
#include "05_moe/decoder/block.h"

Tensor *block_forward(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                      const BlockRun *run) {
    Residual to = {.x = x};
    LatentCache *latent = run->cache ? &run->cache->latent : NULL;
    Tensor *h = rmsnorm(ctx, x, w->input_layernorm, cfg->rms_norm_eps);
    to.x = mla_forward(ctx, h, &w->mla, &cfg->mla, run->position, block_selection(w, run), latent,
                       MLA_AUTO, to);
    h = rmsnorm(ctx, to.x, w->post_attention_layernorm, cfg->rms_norm_eps);
    return w->dense ? mlp_forward(ctx, h, &w->mlp, to)
                    : moe_forward(ctx, h, &w->moe, &cfg->moe, NULL, run->record, to);
}
