/*
 * Multi-head latent attention, wired from linear layers, chapter 02's kernel, the latent cache and
 * the absorbed kernel.
 *
 * Only the naive attention has a backward function of its own: it makes keys that no other
 * operation knows of. All else records itself. See mla.h for the equations.
 */
#include "04_mla/mla.h"

#include "04_mla/mla_kept.h"

#include "02_causal/causal.h"
#include "04_mla/mla_selected.h"
#include "common/core/ops_kernels.h"
#include "common/core/quantised.h"

#include <math.h>

/* ---- what it costs ---- */

float mla_scale(const MlaConfig *cfg, const Position *position) {
    float scale = 1.0f / sqrtf((float)(cfg->qk_nope_head_dim + cfg->qk_rope_head_dim));
    return position ? scale * position->scale : scale;
}

/* Pairs of a query and a key it sees: T new tokens, the last of which sees all S. */
static double pairs_seen(int64_t T, int64_t S) {
    return (double)T * (double)S - (double)T * (double)(T - 1) / 2;
}

double mla_naive_flop(const MlaConfig *cfg, int64_t T, int64_t S) {
    double H = cfg->num_attention_heads, nope = cfg->qk_nope_head_dim, v = cfg->v_head_dim;
    double expand = 2.0 * (double)S * cfg->kv_lora_rank * H * (nope + v);
    return expand + 2.0 * pairs_seen(T, S) * H * (nope + cfg->qk_rope_head_dim + v);
}

double mla_absorbed_flop(const MlaConfig *cfg, int64_t T, int64_t S) {
    double H = cfg->num_attention_heads, nope = cfg->qk_nope_head_dim, v = cfg->v_head_dim;
    double absorb = 2.0 * (double)T * cfg->kv_lora_rank * H * (nope + v);
    return absorb + 2.0 * pairs_seen(T, S) * H * (2.0 * cfg->kv_lora_rank + cfg->qk_rope_head_dim);
}

MlaMode mla_cheaper(const MlaConfig *cfg, int64_t T, int64_t S) {
    return mla_absorbed_flop(cfg, T, S) < mla_naive_flop(cfg, T, S) ? MLA_ABSORBED : MLA_NAIVE;
}

int64_t mla_cache_bytes_per_token(const MlaConfig *cfg, int layers, DType dtype) {
    return (int64_t)layers * (cfg->kv_lora_rank + cfg->qk_rope_head_dim) *
           (int64_t)dtype_size(dtype);
}

/* ---- weights ---- */

Mla mla_init(Params *params, const char *prefix, const MlaConfig *cfg) {
    Error err = {0};
    CHECK(mla_check(cfg, &err) == 0, "mla_init %s: %s", prefix, err.text);
    int hidden = cfg->hidden_size, H = cfg->num_attention_heads;
    int nope = cfg->qk_nope_head_dim, rope = cfg->qk_rope_head_dim, v = cfg->v_head_dim;
    int q_rank = cfg->q_lora_rank, kv_rank = cfg->kv_lora_rank, q = H * (nope + rope);
    Mla w = {0};
    if (q_rank) {
        w.q_a_proj = params_new(params, prefix, "q_a_proj.weight", SHAPE(q_rank, hidden));
        w.q_a_layernorm = params_new(params, prefix, "q_a_layernorm.weight", SHAPE(q_rank));
        w.q_b_proj = params_new(params, prefix, "q_b_proj.weight", SHAPE(q, q_rank));
    } else {
        w.q_proj = params_new(params, prefix, "q_proj.weight", SHAPE(q, hidden));
    }
    w.kv_a_proj =
        params_new(params, prefix, "kv_a_proj_with_mqa.weight", SHAPE(kv_rank + rope, hidden));
    w.kv_a_layernorm = params_new(params, prefix, "kv_a_layernorm.weight", SHAPE(kv_rank));
    w.kv_b_proj = params_new(params, prefix, "kv_b_proj.weight", SHAPE(H * (nope + v), kv_rank));
    w.o_proj = params_new(params, prefix, "o_proj.weight", SHAPE(hidden, H * v));
    if (cfg->attention_bias) {
        if (q_rank) w.q_a_bias = params_new(params, prefix, "q_a_proj.bias", SHAPE(q_rank));
        w.kv_a_bias = params_new(params, prefix, "kv_a_proj_with_mqa.bias", SHAPE(kv_rank + rope));
        w.o_bias = params_new(params, prefix, "o_proj.bias", SHAPE(hidden));
    }
    return w;
}

