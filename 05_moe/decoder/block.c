/*
 * The decoder block: which attention and which feed-forward layer it has, and the eight lines that
 * join them. x goes into each part as a Residual, to which the part's last operation adds.
 */
#include "05_moe/decoder/block.h"

#include "05_moe/balance.h"
#include "common/core/ops.h"

#include <math.h>
#include <stdlib.h>

bool block_is_dense(const BlockConfig *cfg, int layer) {
    return layer < cfg->first_k_dense_replace || cfg->moe.router.n_routed_experts == 0;
}

int block_check(const BlockConfig *cfg, Error *err) {
    bool mla = cfg->attention == ATTENTION_MLA;
    if (mla ? mla_check(&cfg->mla, err) : multihead_check(&cfg->multihead, err)) return -1;
    int inside = mla ? cfg->mla.hidden_size : cfg->multihead.hidden_size;
    if (inside != cfg->hidden_size)
        return error_set(err, "hidden_size is %d, but the attention's is %d", cfg->hidden_size,
                         inside);
    if (!mla && (cfg->qk_rope_head_dim < 0 || cfg->qk_rope_head_dim > cfg->multihead.head_dim))
        return error_set(err, "qk_rope_head_dim is %d; it must be 0 to head_dim, %d",
                         cfg->qk_rope_head_dim, cfg->multihead.head_dim);
    if (cfg->intermediate_size < 1)
        return error_set(err, "intermediate_size is %d; it must be at least 1",
                         cfg->intermediate_size);
    if (!(cfg->rms_norm_eps > 0))
        return error_set(err, "rms_norm_eps is %g; it must be positive", cfg->rms_norm_eps);
    if (cfg->first_k_dense_replace < 0)
        return error_set(err, "first_k_dense_replace is %d; it must be 0 or more",
                         cfg->first_k_dense_replace);
    if (cfg->moe.router.n_routed_experts == 0) return 0;
    if (moe_check(&cfg->moe, err)) return -1;
    if (cfg->moe.router.hidden_size != cfg->hidden_size)
        return error_set(err, "hidden_size is %d, but the router's is %d", cfg->hidden_size,
                         cfg->moe.router.hidden_size);
    return 0;
}

Block block_init(Params *params, const char *prefix, const BlockConfig *cfg, int layer) {
    Error err = {0};
    CHECK(block_check(cfg, &err) == 0, "block_init %s: %s", prefix, err.text);
    int hidden = cfg->hidden_size;
    Block w = {.dense = block_is_dense(cfg, layer)};
    w.input_layernorm = params_new(params, prefix, "input_layernorm.weight", SHAPE(hidden));
    if (cfg->attention == ATTENTION_MLA)
        w.mla = mla_init(params, params_name(prefix, "self_attn").text, &cfg->mla);
    else
        w.multihead =
            multihead_init(params, params_name(prefix, "self_attn").text, &cfg->multihead);
    w.post_attention_layernorm =
        params_new(params, prefix, "post_attention_layernorm.weight", SHAPE(hidden));
    if (w.dense)
        w.mlp = mlp_init(params, params_name(prefix, "mlp").text, hidden, cfg->intermediate_size);
    else
        w.moe = moe_init(params, params_name(prefix, "mlp").text, &cfg->moe);
    return w;
}

void block_randomize(Params *params, const Block *w, float std, float o_std, float down_std) {
    params_fill(params, w->input_layernorm, 1);
    if (w->mla.o_proj)
        mla_randomize(params, &w->mla, std, o_std);
    else
        multihead_randomize(params, &w->multihead, std, o_std);
    params_fill(params, w->post_attention_layernorm, 1);
    if (w->dense)
        mlp_randomize(params, &w->mlp, std, down_std);
    else
        moe_randomize(params, &w->moe, std, down_std);
}

/* Counted by registering the weights and throwing the list away: there is no second formula that
 * could differ from the model. Nothing is allocated, so 671 billion are no trouble. */
int64_t block_parameters(const BlockConfig *cfg, int layer) {
    Params params = {0};
    block_init(&params, "layer", cfg, layer);
    int64_t count = params_count(&params);
    params_free(&params);
    return count;
}

int64_t block_active_parameters(const BlockConfig *cfg, int layer) {
    int64_t idle = block_is_dense(cfg, layer)
                       ? 0
                       : moe_parameters(&cfg->moe) - moe_active_parameters(&cfg->moe);
    return block_parameters(cfg, layer) - idle;
}

/* ---- forward ---- */

