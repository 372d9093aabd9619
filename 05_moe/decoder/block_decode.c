/*
 * The one place that chooses between the block's fused kernels and the plain block, for each half
 * by itself. A fused half contains its norm and its sum; a plain one gets them here.
 *
 * Latent attention is always the absorbed one here, however short the text is: which of the two is
 * cheaper changes with the number of rows, and a row's numbers must not.
 */
#include "05_moe/decoder/block_decode.h"

#include "04_mla/mla_few_rows.h"
#include "05_moe/decoder/ffn_few_rows.h"

/* The fused attention reads all cached tokens, not a selection. A record wants the routing of every
 * token, which the fused experts do not keep. */
BlockFused block_fused(Context *ctx, const Tensor *x, const Block *w, const BlockConfig *cfg,
                       const BlockRun *run) {
    bool latent = run->cache && cfg->attention == ATTENTION_MLA && !block_selection(w, run);
    return (BlockFused){
        .attention = latent && mla_few_rows_supports(ctx, x, w->input_layernorm, &w->mla, &cfg->mla,
                                                     run->position, &run->cache->latent),
        .feed_forward = !run->record && !run->replay && ffn_few_rows_supports(ctx, x, w, cfg)};
}

Tensor *block_decode(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                     const BlockRun *run) {
    BlockRun absorbed = *run;
    absorbed.mode = run->cache ? MLA_ABSORBED : MLA_AUTO;
    run = &absorbed;
    BlockFused fused = block_fused(ctx, x, w, cfg, run);
    float eps = cfg->rms_norm_eps;
    if (!fused.attention && !fused.feed_forward) return block_forward(ctx, x, w, cfg, run);
    if (fused.attention)
        x = mla_few_rows_forward(ctx, x, w->input_layernorm, eps, &w->mla, &cfg->mla, run->position,
                                 &run->cache->latent);
    else
        x = block_attention(ctx, rmsnorm(ctx, x, w->input_layernorm, eps), w, cfg, run,
                            (Residual){.x = x});
    if (fused.feed_forward) return ffn_few_rows_forward(ctx, x, w, cfg);
    return block_feed_forward(ctx, rmsnorm(ctx, x, w->post_attention_layernorm, eps), w, cfg, run,
                              (Residual){.x = x});
}