void mla_randomize(Params *params, const Mla *w, float std, float out_std) {
    Tensor *const matrices[] = {w->q_proj, w->q_a_proj, w->q_b_proj, w->kv_a_proj, w->kv_b_proj};
    Tensor *const norms[] = {w->q_a_layernorm, w->kv_a_layernorm};
    Tensor *const biases[] = {w->q_a_bias, w->kv_a_bias, w->o_bias};
    for (int i = 0; i < 5; i++)
        if (matrices[i]) params_normal(params, matrices[i], std);
    params_normal(params, w->o_proj, out_std);
    for (int i = 0; i < 2; i++)
        if (norms[i]) params_fill(params, norms[i], 1.0f);
    for (int i = 0; i < 3; i++)
        if (biases[i]) params_fill(params, biases[i], 0.0f);
}

/* ---- naive attention ---- */

MlaShape mla_kernel_shape(const MlaConfig *cfg) {
    return (MlaShape){cfg->num_attention_heads, cfg->qk_nope_head_dim, cfg->qk_rope_head_dim,
                      cfg->v_head_dim, cfg->kv_lora_rank};
}

/* T queries of each of B sequences against S keys; the values are read inside kv. */
static AttentionShape naive_shape(MlaShape mla, int64_t B, int64_t T, int64_t S, float scale) {
    int row = mla.nope + mla.v; /* one head of kv: [k_nope | v] */
    AttentionShape shape = attention_shape((int)B, mla.heads, mla.heads, (int)T, (int)S,
                                           mla.nope + mla.rope, mla.v, 1);
    shape.v = (HeadStrides){S * mla.heads * row, (int64_t)mla.heads * row, row};
    shape.scale = scale;
    return shape;
}

/* Element i of a tensor of activations. */
static void *at(const Tensor *t, int64_t i) {
    return (char *)t->data + i * (int64_t)dtype_size(t->dtype);
}

typedef struct NaiveSaved {
    Tensor *o, *q, *kv, *k_rope, *k;
    const float *lse; /* [B, H, T] */
    AttentionShape shape;
    MlaShape mla;
    const void *work; /* of what was selected, as the forward left it; NULL: all */
    int count;        /* entries of a list */
} NaiveSaved;

/*
 * o and lse of q's T tokens, which are the last of S. Here it is chosen between chapter 02's
 * kernels and those for a selection I32 [B, T, count], whose work is returned; NULL: all, and
 * there is none.
 */
static void *naive_kernel(Context *ctx, void *o, float *lse, const void *q, const void *k,
                          const void *v, AttentionShape shape, const int32_t *selected,
                          int64_t count) {
    if (!selected) {
        ON(ctx, causal_forward, o, lse, q, k, v, shape);
        return NULL;
    }
    SelectedShape sparse = {.attention = shape, .count = (int)count};
    void *work = arena_alloc(&ctx->data, ON(ctx, selected_work, sparse));
    ON(ctx, selected_forward, o, lse, q, k, v, selected, work, sparse);
    return work;
}

static float *naive_scratch(Context *ctx, AttentionShape shape) {
    size_t bytes = ON(ctx, causal_backward_scratch, shape);
    return bytes ? arena_alloc(&ctx->data, bytes) : NULL;
}

/*
 * dkv is written in two parts that together cover it: v's by attention, through the strides of kv,
 * and k_nope's from dk. k was kept from the forward pass. dk is needed here alone and given back.
 */