int block_training_check(const BlockTraining *training, const BlockConfig *cfg, Error *err) {
    if (!(training->dropout >= 0 && training->dropout < 1))
        return error_set(err, "dropout is %g; it must be 0 (off) or below 1", training->dropout);
    if (router_training_check(&cfg->moe.router, err)) return -1;
    return moe_losses_check(&training->losses, &cfg->moe, err);
}

int block_cache_init_latents(BlockCache *cache, Context *ctx, Pages *pages, const BlockConfig *cfg,
                             Error *err) {
    cache->kind = ATTENTION_MLA;
    if (latent_cache_init_as(&cache->latent, ctx, pages, cfg->mla.kv_lora_rank,
                             cfg->mla.qk_rope_head_dim, cfg->e4m3_cache, err))
        return -1;
    return cfg->index_head_dim ? latent_cache_add_keys(&cache->latent, ctx, cfg->index_head_dim,
                                                       cfg->e4m3_cache, err)
                               : 0;
}

const Selection *block_selection(const Block *w, const BlockRun *run) {
    return run->selection ? run->selection : w->selection;
}

/* Multi-head attention: q and k are rotated between its two halves; the cache has rotated keys. */
static Tensor *multihead_attention(Context *ctx, Tensor *h, const Block *w, const BlockConfig *cfg,
                                   const Position *position, KVCache *cache, Residual to) {
    MultiheadHeads heads = multihead_heads(ctx, h, &w->multihead, &cfg->multihead);
    float scale = 0;
    CHECK(!position || cfg->qk_rope_head_dim, "block: a position, but qk_rope_head_dim is 0");
    if (position) {
        Tensor *positions =
            positions_from(ctx, tensor_dim(h, 0), tensor_dim(h, 1), cache ? cache->length : 0);
        position->rotate(ctx, position, heads.q, heads.k, cfg->qk_rope_head_dim, positions);
        scale = position->scale / sqrtf((float)cfg->multihead.head_dim);
    }
    return multihead_attend(ctx, heads, &w->multihead, &cfg->multihead, scale, cache, to);
}

Tensor *block_attention(Context *ctx, Tensor *h, const Block *w, const BlockConfig *cfg,
                        const BlockRun *run, Residual to) {
    BlockCache *cache = run->cache;
    CHECK(!cache || cache->kind == cfg->attention, "block: a cache of another attention");
    if (cfg->attention == ATTENTION_MLA)
        return mla_forward(ctx, h, &w->mla, &cfg->mla, run->position, block_selection(w, run),
                           cache ? &cache->latent : NULL, cache ? run->mode : MLA_AUTO, to);
    return multihead_attention(ctx, h, w, cfg, run->position, cache ? &cache->kv : NULL, to);
}

Tensor *block_feed_forward(Context *ctx, Tensor *h, const Block *w, const BlockConfig *cfg,
                           const BlockRun *run, Residual to) {
    if (run->record) *run->record = (MoeRecord){0};
    if (w->dense) return mlp_forward(ctx, h, &w->mlp, to);
    const MoeLosses *losses = run->training ? &run->training->losses : NULL;
    return moe_forward_replayed(ctx, h, &w->moe, &cfg->moe, run->replay, losses, run->record, to);
}

/* [block_forward] */
Tensor *block_forward(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                      const BlockRun *run) {
    float p = ctx->recording && run->training ? run->training->dropout : 0;
    Tensor *h = rmsnorm(ctx, x, w->input_layernorm, cfg->rms_norm_eps);
    x = block_attention(ctx, h, w, cfg, run, (Residual){x, p}); /* x + attention(h) */
    h = rmsnorm(ctx, x, w->post_attention_layernorm, cfg->rms_norm_eps);
    return block_feed_forward(ctx, h, w, cfg, run, (Residual){x, p}); /* x + ffn(h) */
}
/* [/block_forward] */

void block_share_load(Context *ctx, const Block *w) {
    if (!w->dense) moe_share_load(ctx, &w->moe);
}

void block_rebalance(Context *ctx, const Block *w, float gamma) {
    if (!w->dense) moe_rebalance(ctx, &w->moe, gamma);
}

void block_add_load(Context *ctx, const Block *w, ExpertLoad *sum) {
    if (w->dense) return;
    int experts = (int)tensor_count(w->moe.load);
    int32_t *counts = must_alloc((size_t)experts, sizeof *counts);
    tensor_download_ints(ctx, counts, w->moe.load);
    BalanceMeasures measures = balance_measure(counts, experts, -1);
    sum->max_vio = fmax(sum->max_vio, measures.max_vio); /* fmax(NAN, x) is x */
    sum->idle += measures.unused;
    free(counts);
}

int block_healthy(Context *ctx, const Block *w, Error *err) {
    return w->dense ? 0 : router_healthy(ctx, &w->moe.router, err);
}
