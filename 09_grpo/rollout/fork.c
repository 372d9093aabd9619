/*
 * The copy is a step of the longest prompt's length: pages change hands and lengths grow as in any
 * step, the rows are copied instead of computed, and each sequence is cut to its own length.
 */
#include "09_grpo/rollout/fork.h"

#include <string.h>

/* One layer's rows: its latents, or a selection's keys. */
static void fork_pool(Context *ctx, LatentCache *to, LatentCache *from, int group, int longest) {
    const Pages *in = from->pages, *out = to->pages;
    CHECK(from->width == to->width && from->latent.dtype == to->latent.dtype,
          "cache_fork: rows of %d and %d numbers", from->width, to->width);
    size_t row = tensor_bytes(&from->latent) / (size_t)(in->count * PAGE_TOKENS);
    latent_cache_writes(to, "cache_fork", longest);
    ON(ctx, cache_fork, to->latent.data, from->latent.data, out->block_table.data,
       in->block_table.data, in->lengths.data, out->batch, group, longest, out->max_pages,
       in->max_pages, (int64_t)row);
}

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
        fork_pool(ctx, b, a, group, longest);
        if (a->keys) fork_pool(ctx, b->keys, a->keys, group, longest);
    }
    for (int b = 0; b < to->batch; b++)
        decoder_cache_truncate(to, b, decoder_cache_length(from, b / group));
    return 0;
}

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
