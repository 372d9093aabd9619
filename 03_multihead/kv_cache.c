/*
 * The KV cache: memory, bounds, and the call of the copy kernel.
 *
 * Every check stands before the first write: a cache that refused tokens holds what it held before.
 */
#include "03_multihead/kv_cache.h"

#include <string.h>

int kv_cache_init(KVCache *cache, Context *ctx, int batch, int capacity, int kv_heads, int head_dim,
                  Error *err) {
    CHECK(batch > 0 && kv_heads > 0 && head_dim > 0, "a KV cache of %d sequences, %d heads of %d",
          batch, kv_heads, head_dim);
    memset(cache, 0, sizeof *cache);
    if (capacity <= 0)
        return error_set(err, "a KV cache for %d tokens: give it room for at least one", capacity);
    Tensor t = tensor_view(NULL, "kv_cache.k", ctx->dtype, ctx->device,
                           SHAPE(batch, capacity, kv_heads, head_dim));
    size_t bytes = tensor_bytes(&t);
    void *k = device_alloc(ctx->gpu, bytes);
    void *v = k ? device_alloc(ctx->gpu, bytes) : NULL;
    if (!v) {
        device_free(ctx->gpu, k);
        return error_set(err,
                         "no memory for a KV cache of 2 x %zu bytes (%d sequences of %d tokens); "
                         "choose a shorter context or fewer sequences",
                         bytes, batch, capacity);
    }
    t.data = k;
    cache->k = t;
    t.data = v;
    t.name = "kv_cache.v";
    cache->v = t;
    cache->capacity = capacity;
    cache->gpu = ctx->gpu;
    return 0;
}

void kv_cache_free(KVCache *cache) {
    device_free(cache->gpu, cache->k.data);
    device_free(cache->gpu, cache->v.data);
    memset(cache, 0, sizeof *cache);
}

int kv_cache_room(const KVCache *cache, int tokens, Error *err) {
    int left = cache->capacity - cache->length;
    if (tokens <= left) return 0;
    return error_set(err,
                     "the KV cache is full: it holds %d of %d tokens, so %d more do not fit (room "
                     "for %d); make it longer or generate less",
                     cache->length, cache->capacity, tokens, left);
}

/* [kv_cache_append] */
int kv_cache_append(Context *ctx, KVCache *cache, const Tensor *k, const Tensor *v, Error *err) {
    int64_t batch = cache->k.shape[0], tokens = tensor_dim(k, 1);
    int64_t kv_heads = cache->k.shape[2], head_dim = cache->k.shape[3];
    CHECK(ctx->device == cache->k.device, "kv_cache_append: the cache is on another device");
    check_shape("kv_cache_append", k, cache->k.dtype, SHAPE(batch, tokens, kv_heads, head_dim));
    check_shape("kv_cache_append", v, cache->v.dtype, SHAPE(batch, tokens, kv_heads, head_dim));
    if (kv_cache_room(cache, (int)tokens, err)) return -1; /* before anything is written */

    int64_t width = kv_heads * head_dim; /* all heads of a token lie side by side: one row */
    ON(ctx, kv_append, cache->k.data, k->data, batch, tokens, width, cache->capacity,
       cache->length);
    ON(ctx, kv_append, cache->v.data, v->data, batch, tokens, width, cache->capacity,
       cache->length);
    cache->length += (int)tokens;
    return 0;
}
/* [/kv_cache_append] */

void kv_cache_truncate(KVCache *cache, int length) {
    CHECK(length >= 0 && length <= cache->length, "kv_cache_truncate to %d of %d tokens", length,
          cache->length);
    cache->length = length;
}

int64_t kv_cache_bytes_per_token(int layers, int kv_heads, int head_dim, DType dtype) {
    return 2 * (int64_t)layers * kv_heads * head_dim * (int64_t)dtype_size(dtype);
}
