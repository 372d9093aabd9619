/*
 * The latent cache: its memory, and the calls of the copy kernels. `written` is the number of the
 * step whose rows are in the pool, so a layer that writes twice in a step, or before it began, is
 * found.
 */
#include "04_mla/latent_cache.h"

#include "04_mla/mla_kept.h"

#include <stdlib.h>

static int pool(LatentCache *cache, DType dtype, int64_t row, Error *err) {
    const Pages *pages = cache->pages;
    cache->latent = tensor_view(NULL, "latent_cache", dtype, cache->gpu ? CUDA : CPU,
                                SHAPE(pages->count, PAGE_TOKENS, row));
    size_t bytes = tensor_bytes(&cache->latent);
    if ((cache->latent.data = device_alloc(cache->gpu, bytes))) return 0;
    return error_set(err,
                     "no memory for a latent cache of %zu bytes (%d pages of %d tokens, %d "
                     "sequences of up to %d tokens); choose a shorter context, fewer sequences or "
                     "fewer pages",
                     bytes, pages->count, PAGE_TOKENS, pages->batch, pages->capacity);
}

int latent_cache_init(LatentCache *cache, Context *ctx, Pages *pages, int width, Error *err) {
    CHECK(width > 0, "a latent cache with rows of %d numbers", width);
    *cache = (LatentCache){.pages = pages, .width = width, .gpu = ctx->gpu};
    return pool(cache, ctx->dtype, width, err);
}

int latent_cache_init_e4m3(LatentCache *cache, Context *ctx, Pages *pages, int kv_lora_rank,
                           int rope_dim, Error *err) {
    CHECK(kv_lora_rank > 0 && rope_dim >= 0, "a latent cache with rows of %d + %d numbers",
          kv_lora_rank, rope_dim);
    *cache = (LatentCache){
        .pages = pages, .width = kv_lora_rank + rope_dim, .c_width = kv_lora_rank, .gpu = ctx->gpu};
    if (kv_lora_rank % 4 || rope_dim % 2)
        return error_set(err,
                         "a cache in FP8 needs a kv_lora_rank that is a multiple of 4 and an even "
                         "qk_rope_head_dim; they are %d and %d",
                         kv_lora_rank, rope_dim);
    return pool(cache, F8_E4M3, latent_row_bytes(kv_lora_rank, rope_dim), err);
}

int latent_cache_init_as(LatentCache *cache, Context *ctx, Pages *pages, int kv_lora_rank,
                         int rope_dim, bool e4m3, Error *err) {
    return e4m3 ? latent_cache_init_e4m3(cache, ctx, pages, kv_lora_rank, rope_dim, err)
                : latent_cache_init(cache, ctx, pages, kv_lora_rank + rope_dim, err);
}

bool latent_cache_is_e4m3(const LatentCache *cache) { return cache->latent.dtype == F8_E4M3; }

int latent_cache_add_keys(LatentCache *cache, Context *ctx, int width, bool e4m3, Error *err) {
    cache->keys = must_alloc(1, sizeof *cache->keys);
    return latent_cache_init_as(cache->keys, ctx, cache->pages, width, 0, e4m3, err);
}

void latent_cache_free(LatentCache *cache) {
    if (cache->keys) latent_cache_free(cache->keys);
    free(cache->keys);
    mla_kept_free(cache->kept);
    device_free(cache->gpu, cache->latent.data);
    *cache = (LatentCache){0};
}

void latent_cache_writes(LatentCache *cache, const char *where, int64_t tokens) {
    const Pages *pages = cache->pages;
    CHECK(tokens == pages->step && cache->written != pages->steps,
          "%s: %lld new tokens, but the step has %d%s; pages_begin() comes first", where,
          (long long)tokens, pages->step,
          cache->written == pages->steps ? ", which are in the cache" : "");
    cache->written = pages->steps;
}

void latent_cache_append(Context *ctx, LatentCache *cache, const Tensor *c_kv,
                         const Tensor *k_rope) {
    Pages *pages = cache->pages;
    int64_t B = pages->batch, T = tensor_dim(c_kv, 1), c_width = tensor_dim(c_kv, 2);
    int64_t rope_width = cache->width - c_width;
    DType dtype = ctx->dtype;
    CHECK(ctx->device == cache->latent.device, "latent_cache_append: the cache is elsewhere");
    check_shape("latent_cache_append", c_kv, dtype, SHAPE(B, T, c_width));
    CHECK(k_rope || rope_width == 0, "latent_cache_append: rows of %d need k_rope", cache->width);
    if (k_rope) check_shape("latent_cache_append", k_rope, dtype, SHAPE(B, T, rope_width));
    latent_cache_writes(cache, "latent_cache_append", T);
    pages_settle(ctx, pages);
    if (latent_cache_is_e4m3(cache))
        ON(ctx, latent_append_e4m3, cache->latent.data, pages->block_table.data,
           pages->lengths.data, c_kv->data, k_rope ? k_rope->data : NULL, B, T, c_width, rope_width,
           pages->max_pages);
    else
        ON(ctx, latent_append, cache->latent.data, pages->block_table.data, pages->lengths.data,
           c_kv->data, k_rope ? k_rope->data : NULL, B, T, c_width, rope_width, pages->max_pages);
}

void latent_cache_gather(Context *ctx, const LatentCache *cache, void *c_kv, void *k_rope,
                         int64_t b, int64_t batch, int64_t length, int64_t c_width) {
    const Pages *pages = cache->pages;
    const int32_t *table = (int32_t *)pages->block_table.data + b * pages->max_pages;
    const int32_t *lengths = (int32_t *)pages->lengths.data + b;
    int64_t rope_width = cache->width - c_width;
    if (latent_cache_is_e4m3(cache))
        ON(ctx, latent_gather_e4m3, c_kv, k_rope, cache->latent.data, table, lengths, batch, length,
           c_width, rope_width, pages->max_pages);
    else
        ON(ctx, latent_gather, c_kv, k_rope, cache->latent.data, table, lengths, batch, length,
           c_width, rope_width, pages->max_pages);
}
