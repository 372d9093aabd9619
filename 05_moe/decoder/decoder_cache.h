/*
 * The cache of a whole stack of blocks: what every layer keeps of the tokens so far.
 *
 * With latent attention all layers share one page table and one set of lengths (04_mla/pages.h),
 * and each has a pool of its own; with multi-head attention each layer has its keys and values
 * (chapter 03), whose sequences all have the same length. Callers ask here, and never a layer.
 *
 * A step of T tokens, for all layers:
 *     decoder_cache_reserve(cache, position, T, err)   is there room? Pages change hands
 *     decoder_cache_begin(cache, T)                    the sequences are longer by T
 *     block_forward(..., &cache->layers[i], ...)       for each layer
 */
#ifndef DECODER_CACHE_H
#define DECODER_CACHE_H

#include "05_moe/decoder/block.h"

__BEGIN_DECLS

typedef struct DecoderCache {
    AttentionKind kind;
    int batch, count;   /* sequences, layers */
    BlockCache *layers; /* [count] */
    Pages pages;        /* of latents; other pools (keys of an indexer) may join them */
} DecoderCache;

/* Empty, for `batch` sequences of up to `capacity` tokens. -1 and a message when memory runs out.
 * Its address must not change: the layers know it. */
int decoder_cache_init(DecoderCache *cache, Context *ctx, const BlockConfig *cfg, int layers,
                       int batch, int capacity, Error *err);
void decoder_cache_free(DecoderCache *cache); /* zeros, or freed before: fine */

/* Makes room for `tokens` more in every sequence, or says how many fit, and whether they have
 * positions: ask before a step. */
int decoder_cache_reserve(DecoderCache *cache, const Position *position, int tokens, Error *err);

/* A step of `tokens` begins; there must be room. */
void decoder_cache_begin(DecoderCache *cache, int tokens);

/* I32 [B, T], after decoder_cache_begin: the positions of the step's tokens. */
Tensor *decoder_cache_positions(Context *ctx, DecoderCache *cache, int tokens);

/* Tokens of sequence b; of the longest (b = -1). */
int decoder_cache_length(const DecoderCache *cache, int b);

/* Forgets all tokens but the first `length` of sequence b, or of every sequence (b = -1; keys and
 * values know no other way). A shorter sequence stays as it is. */
void decoder_cache_truncate(DecoderCache *cache, int b, int length);

/* ---- a step that is captured as a CUDA graph: latents only ---- */

/* From now on steps are made for every length up to the capacity; or no longer. */
void decoder_cache_capture(DecoderCache *cache, bool on);

/* The device forgets the last back[b] tokens (I32 [batch]); the host learns of it below. */
void decoder_cache_rewind(Context *ctx, DecoderCache *cache, const Tensor *back);

/* A graph has moved the device's lengths by tokens - back[b] (NULL: zeros); the host's follow. */
void decoder_cache_follow(DecoderCache *cache, int tokens, const int32_t *back);

__END_DECLS
#endif
