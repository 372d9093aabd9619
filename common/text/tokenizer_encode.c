/*
 * Words -> ids.
 *
 * Merging. A word's tokens form a linked list; a heap holds the mergeable pairs, the lowest rank on
 * top and of equal ranks the leftmost. A merge makes at most two new pairs; pairs that a merge
 * broke stay in the heap and are recognised when they come up. That is O(n log n) for a word of n
 * bytes, so that a megabyte without a space is no trap.
 *
 * Cache. Most words of a text have been seen before. The cache maps a word to the place in the
 * output where its ids stand already: a hit copies them. It stores neither text nor ids.
 *
 * Threads. The text is cut into segments (tokenizer_split.c) whose ids do not depend on each other.
 * Each thread appends to an output of its own; at the end the parts are put in order. So the result
 * is the same for any number of threads.
 */
#include "common/text/tokenizer_internal.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum {
    SEGMENT_BYTES = 128 * 1024, /* a few milliseconds of work: threads finish together */
    SERIAL_BYTES = 32 * 1024,   /* starting threads would take longer */
    CACHED_BYTES = 32,          /* longer words seldom come again */
    LARGEST_CACHE = 1 << 15     /* entries of 32 bytes: 1 MB, the size of an L2 cache */
};

/* One token of a word that is being merged. */
typedef struct Link {
    int32_t id; /* -1: merged into the one before */
    int32_t next, previous;
} Link;

typedef struct CacheEntry {
    const char *word; /* in the text; NULL: free */
    size_t length;
    size_t first, count; /* its ids in the encoder's output */
} CacheEntry;

typedef struct Encoder {
    const Tokenizer *tokenizer;
    Matcher matcher;
    int32_t *ids; /* the output */
    size_t count, capacity;
    CacheEntry *cache;
    size_t cache_mask;
    Link *links;
    size_t link_capacity;
    Heap heap;
} Encoder;

static void encoder_init(Encoder *encoder, const Tokenizer *tokenizer, size_t text_length) {
    size_t entries = 64; /* about one for each four bytes of text */
    while (entries < LARGEST_CACHE && entries * 4 < text_length) entries *= 2;
    *encoder = (Encoder){.tokenizer = tokenizer, .cache_mask = entries - 1};
    encoder->cache = must_alloc(entries, sizeof *encoder->cache);
    matcher_init(&encoder->matcher);
}

static void encoder_free(Encoder *encoder) {
    matcher_free(&encoder->matcher);
    free(encoder->ids);
    free(encoder->cache);
    free(encoder->links);
    free(encoder->heap.items);
}

static void emit(Encoder *encoder, int32_t id) {
    encoder->ids = grow(encoder->ids, &encoder->capacity, encoder->count + 1, sizeof *encoder->ids);
    encoder->ids[encoder->count++] = id;
}

/* ---- merging ---- */

/* Puts the pair that begins at `left` into the heap if the training merged it. */
static void offer_pair(Encoder *encoder, int32_t left) {
    const Link *links = encoder->links;
    int32_t right = links[left].next;
    if (right < 0) return;
    int32_t rank = pair_map_find(&encoder->tokenizer->ranks, links[left].id, links[right].id);
    if (rank >= 0) heap_push(&encoder->heap, (uint64_t)rank << 32 | (uint32_t)left, 0);
}

/* [merge] */
/* Joins the pair at `left` unless another merge has broken it since it was offered. */
static void merge_pair(Encoder *encoder, const Merge *merge, int32_t left) {
    Link *links = encoder->links;
    int32_t right = links[left].next;
    if (links[left].id != merge->left || right < 0 || links[right].id != merge->right) return;
    links[left].id = merge->result;
    links[left].next = links[right].next;
    links[right].id = -1;
    if (links[left].next >= 0) links[links[left].next].previous = left;
    if (links[left].previous >= 0) offer_pair(encoder, links[left].previous);
    offer_pair(encoder, left);
}

