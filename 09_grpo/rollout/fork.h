/*
 * One prompt, many continuations: a cache whose sequences become copies of another cache's.
 *
 * The prompt of a group goes through the model once; its latents are then copied to every sequence
 * of the group. Pages could be shared instead, but a page has one owner (04_mla/pages.h), the last
 * one would have to be copied anyway, for every sequence writes on in it, and latents are what MLA
 * made small.
 */
#ifndef FORK_H
#define FORK_H

#include "05_moe/decoder/decoder_cache.h"

__BEGIN_DECLS

/* Sequence b of `to`, all of which are empty, becomes sequence b / group of `from`. Latents only;
 * both of one model. -1 and a message when there is no room. */
int cache_fork(Context *ctx, DecoderCache *to, DecoderCache *from, int group, Error *err);

/* ---- kernel ---- */

/* One layer: row t < lengths[b / group] of sequence b, to = from; rows of row_bytes, an even
 * number. longest: of lengths [batch / group]. */
KERNEL(cache_fork, void *to, const void *from, const int32_t *to_table, const int32_t *from_table,
       const int32_t *lengths, int64_t batch, int64_t group, int64_t longest, int64_t to_pages,
       int64_t from_pages, int64_t row_bytes);

__END_DECLS
#endif
