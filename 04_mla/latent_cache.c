/*
 * The latent cache: its memory, and the call of the copy kernel. `written` is the number of the
 * step whose rows are in the pool, so a layer that writes twice in a step, or before it began, is
 * found.
 */
#include "04_mla/latent_cache.h"

int latent_cache_init(LatentCache *cache, Context *ctx, Pages *pages, int width, Error *err) {
    CHECK(width > 0, "a latent cache with rows of %d numbers", width);
    *cache = (LatentCache){.pages = pages, .width = width, .gpu = ctx->gpu};
    cache->latent = tensor_view(NULL, "latent_cache", ctx->dtype, ctx->device,
                                SHAPE(pages->count, PAGE_TOKENS, width));
    size_t bytes = tensor_bytes(&cache->latent);
    if ((cache->latent.data = device_alloc(ctx->gpu, bytes))) return 0;
    return error_set(err,
                     "no memory for a latent cache of %zu bytes (%d pages of %d tokens, %d "
                     "sequences of up to %d tokens); choose a shorter context, fewer sequences or "
                     "fewer pages",
                     bytes, pages->count, PAGE_TOKENS, pages->batch, pages->capacity);
}

void latent_cache_free(LatentCache *cache) {
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

/* [latent_cache_append] */
void latent_cache_append(Context *ctx, LatentCache *cache, const Tensor *c_kv,
                         const Tensor *k_rope) {
    Pages *pages = cache->pages;
    int64_t B = pages->batch, T = tensor_dim(c_kv, 1), c_width = tensor_dim(c_kv, 2);
    int64_t rope_width = cache->width - c_width;
    DType dtype = cache->latent.dtype;
    CHECK(ctx->device == cache->latent.device, "latent_cache_append: the cache is elsewhere");
    check_shape("latent_cache_append", c_kv, dtype, SHAPE(B, T, c_width));
    CHECK(k_rope || rope_width == 0, "latent_cache_append: rows of %d need k_rope", cache->width);
    if (k_rope) check_shape("latent_cache_append", k_rope, dtype, SHAPE(B, T, rope_width));
    latent_cache_writes(cache, "latent_cache_append", T);
    pages_settle(ctx, pages);
    ON(ctx, latent_append, cache->latent.data, pages->block_table.data, pages->lengths.data,
       c_kv->data, k_rope ? k_rope->data : NULL, B, T, c_width, rope_width, pages->max_pages);
}
/* [/latent_cache_append] */
