/*
 * Pages: who has which, and the lengths.
 *
 * Every decision is made on the host's copies of lengths and block table. The table is brought to
 * the device only when a page changed hands, the lengths only when a sequence was cut, so most
 * steps upload nothing and can be captured as a CUDA graph. Every check stands before the first
 * change: pages that refused tokens are as they were.
 */
#include "04_mla/pages.h"
#include "04_mla/position.h"

#include <stdlib.h>

/* ---- memory ---- */

static void bring_lengths(Pages *pages) {
    device_put(pages->gpu, pages->lengths.data, pages->length, tensor_bytes(&pages->lengths));
    pages->ahead = 0;
}

static void bring_table(const Pages *pages) {
    device_put(pages->gpu, pages->block_table.data, pages->table,
               tensor_bytes(&pages->block_table));
}

static int64_t pages_for(int64_t tokens) { return (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS; }

static int check_sizes(int batch, int capacity, int count, Error *err) {
    if (batch <= 0)
        return error_set(err, "a latent cache for %d sequences: it needs at least one", batch);
    if (capacity <= 0)
        return error_set(err, "a latent cache for %d tokens: give it room for at least one",
                         capacity);
    if (count < 0)
        return error_set(err, "a latent cache of %d pages: give at least 1, or 0 for enough",
                         count);
    if (count == 0 && batch * pages_for(capacity) > INT32_MAX)
        return error_set(err,
                         "a latent cache for %d sequences of %d tokens would need %lld pages; at "
                         "most %d can be counted",
                         batch, capacity, (long long)(batch * pages_for(capacity)), INT32_MAX);
    return 0;
}

int pages_init(Pages *pages, Context *ctx, int batch, int capacity, int count, Error *err) {
    *pages = (Pages){0};
    if (check_sizes(batch, capacity, count, err)) return -1;
    int max_pages = (int)pages_for(capacity);
    if (!count) count = batch * max_pages;
    *pages = (Pages){.batch = batch,
                     .count = count,
                     .max_pages = max_pages,
                     .capacity = capacity,
                     .gpu = ctx->gpu};
    pages->block_table =
        tensor_view(NULL, "block_table", I32, ctx->device, SHAPE(batch, max_pages));
    pages->lengths = tensor_view(NULL, "lengths", I32, ctx->device, SHAPE(batch));
    pages->block_table.data = device_alloc(ctx->gpu, tensor_bytes(&pages->block_table));
    pages->lengths.data = device_alloc(ctx->gpu, tensor_bytes(&pages->lengths));
    if (!pages->block_table.data || !pages->lengths.data) {
        pages_free(pages);
        return error_set(err,
                         "no memory for a table of %d pages, of %d sequences of up to %d tokens",
                         count, batch, capacity);
    }
    pages->length = must_alloc((size_t)batch, sizeof *pages->length);
    pages->used_pages = must_alloc((size_t)batch, sizeof *pages->used_pages);
    pages->table = must_alloc((size_t)batch * (size_t)max_pages, sizeof *pages->table);
    pages->free_pages = must_alloc((size_t)count, sizeof *pages->free_pages);
    pages->free_count = count;
    for (int i = 0; i < count; i++) pages->free_pages[i] = count - 1 - i; /* page 0 goes first */
    bring_lengths(pages);
    bring_table(pages);
    return 0;
}

void pages_free(Pages *pages) {
    device_free(pages->gpu, pages->block_table.data);
    device_free(pages->gpu, pages->lengths.data);
    free(pages->length);
    free(pages->table);
    free(pages->used_pages);
    free(pages->free_pages);
    *pages = (Pages){0};
}

/* ---- pages ---- */

int pages_reserve(Pages *pages, int tokens, Error *err) {
    int64_t missing = 0; /* pages, of all sequences together */
    for (int b = 0; b < pages->batch; b++) {
        int left = pages->capacity - pages->length[b];
        if (tokens > left)
            return error_set(err,
                             "the latent cache is full: sequence %d holds %d of %d tokens, so %d "
                             "more do not fit (room for %d); make it longer or generate less",
                             b, pages->length[b], pages->capacity, tokens, left);
        int64_t wanted = pages_for((int64_t)pages->length[b] + tokens) - pages->used_pages[b];
        if (wanted > 0) missing += wanted;
        if (missing > pages->free_count)
            return error_set(err,
                             "the latent cache has no pages left: sequence %d holds %d tokens and "
                             "cannot get %d more; %d of %d pages are free, at least %lld are "
                             "needed. Give it more pages, or cut or end other sequences",
                             b, pages->length[b], tokens, pages->free_count, pages->count,
                             (long long)missing);
    }
    if (missing == 0) return 0;
    for (int b = 0; b < pages->batch; b++) {
        int64_t needed = pages_for((int64_t)pages->length[b] + tokens);
        int32_t *line = pages->table + (int64_t)b * pages->max_pages;
        while (pages->used_pages[b] < needed)
            line[pages->used_pages[b]++] = pages->free_pages[--pages->free_count];
    }
    bring_table(pages);
    return 0;
}

void pages_truncate(Pages *pages, int b, int length) {
    CHECK(b >= -1 && b < pages->batch && length >= 0,
          "pages_truncate: sequence %d of %d to %d tokens", b, pages->batch, length);
    int first = b < 0 ? 0 : b, last = b < 0 ? pages->batch - 1 : b;
    for (int i = first; i <= last; i++) {
        if (length < pages->length[i]) pages->length[i] = length;
        int kept = (int)pages_for(pages->length[i]);
        const int32_t *line = pages->table + (int64_t)i * pages->max_pages;
        while (pages->used_pages[i] > kept)
            pages->free_pages[pages->free_count++] = line[--pages->used_pages[i]];
    }
    pages->step = 0;
    bring_lengths(pages); /* the table may stay: what it says behind the last page is not read */
}

/* ---- lengths ---- */

int pages_begin(Pages *pages, int tokens, Error *err) {
    if (pages_reserve(pages, tokens, err)) return -1; /* before anything is written */
    pages_follow(pages, tokens, NULL);
    pages->ahead += tokens;
    pages->step = tokens;
    pages->steps++;
    return 0;
}

int pages_take_ahead(Pages *pages) {
    int ahead = pages->ahead;
    pages->ahead = 0;
    return ahead;
}

void pages_settle(Context *ctx, Pages *pages) {
    int ahead = pages_take_ahead(pages);
    if (ahead) ON(ctx, pages_move, pages->lengths.data, ahead, NULL, pages->batch);
}

void pages_revisit(Pages *pages, int tokens) {
    for (int b = 0; b < pages->batch; b++)
        CHECK(tokens > 0 && tokens <= pages->length[b], "pages_revisit: %d of %d tokens", tokens,
              pages->length[b]);
    pages->step = tokens;
    pages->steps++;
}

void pages_rewind(Context *ctx, Pages *pages, const Tensor *back) {
    check_shape("pages_rewind", back, I32, SHAPE(pages->batch));
    pages_settle(ctx, pages);
    ON(ctx, pages_move, pages->lengths.data, 0, back->data, pages->batch);
}

void pages_follow(Pages *pages, int tokens, const int32_t *back) {
    for (int b = 0; b < pages->batch; b++) {
        pages->length[b] += tokens - (back ? back[b] : 0);
        CHECK(pages->length[b] >= 0 && pages_for(pages->length[b]) <= pages->used_pages[b],
              "pages_follow: sequence %d has no page for token %d; reserve before the step", b,
              pages->length[b] - 1);
    }
    pages->step = 0;
}

Tensor *pages_positions(Context *ctx, Pages *pages) {
    Tensor *positions = tensor_new(ctx, "positions", I32, SHAPE(pages->batch, pages->step));
    pages_settle(ctx, pages);
    ON(ctx, positions_fill, positions->data, pages->lengths.data, -pages->step, pages->batch,
       pages->step);
    return positions;
}

int pages_alike(const Pages *pages, int b) {
    int count = 1;
    while (b + count < pages->batch && pages->length[b + count] == pages->length[b]) count++;
    return count;
}

int pages_longest(const Pages *pages) {
    int longest = 0;
    for (int b = 0; b < pages->batch; b++)
        if (pages->length[b] > longest) longest = pages->length[b];
    return longest;
}
