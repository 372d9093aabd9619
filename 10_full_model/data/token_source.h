/*
 * Where a model's batches come from: a text in memory (Corpus) or shards on the disk (Shards),
 * behind one interface.
 *
 * A batch is a function of (seed, first): windows number first .. first + batch - 1 of a run. Any
 * of them can be asked for again, so a run that was stopped goes on with the very windows it
 * would have seen: what a checkpoint has to keep of the data is how many windows were drawn.
 */
#ifndef DATA_SOURCE_H
#define DATA_SOURCE_H

#include "10_full_model/data/shards.h"
#include "common/text/corpus.h"

typedef struct TokenSource {
    /* inputs and targets are [batch, length]; targets are one token further */
    void (*batch)(void *self, uint64_t seed, uint64_t first, int batch, int length, int32_t *inputs,
                  int32_t *targets);
    /* Window i of `count` that are spread evenly over the validation part, in the same layout
     * (batch 1). */
    void (*validation)(void *self, int i, int count, int length, int32_t *inputs, int32_t *targets);
    void (*free)(void *self); /* NULL: nothing to do */
    void *self;
    int64_t train_tokens, validation_tokens;
    int64_t bytes; /* of text behind all these tokens: for bits per byte */
} TokenSource;

static inline void source_batch(const TokenSource *source, uint64_t seed, uint64_t first, int batch,
                                int length, int32_t *inputs, int32_t *targets) {
    source->batch(source->self, seed, first, batch, length, inputs, targets);
}

static inline void source_validation(const TokenSource *source, int i, int count, int length,
                                     int32_t *inputs, int32_t *targets) {
    source->validation(source->self, i, count, length, inputs, targets);
}

static inline void source_free(TokenSource *source) {
    if (source->free) source->free(source->self);
    *source = (TokenSource){0};
}

/* The corpus, or the shards, must outlive the source. */
TokenSource source_of_corpus(Corpus *corpus);

/*
 * Checks that both parts are longer than `length`; -1 and a message if not. While one batch is in
 * use a thread fills the next one (the same seed and shape, `first` moved on), so that a step
 * never waits for the disk.
 */
int source_of_shards(TokenSource *source, Shards *shards, int length, Error *err);

#endif