static void naive_backward(Context *ctx, void *saved) {
    NaiveSaved *s = saved;
    int add_q, add_kv, add_rope;
    void *dq = grad_slot(ctx, s->q, &add_q);
    void *dkv = grad_slot(ctx, s->kv, &add_kv);
    void *dk_rope = grad_slot(ctx, s->k_rope, &add_rope);
    ArenaMark mark = arena_mark(&ctx->data); /* behind the gradients, which stay */
    void *dv = dkv ? at(s->kv->grad, s->mla.nope) : NULL;
    void *dk = dkv || dk_rope ? arena_alloc(&ctx->data, tensor_bytes(s->k)) : NULL;
    const void *d_o = s->o->grad->data, *q = s->q->data, *k = s->k->data;
    const void *v = at(s->kv, s->mla.nope);
    if (s->work) {
        SelectedShape sparse = {.attention = s->shape, .count = s->count};
        size_t bytes = ON(ctx, selected_backward_scratch, sparse);
        void *scratch = bytes ? arena_alloc(&ctx->data, bytes) : NULL;
        ON(ctx, selected_backward, dq, add_q, dk, 0, dv, add_kv, scratch, d_o, q, k, v, s->o->data,
           s->lse, s->work, sparse);
    } else {
        ON(ctx, causal_backward, dq, add_q, dk, 0, dv, add_kv, naive_scratch(ctx, s->shape), d_o, q,
           k, v, s->o->data, s->lse, s->shape);
    }
    if (dk)
        ON(ctx, mla_keys_backward, dkv, add_kv, dk_rope, add_rope, dk,
           (int64_t)s->shape.batch * s->shape.kv_len, s->mla);
    arena_release(&ctx->data, mark);
}

/* The list of sequences b and after it, in T queries each; NULL: all. */
static const int32_t *selected_from(const Tensor *selected, int64_t b) {
    if (!selected) return NULL;
    return (int32_t *)selected->data + b * tensor_dim(selected, 1) * tensor_dim(selected, 2);
}

/* mla_naive_attention; *attended (NULL: nobody asks) is for who learns from it. */
static Tensor *naive_attention(Context *ctx, Tensor *q, Tensor *kv, Tensor *k_rope,
                               const Tensor *selected, const MlaConfig *cfg, float scale,
                               Attended *attended) {
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1), S = tensor_dim(kv, 1);
    MlaShape mla = mla_kernel_shape(cfg);
    int64_t H = mla.heads, qk = mla.nope + mla.rope;
    check_shape("mla_naive_attention", q, ctx->dtype, SHAPE(B, T, H, qk));
    check_shape("mla_naive_attention", kv, ctx->dtype, SHAPE(B, S, H, mla.nope + mla.v));
    CHECK(!k_rope == !mla.rope, "mla_naive_attention: k_rope must be there if its width is not 0");
    if (k_rope) check_shape("mla_naive_attention", k_rope, ctx->dtype, SHAPE(B, S, mla.rope));
    if (selected) check_shape("mla_naive_attention", selected, I32, SHAPE(B, T, -1));
    AttentionShape shape = naive_shape(mla, B, T, S, scale);
    attention_shape_check("mla_naive_attention", &shape);
    shape.tiles = 1; /* short texts, too: a token's numbers do not depend on those behind it */

    Tensor *o = tensor_new(ctx, "attention", ctx->dtype, SHAPE(B, T, H, mla.v));
    ArenaMark mark = arena_mark(&ctx->data);
    Tensor *k = tensor_new(ctx, "keys", ctx->dtype, SHAPE(B, S, H, qk));
    ON(ctx, mla_keys, k->data, kv->data, k_rope ? k_rope->data : NULL, B * S, mla);
    float *lse = arena_alloc(&ctx->data, sizeof(float) * (size_t)(B * H * T));
    int64_t count = selected ? tensor_dim(selected, 2) : 0;
    void *work = naive_kernel(ctx, o->data, lse, q->data, k->data, at(kv, mla.nope), shape,
                              selected_from(selected, 0), count);
    if (attended) *attended = (Attended){q, k, lse, selected, scale};
    RECORD(ctx, o, naive_backward, NaiveSaved, .o = o, .q = q, .kv = kv, .k_rope = k_rope, .k = k,
           .lse = lse, .shape = shape, .mla = mla, .work = work, .count = (int)count);
    if (!ctx->recording) arena_release(&ctx->data, mark); /* else backward needs them */
    return o;
}

