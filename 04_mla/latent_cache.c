/*
 * The latent cache: pages, bounds, and the calls of the copy kernels.
 *
 * Every decision is made on the host's copies of lengths and block table. They are brought to the
 * device only when a page changed hands or a sequence was cut, so most steps upload nothing and can
 * be captured as a CUDA graph. Every check stands before the first change: a cache that refused
 * tokens holds what it held before.
 */
#include "04_mla/latent_cache.h"
#include "04_mla/position.h"

#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

/* Host's numbers to the device's copy. */
static void bring_lengths(const LatentCache *cache) {
    device_put(cache->gpu, cache->lengths.data, cache->length, tensor_bytes(&cache->lengths));
}

static void bring_table(const LatentCache *cache) {
    device_put(cache->gpu, cache->block_table.data, cache->table,
               tensor_bytes(&cache->block_table));
}

static int64_t pages_for(int64_t tokens) { return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS; }

static int check_sizes(int batch, int capacity, int pages, int width, Error *err) {
    CHECK(width > 0, "a latent cache with rows of %d numbers", width);
    if (batch <= 0)
        return error_set(err, "a latent cache for %d sequences: it needs at least one", batch);
    if (capacity <= 0)
        return error_set(err, "a latent cache for %d tokens: give it room for at least one",
                         capacity);
    if (pages < 0)
        return error_set(err, "a latent cache of %d pages: give at least 1, or 0 for enough",
                         pages);
    if (pages == 0 && batch * pages_for(capacity) > INT32_MAX)
        return error_set(err,
                         "a latent cache for %d sequences of %d tokens would need %lld pages; at "
                         "most %d can be counted",
                         batch, capacity, (long long)(batch * pages_for(capacity)), INT32_MAX);
    return 0;
}

int latent_cache_init(LatentCache *cache, Context *ctx, int batch, int capacity, int pages,
                      int width, Error *err) {
    memset(cache, 0, sizeof *cache);
    if (check_sizes(batch, capacity, pages, width, err)) return -1;
    int max_pages = (int)pages_for(capacity);
    if (!pages) pages = batch * max_pages;
    cache->gpu = ctx->gpu;
    cache->batch = batch, cache->pages = pages, cache->max_pages = max_pages;
    cache->width = width, cache->capacity = capacity;
    cache->latent = tensor_view(NULL, "latent_cache", ctx->dtype, ctx->device,
                                SHAPE(pages, PAGE_TOKENS, width));
    cache->block_table =
        tensor_view(NULL, "block_table", I32, ctx->device, SHAPE(batch, max_pages));
    cache->lengths = tensor_view(NULL, "lengths", I32, ctx->device, SHAPE(batch));
    Tensor *const tensors[] = {&cache->latent, &cache->block_table, &cache->lengths};
    bool there = true;
    for (int i = 0; i < 3; i++)
        there = there && (tensors[i]->data = device_alloc(ctx->gpu, tensor_bytes(tensors[i])));
    if (!there) {
        size_t bytes = tensor_bytes(&cache->latent);
        latent_cache_free(cache);
        return error_set(err,
                         "no memory for a latent cache of %zu bytes (%d pages of %d tokens, %d "
                         "sequences of up to %d tokens); choose a shorter context, fewer sequences "
                         "or fewer pages",
                         bytes, pages, PAGE_TOKENS, batch, capacity);
    }
    cache->length = must_alloc((size_t)batch, sizeof *cache->length);
    cache->used_pages = must_alloc((size_t)batch, sizeof *cache->used_pages);
    cache->table = must_alloc((size_t)batch * (size_t)max_pages, sizeof *cache->table);
    cache->free_pages = must_alloc((size_t)pages, sizeof *cache->free_pages);
    cache->free_count = pages;
    for (int i = 0; i < pages; i++) cache->free_pages[i] = pages - 1 - i; /* page 0 goes first */
    bring_lengths(cache);
    bring_table(cache);
    return 0;
}

void latent_cache_free(LatentCache *cache) {
    device_free(cache->gpu, cache->latent.data);
    device_free(cache->gpu, cache->block_table.data);
    device_free(cache->gpu, cache->lengths.data);
    free(cache->length);
    free(cache->table);
    free(cache->used_pages);
    free(cache->free_pages);
    memset(cache, 0, sizeof *cache);
}

/* ---- pages ---- */

