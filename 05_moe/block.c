/*
 * The decoder block: wiring. See block.h.
 */
#include "05_moe/block.h"

#include "04_mla/mla_few_rows.h"
#include "05_moe/ffn_few_rows.h"
#include "05_moe/full_name.h"
#include "common/core/ops.h"

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
    if (cfg->intermediate_size < 1)
        return error_set(err, "intermediate_size is %d; it must be at least 1",
                         cfg->intermediate_size);
    if (!(cfg->rms_norm_eps > 0))
        return error_set(err, "rms_norm_eps is %g; it must be positive", cfg->rms_norm_eps);
    if (cfg->first_k_dense_replace < 0)
        return error_set(err, "first_k_dense_replace is %d; it must be 0 or more",
                         cfg->first_k_dense_replace);
    if (!(cfg->dropout >= 0 && cfg->dropout < 1))
        return error_set(err, "dropout is %g; it must be 0 (off) or below 1", cfg->dropout);
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
    w.input_layernorm =
        params_new(params, full_name(prefix, "input_layernorm.weight").text, SHAPE(hidden));
    if (cfg->attention == ATTENTION_MLA)
        w.mla = mla_init(params, full_name(prefix, "self_attn").text, &cfg->mla);
    else
        w.multihead = multihead_init(params, full_name(prefix, "self_attn").text, &cfg->multihead);
    w.post_attention_layernorm = params_new(
        params, full_name(prefix, "post_attention_layernorm.weight").text, SHAPE(hidden));
    if (w.dense)
        w.mlp = mlp_init(params, full_name(prefix, "mlp").text, hidden, cfg->intermediate_size);
    else
        w.moe = moe_init(params, full_name(prefix, "mlp").text, &cfg->moe);
    return w;
}

void block_randomize(Params *params, const Block *w, float std, float out_std) {
    params_fill(params, w->input_layernorm, 1);
    if (w->mla.o_proj)
        mla_randomize(params, &w->mla, std, out_std);
    else
        multihead_randomize(params, &w->multihead, std, out_std);
    params_fill(params, w->post_attention_layernorm, 1);
    if (w->dense)
        mlp_randomize(params, &w->mlp, std, out_std);
    else
        moe_randomize(params, &w->moe, std, out_std);
}

/* Counted by registering the weights and throwing the list away: there is no second formula that
 * could differ from the model. Nothing is allocated, so 671 billion are no trouble. */
int64_t block_parameters(const BlockConfig *cfg, int layer) {
    Context nowhere = {.device = CPU, .dtype = F32};
    Params params;
    params_init(&params, &nowhere);
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

/* [block_forward] */
/* base + attention(h); base NULL: nothing. */
static Tensor *attention(Context *ctx, Tensor *base, Tensor *h, const Block *w,
                         const BlockConfig *cfg, const Position *position, BlockCache *cache) {
    if (cfg->attention == ATTENTION_MLA)
        return mla_forward_onto(ctx, base, h, &w->mla, &cfg->mla, position,
                                cache ? &cache->latent : NULL, MLA_AUTO);
    CHECK(!position, "block_forward: multi-head attention takes no position");
    h = multihead_forward(ctx, h, &w->multihead, &cfg->multihead, cache ? &cache->kv : NULL);
    return base ? add(ctx, base, h) : h;
}

/* x + dropout(part). Without dropout the part has been added to x where it was made. */
static Tensor *join(Context *ctx, Tensor *x, Tensor *part, float p) {
    return p > 0 ? add(ctx, x, dropout(ctx, part, p)) : part;
}

/* x + attention(rmsnorm(x)). A few tokens behind a latent cache have kernels of their own. */
static Tensor *attention_half(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                              const Position *position, BlockCache *cache, float p) {
    Tensor *norm = w->input_layernorm;
    LatentCache *latent = cache && cfg->attention == ATTENTION_MLA ? &cache->latent : NULL;
    if (latent && mla_few_rows_supports(ctx, x, norm, &w->mla, &cfg->mla, position, latent))
        return mla_few_rows_forward(ctx, x, norm, cfg->rms_norm_eps, &w->mla, &cfg->mla, position,
                                    latent);
    Tensor *h = rmsnorm(ctx, x, norm, cfg->rms_norm_eps);
    return join(ctx, x, attention(ctx, p > 0 ? NULL : x, h, w, cfg, position, cache), p);
}

/* x + ffn(rmsnorm(x)). A few rows, of which nobody wants a record, have kernels of their own. */
static Tensor *ffn_half(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                        MoeRecord *record, float p) {
    Tensor *norm = w->post_attention_layernorm;
    Ffn ffn = w->dense ? (Ffn){.mlp = &w->mlp} : (Ffn){.moe = &w->moe, .cfg = &cfg->moe};
    if (!record && ffn_few_rows_supports(ctx, x, norm, &ffn))
        return ffn_few_rows_forward(ctx, x, norm, cfg->rms_norm_eps, &ffn);
    Tensor *h = rmsnorm(ctx, x, norm, cfg->rms_norm_eps), *base = p > 0 ? NULL : x;
    h = w->dense ? mlp_forward_onto(ctx, base, h, &w->mlp)
                 : moe_forward_onto(ctx, base, h, &w->moe, &cfg->moe, record);
    return join(ctx, x, h, p);
}

Tensor *block_forward(Context *ctx, Tensor *x, const Block *w, const BlockConfig *cfg,
                      const Position *position, BlockCache *cache, MoeRecord *record) {
    check_shape("block_forward", x, ctx->dtype, SHAPE(-1, -1, cfg->hidden_size));
    CHECK(!cache || cache->kind == cfg->attention, "block_forward: a cache of another attention");
    if (record) *record = (MoeRecord){0};
    float p = ctx->recording ? cfg->dropout : 0;
    x = attention_half(ctx, x, w, cfg, position, cache, p);
    return ffn_half(ctx, x, w, cfg, record, p);
}
/* [/block_forward] */