Tensor *mla_naive_attention(Context *ctx, Tensor *q, Tensor *kv, Tensor *k_rope,
                            const Tensor *selected, const MlaConfig *cfg, float scale) {
    return naive_attention(ctx, q, kv, k_rope, selected, cfg, scale, NULL);
}

/* q's sequences are the cache's, their last T tokens are in it, and it and kv_b_proj, whose numbers
 * are used as they lie, have the sizes that cfg says. */
static void check_cached(const char *where, Context *ctx, const Tensor *q, const Mla *w,
                         const MlaConfig *cfg, const LatentCache *cache) {
    MlaShape mla = mla_kernel_shape(cfg);
    const Pages *pages = cache->pages;
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1), H = mla.heads;
    CHECK(!ctx->recording, "%s: what went through a cache has no gradient", where);
    CHECK(B == pages->batch, "%s: queries of %lld sequences, a cache of %d", where, (long long)B,
          pages->batch);
    CHECK(cache->width == mla.kv_lora_rank + mla.rope,
          "%s: a cache with rows of %d numbers; kv_lora_rank + qk_rope_head_dim is %d + %d", where,
          cache->width, mla.kv_lora_rank, mla.rope);
    for (int b = 0; b < pages->batch; b++)
        CHECK(T <= pages->length[b],
              "%s: queries of the last %lld tokens, but sequence %d holds %d; append them first",
              where, (long long)T, b, pages->length[b]);
    check_shape(where, q, ctx->dtype, SHAPE(B, T, H, mla.nope + mla.rope));
    bool e4m3 = latent_cache_is_e4m3(cache);
    CHECK(!e4m3 || cache->c_width == mla.kv_lora_rank,
          "%s: a cache of %d + %d numbers; kv_lora_rank is %d", where, cache->c_width,
          cache->width - cache->c_width, mla.kv_lora_rank);
    int64_t row = e4m3 ? latent_row_bytes(mla.kv_lora_rank, mla.rope) : cache->width;
    check_shape(where, &cache->latent, e4m3 ? F8_E4M3 : ctx->dtype,
                SHAPE(pages->count, PAGE_TOKENS, row));
    const Tensor *kv_b = w->kv_b_proj;
    if (kv_b->quantised) quantised_check(ctx, where, kv_b);
    check_shape(where, kv_b, kv_b->quantised ? kv_b->dtype : ctx->dtype,
                SHAPE(H * (mla.nope + mla.v), mla.kv_lora_rank));
}

/*
 * Naive with a cache: the latents are read back, and keys and values are made again for all tokens.
 * The queries are the last T of each sequence, wherever it ends, so sequences of different lengths
 * go one after the other, through the same buffers. These are given back at the end: for 8,192
 * tokens of V3 they are 1 GB, and all layers would keep theirs to the end of the step.
 */