static void merge_word(Encoder *encoder, const char *word, size_t length) {
    const Tokenizer *tokenizer = encoder->tokenizer;
    if (length >= INT32_MAX) fatal("a word of %zu bytes is too long for the tokenizer", length);
    int32_t n = (int32_t)length;
    encoder->links = grow(encoder->links, &encoder->link_capacity, length, sizeof *encoder->links);
    for (int32_t i = 0; i < n; i++)
        encoder->links[i] = (Link){.id = tokenizer->byte_ids[(unsigned char)word[i]],
                                   .next = i + 1 < n ? i + 1 : -1,
                                   .previous = i - 1};
    for (int32_t i = 0; i < n; i++) offer_pair(encoder, i);
    while (encoder->heap.count > 0) {
        uint64_t key = heap_pop(&encoder->heap).key;
        merge_pair(encoder, &tokenizer->merges[key >> 32], (int32_t)(uint32_t)key);
    }
    for (int32_t i = 0; i >= 0; i = encoder->links[i].next) emit(encoder, encoder->links[i].id);
}
/* [/merge] */

/* ---- words ---- */

static void encode_new_word(Encoder *encoder, const char *word, size_t length) {
    const Tokenizer *tokenizer = encoder->tokenizer;
    int32_t id = length == 1 ? tokenizer->byte_ids[(unsigned char)*word] : -1;
    if (id < 0 && tokenizer->ignore_merges) id = string_map_find(&tokenizer->words, word, length);
    if (id >= 0)
        emit(encoder, id);
    else
        merge_word(encoder, word, length);
}

static void encode_word(void *user, const char *word, size_t length) {
    Encoder *encoder = user;
    if (length > CACHED_BYTES) {
        encode_new_word(encoder, word, length);
        return;
    }
    CacheEntry *entry = &encoder->cache[hash_bytes(word, length) & encoder->cache_mask];
    if (entry->word && entry->length == length && memcmp(entry->word, word, length) == 0) {
        encoder->ids = grow(encoder->ids, &encoder->capacity, encoder->count + entry->count,
                            sizeof *encoder->ids);
        memcpy(encoder->ids + encoder->count, encoder->ids + entry->first,
               entry->count * sizeof *encoder->ids);
        encoder->count += entry->count;
        return;
    }
    size_t first = encoder->count;
    encode_new_word(encoder, word, length);
    *entry = (CacheEntry){word, length, first, encoder->count - first};
}

/* ---- texts ---- */

/* Where the ids of one segment stand. */
typedef struct Part {
    int thread;
    size_t first, count;
} Part;

static void encode_segment(Encoder *encoder, const Segment *segment, Part *part) {
    *part = (Part){.thread = omp_get_thread_num(), .first = encoder->count};
    if (segment->id >= 0)
        emit(encoder, segment->id);
    else
        split_words(&encoder->tokenizer->splitter, &encoder->matcher, segment->text,
                    segment->length, encode_word, encoder);
    part->count = encoder->count - part->first;
}

static int32_t *join(const Encoder *encoders, const Part *parts, size_t part_count, size_t *count) {
    *count = 0;
    for (size_t i = 0; i < part_count; i++) *count += parts[i].count;
    int32_t *ids = must_realloc(NULL, *count, sizeof *ids), *end = ids;
    for (size_t i = 0; i < part_count; i++) {
        const int32_t *from = encoders[parts[i].thread].ids;
        if (parts[i].count == 0) continue;
        memcpy(end, from + parts[i].first, parts[i].count * sizeof *ids);
        end += parts[i].count;
    }
    return ids;
}

int32_t *tokenizer_encode(const Tokenizer *tokenizer, const char *text, size_t bytes,
                          size_t *count) {
    size_t segment_count;
    Segment *segments = segments_of(tokenizer, text, bytes, SEGMENT_BYTES, &segment_count);
    int threads = bytes < SERIAL_BYTES ? 1 : omp_get_max_threads();
    Encoder *encoders = must_alloc((size_t)threads, sizeof *encoders);
    Part *parts = must_alloc(segment_count, sizeof *parts);
#pragma omp parallel num_threads(threads)
    {
        Encoder *encoder = &encoders[omp_get_thread_num()];
        encoder_init(encoder, tokenizer, bytes / (size_t)threads);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < segment_count; i++) encode_segment(encoder, &segments[i], &parts[i]);
    }
    int32_t *ids = join(encoders, parts, segment_count, count);
    for (int i = 0; i < threads; i++)
        if (encoders[i].tokenizer) encoder_free(&encoders[i]); /* OpenMP may give fewer threads */
    free(encoders);
    free(parts);
    segments_free(segments, segment_count);
    return ids;
}
