/*
 * Multi-head attention, wired from linear layers, chapter 02's kernel and the KV cache.
 *
 * There is no backward function in this file: every operation called here records its own.
 */
#include "03_multihead/multihead.h"

#include "02_causal/causal.h"
#include "03_multihead/decode.h"
#include "common/core/ops.h"

int multihead_check(const MultiheadConfig *cfg, Error *err) {
    int heads = cfg->num_attention_heads, kv_heads = cfg->num_key_value_heads;
    if (cfg->hidden_size <= 0)
        return error_set(err, "hidden_size is %d; it must be at least 1", cfg->hidden_size);
    if (heads <= 0)
        return error_set(err, "num_attention_heads is %d; it must be at least 1", heads);
    if (kv_heads <= 0)
        return error_set(err, "num_key_value_heads is %d; it must be at least 1", kv_heads);
    if (cfg->head_dim <= 0)
        return error_set(err, "head_dim is %d; it must be at least 1", cfg->head_dim);
    if (heads % kv_heads != 0)
        return error_set(err,
                         "num_attention_heads (%d) is not a multiple of num_key_value_heads (%d): "
                         "each key head serves the same number of query heads",
                         heads, kv_heads);
    if (cfg->head_dim > MULTIHEAD_MAX_HEAD_DIM)
        return error_set(err, "head_dim is %d; the attention kernels take at most %d",
                         cfg->head_dim, MULTIHEAD_MAX_HEAD_DIM);
    if (heads > MULTIHEAD_MAX_HEADS)
        return error_set(err, "num_attention_heads is %d; at most %d are supported", heads,
                         MULTIHEAD_MAX_HEADS);
    return 0;
}

Multihead multihead_init(Params *params, const char *prefix, const MultiheadConfig *cfg) {
    Error err = {0};
    CHECK(multihead_check(cfg, &err) == 0, "multihead_init %s: %s", prefix, err.text);
    int hidden = cfg->hidden_size, q = cfg->num_attention_heads * cfg->head_dim;
    int kv = cfg->num_key_value_heads * cfg->head_dim; /* GQA: k and v are narrower than q */
    bool with_bias = cfg->attention_bias;
    Multihead w = {0};
    w.q_proj = params_new(params, prefix, "q_proj.weight", SHAPE(q, hidden));
    if (with_bias) w.q_bias = params_new(params, prefix, "q_proj.bias", SHAPE(q));
    w.k_proj = params_new(params, prefix, "k_proj.weight", SHAPE(kv, hidden));
    if (with_bias) w.k_bias = params_new(params, prefix, "k_proj.bias", SHAPE(kv));
    w.v_proj = params_new(params, prefix, "v_proj.weight", SHAPE(kv, hidden));
    if (with_bias) w.v_bias = params_new(params, prefix, "v_proj.bias", SHAPE(kv));
    w.o_proj = params_new(params, prefix, "o_proj.weight", SHAPE(hidden, q));
    if (with_bias) w.o_bias = params_new(params, prefix, "o_proj.bias", SHAPE(hidden));
    return w;
}

void multihead_randomize(Params *params, const Multihead *w, float std, float out_std) {
    params_normal(params, w->q_proj, std);
    params_normal(params, w->k_proj, std);
    params_normal(params, w->v_proj, std);
    params_normal(params, w->o_proj, out_std);
    Tensor *const biases[] = {w->q_bias, w->k_bias, w->v_bias, w->o_bias};
    for (int i = 0; i < 4; i++)
        if (biases[i]) params_fill(params, biases[i], 0.0f);
}

/*
 * The queries of the last T tokens against the cache, which holds them too by now. The cache is a
 * longer buffer than its length: the shapes say so, and nothing is copied.
 */
static Tensor *cached_attention(Context *ctx, Tensor *q, const KVCache *cache, float scale) {
    int B = (int)q->shape[0], T = (int)q->shape[1], H = (int)q->shape[2], D = (int)q->shape[3];
    int H_kv = (int)cache->k.shape[2], length = cache->length, capacity = cache->capacity;
    const void *k = cache->k.data, *v = cache->v.data;
    Tensor *o = tensor_new(ctx, "attention", q->dtype, SHAPE(B, T, H, D));
    if (T == 1) { /* one new token: every key is needed once, and reading it is all that costs */
        DecodeShape shape = decode_shape(B, H, H_kv, D, length, capacity);
        if (scale != 0) shape.scale = scale;
        Tensor *scratch = tensor_new(ctx, "decode", F32, SHAPE(decode_scratch_floats(shape)));
        ON(ctx, decode_attention, o->data, scratch->data, q->data, k, v, shape);
    } else { /* a prompt, or a chunk of one */
        AttentionShape shape = attention_shape(B, H, H_kv, T, length, D, D, 1);
        shape.k.batch = shape.v.batch = (int64_t)capacity * H_kv * D;
        if (scale != 0) shape.scale = scale;
        Tensor *lse = tensor_new(ctx, "attention.lse", F32, SHAPE(B, H, T));
        ON(ctx, causal_forward, o->data, lse->data, q->data, k, v, shape);
    }
    return o;
}

/* [multihead_forward] */
MultiheadHeads multihead_heads(Context *ctx, Tensor *x, const Multihead *w,
                               const MultiheadConfig *cfg) {
    int64_t B = tensor_dim(x, 0), T = tensor_dim(x, 1);
    int64_t H = cfg->num_attention_heads, H_kv = cfg->num_key_value_heads, D = cfg->head_dim;
    check_shape("multihead_forward", x, ctx->dtype, SHAPE(B, T, cfg->hidden_size));

    /* [B, T, H * D] read as [B, T, H, D]: the heads of a token lie side by side */
    Tensor *q = reshape(ctx, linear(ctx, x, w->q_proj, w->q_bias), SHAPE(B, T, H, D));
    Tensor *k = reshape(ctx, linear(ctx, x, w->k_proj, w->k_bias), SHAPE(B, T, H_kv, D));
    Tensor *v = reshape(ctx, linear(ctx, x, w->v_proj, w->v_bias), SHAPE(B, T, H_kv, D));
    return (MultiheadHeads){q, k, v};
}

Tensor *multihead_attend(Context *ctx, MultiheadHeads h, const Multihead *w,
                         const MultiheadConfig *cfg, float scale, KVCache *cache, Residual to) {
    Tensor *o; /* [B, T, H, D] */
    if (cache) {
        Error err = {0};
        CHECK(!ctx->recording, "multihead_forward: what went through a cache has no gradient");
        CHECK(kv_cache_append(ctx, cache, h.k, h.v, &err) == 0, "multihead_forward: %s", err.text);
        o = cached_attention(ctx, h.q, cache, scale);
    } else {
        o = causal_attention(ctx, h.q, h.k, h.v, scale);
    }
    int64_t width = (int64_t)cfg->num_attention_heads * cfg->head_dim;
    o = reshape(ctx, o, SHAPE(tensor_dim(o, 0), tensor_dim(o, 1), width));
    return linear_residual(ctx, o, w->o_proj, w->o_bias, to);
}

Tensor *multihead_forward(Context *ctx, Tensor *x, const Multihead *w, const MultiheadConfig *cfg,
                          KVCache *cache, Residual to) {
    return multihead_attend(ctx, multihead_heads(ctx, x, w, cfg), w, cfg, 0, cache, to);
}
/* [/multihead_forward] */