static Tensor *naive_from_cache(Context *ctx, Tensor *q, const Tensor *selected, const Mla *w,
                                const MlaConfig *cfg, const LatentCache *cache, bool tiles,
                                float scale) {
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1), most = 0; /* tokens of a batch */
    MlaShape mla = mla_kernel_shape(cfg);
    const Pages *pages = cache->pages;
    int64_t H = mla.heads, qk = mla.nope + mla.rope, rank = mla.kv_lora_rank;
    check_cached("mla_forward", ctx, q, w, cfg, cache);
    for (int64_t b = 0, count; b < B; b += count) {
        count = pages_alike(pages, (int)b);
        if (count * pages->length[b] > most) most = count * pages->length[b];
    }
    Tensor *o = tensor_new(ctx, "attention", ctx->dtype, SHAPE(B, T, H, mla.v));
    ArenaMark mark = arena_mark(&ctx->data);
    Tensor *c_kv = tensor_new(ctx, "c_kv", ctx->dtype, SHAPE(most, rank));
    Tensor *k_rope = tensor_new(ctx, "k_rope", ctx->dtype, SHAPE(most, mla.rope));
    Tensor *kv = tensor_new(ctx, "kv", ctx->dtype, SHAPE(most, H, mla.nope + mla.v));
    Tensor *k = tensor_new(ctx, "keys", ctx->dtype, SHAPE(most, H, qk));
    float *lse = arena_alloc(&ctx->data, sizeof(float) * (size_t)(B * H * T));
    for (int64_t b = 0, count; b < B; b += count) {
        count = pages_alike(pages, (int)b);
        int64_t S = pages->length[b];
        latent_cache_gather(ctx, cache, c_kv->data, k_rope->data, b, count, S, rank);
        if (w->kv_b_proj->quantised)
            w->kv_b_proj->quantised->products->linear(ctx, kv->data, NULL, c_kv->data, w->kv_b_proj,
                                                      NULL, count * S);
        else
            ON(ctx, linear_forward, kv->data, c_kv->data, w->kv_b_proj->data, NULL, count * S, rank,
               H * (mla.nope + mla.v));
        ON(ctx, mla_keys, k->data, kv->data, k_rope->data, count * S, mla);
        ArenaMark group = arena_mark(&ctx->data);
        AttentionShape shape = naive_shape(mla, count, T, S, scale);
        shape.tiles = tiles;
        naive_kernel(ctx, at(o, b * T * H * mla.v), lse, at(q, b * T * H * qk), k->data,
                     at(kv, mla.nope), shape, selected_from(selected, b),
                     selected ? tensor_dim(selected, 2) : 0);
        arena_release(&ctx->data, group);
    }
    arena_release(&ctx->data, mark);
    return o;
}

/* ---- absorbed attention ---- */

static float *decode_scratch(Context *ctx, MlaDecodeShape shape) {
    return arena_alloc(&ctx->data, ON(ctx, mla_decode_scratch, shape));
}

MlaDecodeShape mla_decode_shape(const MlaConfig *cfg, const LatentCache *cache, int64_t T,
                                float scale) {
    const Pages *pages = cache->pages;
    int longest = pages_longest(pages);
    return (MlaDecodeShape){.batch = pages->batch,
                            .q_len = (int)T,
                            .heads = cfg->num_attention_heads,
                            .kv_lora_rank = cfg->kv_lora_rank,
                            .rope_dim = cfg->qk_rope_head_dim,
                            .pages = pages->count,
                            .max_pages = pages->max_pages,
                            .max_length = longest > pages->horizon ? longest : pages->horizon,
                            .e4m3 = latent_cache_is_e4m3(cache),
                            .scale = scale};
}

/* As mla_decode, of what is selected: I32 [B, T, k]. */
static void absorbed_selected(Context *ctx, Tensor *o_latent, Tensor *q_absorbed,
                              const Tensor *selected, const LatentCache *cache, MlaDecodeShape s) {
    const Pages *pages = cache->pages;
    check_shape("mla_forward: selection", selected, I32, SHAPE(s.batch, s.q_len, -1));
    int count = (int)tensor_dim(selected, 2);
#ifdef WITH_CUDA
    SelectedShape prompt =
        selected_pages_shape(pages->block_table.data, pages->lengths.data, count, s);
    if (ctx->device == CUDA && selected_prompt_fits(ctx->gpu, ctx->dtype, count, s)) {
        void *lists = arena_alloc(&ctx->data, ON(ctx, selected_work, prompt));
        ON(ctx, selected_forward, o_latent->data, NULL, q_absorbed->data, cache->latent.data,
           cache->latent.data, selected->data, lists, prompt);
        return;
    }
#endif
    void *work = arena_alloc(&ctx->data, ON(ctx, selected_decode_work, count, s));
    ON(ctx, selected_decode, o_latent->data, work, q_absorbed->data, cache->latent.data,
       pages->block_table.data, pages->lengths.data, selected->data, count, s);
}

/* The two products with kv_b_proj: the kernels of mla.h, or its own where it is quantised. */
static void absorb_query(Context *ctx, Tensor *q_absorbed, const Tensor *q, const Tensor *kv_b,
                         int64_t rows, MlaShape mla) {
    if (kv_b->quantised)
        kv_b->quantised->products->absorb_query(ctx, q_absorbed->data, q->data, kv_b, rows, mla);
    else
        ON(ctx, mla_absorb_query, q_absorbed->data, q->data, kv_b->data, rows, mla);
}

