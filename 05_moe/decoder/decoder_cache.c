/*
 * The cache of a stack of blocks: one call for all layers, whichever attention they have.
 *
 * Latents: `pages` counts for all layers, before the first of them runs. Keys and values: every
 * layer counts for itself as it appends, and the first one answers for all.
 */
#include "05_moe/decoder/decoder_cache.h"

#include <stdlib.h>

static bool has_latents(const DecoderCache *cache) { return cache->kind == ATTENTION_MLA; }

static int layer_init(DecoderCache *cache, Context *ctx, const BlockConfig *cfg, int layer,
                      int capacity, Error *err) {
    BlockCache *c = &cache->layers[layer];
    c->kind = cfg->attention;
    if (has_latents(cache)) return block_cache_init_latents(c, ctx, &cache->pages, cfg, err);
    return kv_cache_init(&c->kv, ctx, cache->batch, capacity, cfg->multihead.num_key_value_heads,
                         cfg->multihead.head_dim, err);
}

int decoder_cache_init(DecoderCache *cache, Context *ctx, const BlockConfig *cfg, int layers,
                       int batch, int capacity, Error *err) {
    CHECK(layers > 0, "a cache of %d layers", layers);
    *cache = (DecoderCache){.kind = cfg->attention, .batch = batch, .count = layers};
    cache->layers = must_alloc((size_t)layers, sizeof *cache->layers);
    int status = has_latents(cache) ? pages_init(&cache->pages, ctx, batch, capacity, 0, err) : 0;
    for (int i = 0; i < layers && !status; i++)
        status = layer_init(cache, ctx, cfg, i, capacity, err);
    if (status) decoder_cache_free(cache);
    return status;
}

void decoder_cache_free(DecoderCache *cache) {
    for (int i = 0; i < cache->count; i++) {
        kv_cache_free(&cache->layers[i].kv);
        latent_cache_free(&cache->layers[i].latent);
    }
    pages_free(&cache->pages);
    free(cache->layers);
    *cache = (DecoderCache){0};
}

int decoder_cache_reserve(DecoderCache *cache, const Position *position, int tokens, Error *err) {
    if (position_room(position, decoder_cache_length(cache, -1), tokens, err)) return -1;
    if (!has_latents(cache)) return kv_cache_room(&cache->layers[0].kv, tokens, err);
    return pages_reserve(&cache->pages, tokens, err);
}

/* Keys and values are counted where they are appended, by each layer. */
void decoder_cache_begin(DecoderCache *cache, int tokens) {
    Error err = {0};
    CHECK(decoder_cache_reserve(cache, NULL, tokens, &err) == 0, "a step: %s", err.text);
    if (has_latents(cache)) pages_begin(&cache->pages, tokens, &err);
}

/* Keys and values are counted later, by each layer. */
Tensor *decoder_cache_positions(Context *ctx, DecoderCache *cache, int tokens) {
    if (has_latents(cache)) return pages_positions(ctx, &cache->pages);
    return positions_from(ctx, cache->batch, tokens, cache->layers[0].kv.length);
}

int decoder_cache_length(const DecoderCache *cache, int b) {
    CHECK(b >= -1 && b < cache->batch, "decoder_cache_length: sequence %d of %d", b, cache->batch);
    if (!has_latents(cache)) return cache->layers[0].kv.length;
    return b < 0 ? pages_longest(&cache->pages) : cache->pages.length[b];
}

void decoder_cache_truncate(DecoderCache *cache, int b, int length) {
    if (has_latents(cache)) {
        pages_truncate(&cache->pages, b, length);
        return;
    }
    CHECK(b < 0 || cache->batch == 1, "keys and values: sequence %d alone cannot be cut", b);
    for (int i = 0; i < cache->count; i++)
        if (length < cache->layers[i].kv.length) kv_cache_truncate(&cache->layers[i].kv, length);
}

void decoder_cache_capture(DecoderCache *cache, bool on) {
    CHECK(has_latents(cache), "a captured step needs a cache of latents");
    cache->pages.horizon = on ? cache->pages.capacity : 0;
}

void decoder_cache_rewind(Context *ctx, DecoderCache *cache, const Tensor *back) {
    pages_rewind(ctx, &cache->pages, back);
}

void decoder_cache_follow(DecoderCache *cache, int tokens, const int32_t *back) {
    pages_follow(&cache->pages, tokens, back);
}
