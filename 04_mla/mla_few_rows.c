/*
 * Latent attention for a few new tokens: what fits, and the order of the five kernels.
 *
 *     1 norm, both down projections    2 absorbed queries, the cache's new rows
 *     3, 4 attention over the pages, and the way out of the latents    5 o_proj onto x
 */
#include "04_mla/mla_few_rows.h"

#include "common/core/ops.h"
#include "common/cuda/few_rows.h"

#ifdef WITH_CUDA

static MlaFewRows kernel_arguments(const Mla *w, const MlaConfig *cfg, const Position *position,
                                   const LatentCache *cache, int tokens) {
    return (MlaFewRows){.shape = {cfg->num_attention_heads, cfg->qk_nope_head_dim,
                                  cfg->qk_rope_head_dim, cfg->v_head_dim, cfg->kv_lora_rank},
                        .batch = cache->pages->batch,
                        .tokens = tokens,
                        .q_lora_rank = cfg->q_lora_rank,
                        .q_norm = w->q_a_layernorm ? w->q_a_layernorm->data : NULL,
                        .q_b_proj = few_rows_weight(w->q_b_proj),
                        .kv_b_proj = few_rows_weight(w->kv_b_proj),
                        .kv_norm = w->kv_a_layernorm->data,
                        .cache = cache->latent.data,
                        .e4m3 = latent_cache_is_e4m3(cache),
                        .block_table = cache->pages->block_table.data,
                        .lengths = cache->pages->lengths.data,
                        .max_pages = cache->pages->max_pages,
                        .angles = position ? position->angles : (PositionAngles){0},
                        .max_position = position ? position->max_position : 0};
}

/* Kernel 1: norm, and both down projections (or the whole q). */
static FewRowsLinear down(const Tensor *x, const Tensor *norm, float eps, const Mla *w) {
    const Tensor *q = w->q_proj ? w->q_proj : w->q_a_proj;
    return (FewRowsLinear){
        .x = x->data,
        .norm = norm->data,
        .eps = eps,
        .rows = tensor_rows(x),
        .in = tensor_dim(x, -1),
        .part = {{.w = few_rows_weight(q), .bias = w->q_a_bias ? w->q_a_bias->data : NULL},
                 {.w = few_rows_weight(w->kv_a_proj),
                  .bias = w->kv_a_bias ? w->kv_a_bias->data : NULL}}};
}

bool mla_few_rows_supports(Context *ctx, const Tensor *x, const Tensor *norm, const Mla *w,
                           const MlaConfig *cfg, const Position *position,
                           const LatentCache *cache) {
    const Tensor *pool = cache && !latent_cache_is_e4m3(cache) ? &cache->latent : NULL;
    const Tensor *const used[] = {x,           norm,         w->q_a_layernorm, w->kv_a_layernorm,
                                  w->q_a_bias, w->kv_a_bias, w->o_bias,        pool};
    if (ctx->device != CUDA || ctx->recording || !cache || x->ndim != 3 ||
        !tensors_have_dtype(used, sizeof used / sizeof *used, ctx->dtype))
        return false;
    int T = (int)tensor_dim(x, 1);
    FewRowsLinear first = down(x, norm, 0, w);
    MlaFewRows m = kernel_arguments(w, cfg, position, cache, T);
    FewRowsWeight o_proj = few_rows_weight(w->o_proj);
    return few_rows_supports(ctx->gpu, ctx->dtype, &first) &&
           few_rows_weight_supports(&o_proj, ctx->dtype) &&
           (!position || position->angles.dim == cfg->qk_rope_head_dim) &&
           mla_few_rows_query_supports(ctx->gpu, ctx->dtype, &m);
}

Tensor *mla_few_rows_forward(Context *ctx, Tensor *x, const Tensor *norm, float eps, const Mla *w,
                             const MlaConfig *cfg, const Position *position, LatentCache *cache) {
    int64_t B = tensor_dim(x, 0), T = tensor_dim(x, 1), H = cfg->num_attention_heads;
    int64_t rank = cfg->kv_lora_rank, rope = cfg->qk_rope_head_dim, v = cfg->v_head_dim;
    Error err = {0};
    CHECK(mla_few_rows_supports(ctx, x, norm, w, cfg, position, cache),
          "mla_few_rows_forward: not these sizes");
    Pages *pages = cache->pages;
    check_shape("mla_few_rows_forward", x, ctx->dtype, SHAPE(pages->batch, T, cfg->hidden_size));
    CHECK(position_room(position, pages_longest(pages) - T, T, &err) == 0,
          "mla_few_rows_forward: %s", err.text);
    latent_cache_writes(cache, "mla_few_rows_forward", T);

    FewRowsLinear first = down(x, norm, eps, w);
    first.advance = pages->lengths.data, first.advance_count = pages->batch;
    first.advance_by = pages_take_ahead(pages); /* in the first layer; then there is nothing left */
    MlaFewRows m = kernel_arguments(w, cfg, position, cache, (int)T);
    MlaDecodeShape shape = mla_decode_shape(cfg, cache, T, mla_scale(cfg, position));
    shape.as_single = true;
    Tensor *heads = tensor_new(ctx, "attention", ctx->dtype, SHAPE(B, T, H * v));
    ArenaMark mark = arena_mark(&ctx->data);
    Tensor *c_q = tensor_new(ctx, "c_q", ctx->dtype, SHAPE(B, T, first.part[0].w.out));
    Tensor *latent = tensor_new(ctx, "latent", ctx->dtype, SHAPE(B, T, rank + rope));
    Tensor *q_absorbed = tensor_new(ctx, "q_absorbed", ctx->dtype, SHAPE(B, T, H, rank + rope));
    Tensor *o_latent = tensor_new(ctx, "o_latent", ctx->dtype, SHAPE(B, T, H, rank));
    float *scratch = arena_alloc(&ctx->data, mla_decode_scratch_cuda(ctx->gpu, ctx->dtype, shape));
    m.c_q = first.part[0].y = c_q->data;
    m.latent = first.part[1].y = latent->data;
    m.q_absorbed = q_absorbed->data, m.o = heads->data;

    few_rows_linear_cuda(ctx->gpu, ctx->dtype, &first);
    mla_few_rows_query_cuda(ctx->gpu, ctx->dtype, &m);
    mla_few_rows_attention_cuda(ctx->gpu, ctx->dtype, &m, o_latent->data, scratch, shape);
    arena_release(&ctx->data, mark);
    return linear_residual(ctx, heads, w->o_proj, w->o_bias, (Residual){.x = x});
}

#else

bool mla_few_rows_supports(Context *ctx, const Tensor *x, const Tensor *norm, const Mla *w,
                           const MlaConfig *cfg, const Position *position,
                           const LatentCache *cache) {
    return (void)ctx, (void)x, (void)norm, (void)w, (void)cfg, (void)position, (void)cache, false;
}

Tensor *mla_few_rows_forward(Context *ctx, Tensor *x, const Tensor *norm, float eps, const Mla *w,
                             const MlaConfig *cfg, const Position *position, LatentCache *cache) {
    (void)ctx, (void)x, (void)norm, (void)eps, (void)w, (void)cfg, (void)position, (void)cache;
    CHECK(0, "mla_few_rows_forward: built without CUDA");
    return NULL;
}

#endif