static void absorb_output(Context *ctx, Tensor *o, const Tensor *o_latent, const Tensor *kv_b,
                          int64_t rows, MlaShape mla) {
    if (kv_b->quantised)
        kv_b->quantised->products->absorb_output(ctx, o->data, o_latent->data, kv_b, rows, mla);
    else
        ON(ctx, mla_absorb_output, o->data, o_latent->data, kv_b->data, rows, mla);
}

/* [absorbed] */
Tensor *mla_absorbed_attention(Context *ctx, Tensor *q, const Tensor *selected, const Mla *w,
                               const MlaConfig *cfg, const LatentCache *cache, float scale) {
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1);
    MlaShape mla = mla_kernel_shape(cfg);
    int64_t H = mla.heads, rank = mla.kv_lora_rank;
    const Pages *pages = cache->pages;
    check_cached("mla_absorbed_attention", ctx, q, w, cfg, cache);
    MlaDecodeShape shape = mla_decode_shape(cfg, cache, T, scale);
    Tensor *o = tensor_new(ctx, "attention", ctx->dtype, SHAPE(B, T, H, mla.v));
    ArenaMark mark = arena_mark(&ctx->data); /* from here on: needed by this function alone */

    /* W_uk moves to the query and W_uv after the sum: q_absorbed = [q_nope W_uk | q_rope] */
    Tensor *q_absorbed = tensor_new(ctx, "q_absorbed", ctx->dtype, SHAPE(B, T, H, rank + mla.rope));
    Tensor *o_latent = tensor_new(ctx, "o_latent", ctx->dtype, SHAPE(B, T, H, rank));
    absorb_query(ctx, q_absorbed, q, w->kv_b_proj, B * T, mla);
    if (selected)
        absorbed_selected(ctx, o_latent, q_absorbed, selected, cache, shape);
    else
        ON(ctx, mla_decode, o_latent->data, decode_scratch(ctx, shape), q_absorbed->data,
           cache->latent.data, pages->block_table.data, pages->lengths.data, shape);
    absorb_output(ctx, o, o_latent, w->kv_b_proj, B * T, mla);
    arena_release(&ctx->data, mark);
    return o;
}
/* [/absorbed] */

/* ---- the module ---- */

/*
 * Turns q's last numbers and the shared key by their positions, in place. The key is seen as that
 * of one head, [B, T, 1, rope]; what comes back stands behind the rotation on the tape.
 */
static Tensor *rotate(Context *ctx, const Position *position, Tensor *q, Tensor *k_rope,
                      const LatentCache *cache) {
    int64_t B = tensor_dim(q, 0), T = tensor_dim(q, 1), rope = tensor_dim(k_rope, -1);
    Error err = {0};
    int64_t first = cache ? pages_longest(cache->pages) - T : 0;
    CHECK(position_room(position, first, T, &err) == 0, "mla_forward: %s", err.text);
    Tensor *positions = cache ? pages_positions(ctx, cache->pages) : positions_from(ctx, B, T, 0);
    Tensor *one_head = reshape(ctx, k_rope, SHAPE(B, T, 1, rope));
    position->rotate(ctx, position, q, one_head, (int)rope, positions);
    return reshape(ctx, one_head, SHAPE(B, T, rope));
}

/* Attention of the new tokens, which have joined the cache, over all of it, or what is selected. */
static Tensor *cached_attention(Context *ctx, Tensor *q, const Tensor *selected, const Mla *w,
                                const MlaConfig *cfg, LatentCache *cache, MlaMode mode,
                                float scale) {
    const Pages *pages = cache->pages;
    CHECK(!ctx->recording, "mla_forward: what went through a cache has no gradient");
    Tensor *o = NULL;
    int64_t T = tensor_dim(q, 1), S = pages_longest(pages);
    if (mode == MLA_AS_TRAINED) o = mla_kept_attention(ctx, q, selected, w, cfg, cache, scale);
    if (o) return o;
    if (mode == MLA_AUTO) /* a captured step must fit every length: only the absorbed one does */
        mode = pages->horizon ? MLA_ABSORBED
               : selected     ? mla_selected_cheaper(cfg, T, S, tensor_dim(selected, 2))
                              : mla_cheaper(cfg, T, S);
    return mode == MLA_ABSORBED
               ? mla_absorbed_attention(ctx, q, selected, w, cfg, cache, scale)
               : naive_from_cache(ctx, q, selected, w, cfg, cache, mode == MLA_AS_TRAINED, scale);
}

