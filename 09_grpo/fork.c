/*
 * The copy is a step of the longest prompt's length: pages change hands and lengths grow as in any
 * step, the rows are copied instead of computed, and each sequence is cut to its own length.
 */
#include "09_grpo/fork.h"

#include <string.h>

/* [cache_fork] */
int cache_fork(Context *ctx, DecoderCache *to, DecoderCache *from, int group, Error *err) {
    Pages *in = &from->pages, *out = &to->pages;
    CHECK(to->kind == ATTENTION_MLA && from->kind == ATTENTION_MLA && to->count == from->count &&
              to->batch == from->batch * group,
          "cache_fork: %d layers of %d sequences from %d of %d, groups of %d", to->count, to->batch,
          from->count, from->batch, group);
    CHECK(pages_longest(out) == 0, "cache_fork: there are tokens already");
    int longest = pages_longest(in);
    if (longest == 0) return 0;
    if (decoder_cache_reserve(to, NULL, longest, err)) return -1;
    decoder_cache_begin(to, longest);
    pages_settle(ctx, in);
    pages_settle(ctx, out);
    for (int i = 0; i < to->count; i++) {
        LatentCache *a = &from->layers[i].latent, *b = &to->layers[i].latent;
        CHECK(a->width == b->width && a->latent.dtype == b->latent.dtype,
              "cache_fork: rows of %d and %d numbers", a->width, b->width);
        size_t row = tensor_bytes(&a->latent) / (size_t)(in->count * PAGE_TOKENS);
        latent_cache_writes(b, "cache_fork", longest);
        ON(ctx, cache_fork, b->latent.data, a->latent.data, out->block_table.data,
           in->block_table.data, in->lengths.data, to->batch, group, longest, out->max_pages,
           in->max_pages, (int64_t)row);
    }
    for (int b = 0; b < to->batch; b++)
        decoder_cache_truncate(to, b, decoder_cache_length(from, b / group));
    return 0;
}
/* [/cache_fork] */

void cache_fork_cpu(void *to, const void *from, const int32_t *to_table, const int32_t *from_table,
                    const int32_t *lengths, int64_t batch, int64_t group, int64_t longest,
                    int64_t to_pages, int64_t from_pages, int64_t row_bytes) {
    (void)longest;
    for (int64_t b = 0; b < batch; b++)
        for (int64_t t = 0; t < lengths[b / group]; t++)
            memcpy((char *)to + page_row(to_table + b * to_pages, t) * row_bytes,
                   (const char *)from +
                       page_row(from_table + b / group * from_pages, t) * row_bytes,
                   (size_t)row_bytes);
}