int latent_cache_reserve(LatentCache *cache, int tokens, Error *err) {
    int64_t missing = 0; /* pages, of all sequences together */
    for (int b = 0; b < cache->batch; b++) {
        int left = cache->capacity - cache->length[b];
        if (tokens > left)
            return error_set(err,
                             "the latent cache is full: sequence %d holds %d of %d tokens, so %d "
                             "more do not fit (room for %d); make it longer or generate less",
                             b, cache->length[b], cache->capacity, tokens, left);
        int64_t wanted = pages_for((int64_t)cache->length[b] + tokens) - cache->used_pages[b];
        if (wanted > 0) missing += wanted;
        if (missing > cache->free_count)
            return error_set(err,
                             "the latent cache has no pages left: sequence %d holds %d tokens and "
                             "cannot get %d more; %d of %d pages are free, at least %lld are "
                             "needed. Give it more pages, or cut or end other sequences",
                             b, cache->length[b], tokens, cache->free_count, cache->pages,
                             (long long)missing);
    }
    if (missing == 0) return 0;
    for (int b = 0; b < cache->batch; b++) {
        int64_t needed = pages_for((int64_t)cache->length[b] + tokens);
        int32_t *line = cache->table + (int64_t)b * cache->max_pages;
        while (cache->used_pages[b] < needed)
            line[cache->used_pages[b]++] = cache->free_pages[--cache->free_count];
    }
    bring_table(cache);
    return 0;
}

void latent_cache_truncate(LatentCache *cache, int b, int length) {
    CHECK(b >= 0 && b < cache->batch, "latent_cache_truncate: sequence %d of %d", b, cache->batch);
    CHECK(length >= 0 && length <= cache->length[b],
          "latent_cache_truncate: sequence %d to %d of %d tokens", b, length, cache->length[b]);
    cache->length[b] = length;
    int kept = (int)pages_for(length);
    const int32_t *line = cache->table + (int64_t)b * cache->max_pages;
    while (cache->used_pages[b] > kept)
        cache->free_pages[cache->free_count++] = line[--cache->used_pages[b]];
    bring_lengths(cache); /* the table may stay: what it says behind the last page is not read */
}

/* ---- tokens ---- */

/* [latent_cache_append] */
int latent_cache_append(Context *ctx, LatentCache *cache, const Tensor *c_kv, const Tensor *k_rope,
                        Error *err) {
    int64_t B = cache->batch, T = tensor_dim(c_kv, 1), c_width = tensor_dim(c_kv, 2);
    int64_t rope_width = cache->width - c_width;
    DType dtype = cache->latent.dtype;
    CHECK(ctx->device == cache->latent.device, "latent_cache_append: the cache is elsewhere");
    check_shape("latent_cache_append", c_kv, dtype, SHAPE(B, T, c_width));
    CHECK(k_rope || rope_width == 0, "latent_cache_append: rows of %d need k_rope", cache->width);
    if (k_rope) check_shape("latent_cache_append", k_rope, dtype, SHAPE(B, T, rope_width));
    if (latent_cache_reserve(cache, (int)T, err)) return -1; /* before anything is written */

    ON(ctx, latent_append, cache->latent.data, cache->block_table.data, cache->lengths.data,
       c_kv->data, k_rope ? k_rope->data : NULL, B, T, c_width, rope_width, cache->max_pages);
    ON(ctx, latent_advance, cache->lengths.data, B, (int32_t)T);
    latent_cache_count(cache, (int)T);
    return 0;
}
/* [/latent_cache_append] */

void latent_cache_count(LatentCache *cache, int tokens) {
    for (int b = 0; b < cache->batch; b++) {
        cache->length[b] += tokens;
        CHECK(pages_for(cache->length[b]) <= cache->used_pages[b],
              "latent_cache_count: sequence %d has no page for token %d; reserve before the step",
              b, cache->length[b] - 1);
    }
}

Tensor *latent_cache_positions(Context *ctx, const LatentCache *cache, int64_t T) {
    Tensor *positions = tensor_new(ctx, "positions", I32, SHAPE(cache->batch, T));
    ON(ctx, positions_fill, positions->data, cache->lengths.data, 0, cache->batch, T);
    return positions;
}

int latent_cache_longest(const LatentCache *cache) {
    int longest = 0;
    for (int b = 0; b < cache->batch; b++)
        if (cache->length[b] > longest) longest = cache->length[b];
    return longest;
}