/* [mla_forward] */
Tensor *mla_forward(Context *ctx, Tensor *x, const Mla *w, const MlaConfig *cfg,
                    const Position *position, const Selection *selection, LatentCache *cache,
                    MlaMode mode, Residual to) {
    int64_t B = tensor_dim(x, 0), T = tensor_dim(x, 1), H = cfg->num_attention_heads;
    int64_t nope = cfg->qk_nope_head_dim, rope = cfg->qk_rope_head_dim, v = cfg->v_head_dim;
    int64_t rank = cfg->kv_lora_rank;
    float scale = mla_scale(cfg, position);
    check_shape("mla_forward", x, ctx->dtype, SHAPE(B, T, cfg->hidden_size));
    CHECK(cache || selection || mode != MLA_ABSORBED,
          "mla_forward: absorbed attention needs a cache or a selection");

    /* c_q = RMSNorm(x W_dq), q = c_q W_uq: per head [nope | rope] (V2, eq. 12-14, 37-39) */
    Tensor *c_q = x;
    if (cfg->q_lora_rank)
        c_q =
            rmsnorm(ctx, linear(ctx, x, w->q_a_proj, w->q_a_bias), w->q_a_layernorm, MLA_NORM_EPS);
    Tensor *q = linear(ctx, c_q, cfg->q_lora_rank ? w->q_b_proj : w->q_proj, NULL);
    q = reshape(ctx, q, SHAPE(B, T, H, nope + rope));

    /* c_kv = RMSNorm(x W_dkv), k_rope = x W_kr: all that a cache keeps of a token (eq. 9, 43) */
    Tensor *latent = linear(ctx, x, w->kv_a_proj, w->kv_a_bias); /* [B, T, rank + rope] */
    Tensor *c_kv = rmsnorm(ctx, slice(ctx, latent, 0, rank), w->kv_a_layernorm, MLA_NORM_EPS);
    Tensor *k_rope = rope ? slice(ctx, latent, rank, rope) : NULL;
    if (position && rope) k_rope = rotate(ctx, position, q, k_rope, cache);

    if (cache) latent_cache_append(ctx, cache, c_kv, k_rope);
    Tensor *selected = /* I32 [B, T, k], the tokens that each query sees; NULL: all (V3.2, 2.1) */
        selection ? selection->select(ctx, selection, x, c_q, cache) : NULL;

    Tensor *heads; /* [B, T, H, v] */
    Attended attended = {0};
    bool absorbs = selected && (mode == MLA_ABSORBED || mla_selected_fits(ctx, cfg, w->kv_b_proj));
    if (cache) {
        heads = cached_attention(ctx, q, selected, w, cfg, cache, mode, scale);
    } else if (absorbs) {
        heads = mla_selected_attention(ctx, q, c_kv, k_rope, selected, w->kv_b_proj, cfg, scale,
                                       &attended);
    } else { /* k_nope and v of every head from the latent (eq. 10-11, 42, 45) */
        Tensor *kv = linear(ctx, c_kv, w->kv_b_proj, NULL);
        kv = reshape(ctx, kv, SHAPE(B, T, H, nope + v));
        heads = naive_attention(ctx, q, kv, k_rope, selected, cfg, scale, &attended);
    }
    if (ctx->recording && attended.q && selection && selection->learn)
        selection->learn(ctx, selection, &attended);
    heads = reshape(ctx, heads, SHAPE(B, T, H * v));
    return linear_residual(ctx, heads, w->o_proj, w->o_bias, to); /* eq. 47 */
}
/* [/mla_forward] */
