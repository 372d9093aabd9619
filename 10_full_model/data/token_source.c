/*
 * The two sources. A corpus copies windows from memory. Shards have a thread that fills the batch
 * which will probably be asked for next; a wrong guess costs time and changes nothing, since the
 * same function then fills it on the spot.
 */
#include "10_full_model/data/token_source.h"

#include "common/core/memory.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- a corpus ---- */

static void batch_of_corpus(void *self, uint64_t seed, uint64_t first, int batch, int length,
                            int32_t *inputs, int32_t *targets) {
    corpus_batch(self, seed, first, batch, length, inputs, targets);
}

static void validation_of_corpus(void *self, int i, int count, int length, int32_t *inputs,
                                 int32_t *targets) {
    corpus_validation(self, i, count, length, inputs, targets);
}

TokenSource source_of_corpus(Corpus *corpus) {
    return (TokenSource){.batch = batch_of_corpus,
                         .validation = validation_of_corpus,
                         .self = corpus,
                         .train_tokens = (int64_t)corpus->train_count,
                         .validation_tokens = (int64_t)(corpus->count - corpus->train_count),
                         .bytes = (int64_t)corpus->bytes};
}

/* ---- shards ---- */

typedef struct Request {
    uint64_t seed, first;
    int batch, length;
} Request;

/*
 * A thread that fills the batch which will probably be asked for next. It works between `asked`
 * and `ready`; buffers and request are its own then, and the caller's otherwise. A wrong guess
 * costs time and changes nothing: the batch is then filled on the spot by the same function.
 */
typedef struct Prefetch {
    Shards *shards;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    enum { IDLE, ASKED, READY, STOP } state;
    Request request;
    int32_t *inputs, *targets;
    size_t capacity; /* numbers in each */
} Prefetch;

static void read_window(const Shards *shards, ShardPart part, int64_t first, int length,
                        int32_t *inputs, int32_t *targets) {
    shards_read(shards, part, first, length, inputs);
    memcpy(targets, inputs + 1, ((size_t)length - 1) * sizeof *targets);
    shards_read(shards, part, first + length, 1, targets + length - 1);
}

static void fill(const Shards *shards, const Request *r, int32_t *inputs, int32_t *targets) {
    for (int b = 0; b < r->batch; b++) {
        size_t at = (size_t)b * (size_t)r->length;
        int64_t first = shards_window(shards, r->seed, r->first + (uint64_t)b, r->length);
        read_window(shards, SHARD_TRAIN, first, r->length, inputs + at, targets + at);
    }
}

static void *produce(void *user) {
    Prefetch *p = user;
    pthread_mutex_lock(&p->mutex);
    for (;;) {
        while (p->state != ASKED && p->state != STOP) pthread_cond_wait(&p->changed, &p->mutex);
        if (p->state == STOP) break;
        pthread_mutex_unlock(&p->mutex);
        fill(p->shards, &p->request, p->inputs, p->targets);
        pthread_mutex_lock(&p->mutex);
        if (p->state == ASKED) p->state = READY;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

static void make_room(Prefetch *p, size_t count) {
    if (count <= p->capacity) return;
    free(p->inputs);
    p->inputs = must_alloc(2 * count, sizeof *p->inputs);
    p->targets = p->inputs + count;
    p->capacity = count;
}

static void batch_of_shards(void *self, uint64_t seed, uint64_t first, int batch, int length,
                            int32_t *inputs, int32_t *targets) {
    Prefetch *p = self;
    Request wanted = {seed, first, batch, length};
    size_t count = (size_t)batch * (size_t)length;
    pthread_mutex_lock(&p->mutex);
    while (p->state == ASKED) pthread_cond_wait(&p->changed, &p->mutex);
    const Request *r = &p->request;
    bool guessed = p->state == READY && r->seed == seed && r->first == first && r->batch == batch &&
                   r->length == length;
    if (guessed) {
        memcpy(inputs, p->inputs, count * sizeof *inputs);
        memcpy(targets, p->targets, count * sizeof *targets);
    }
    make_room(p, count);
    p->request = (Request){seed, first + (uint64_t)batch, batch, length};
    p->state = ASKED;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
    if (!guessed) fill(p->shards, &wanted, inputs, targets);
}

static void validation_of_shards(void *self, int i, int count, int length, int32_t *inputs,
                                 int32_t *targets) {
    const Shards *shards = ((Prefetch *)self)->shards;
    int64_t places = shards->parts[SHARD_VALIDATION].tokens - length;
    int64_t first = (int64_t)((double)(places - 1) * i / count);
    read_window(shards, SHARD_VALIDATION, first, length, inputs, targets);
}

static void free_prefetch(void *self) {
    Prefetch *p = self;
    pthread_mutex_lock(&p->mutex);
    p->state = STOP;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mutex);
    pthread_join(p->thread, NULL);
    pthread_mutex_destroy(&p->mutex);
    pthread_cond_destroy(&p->changed);
    free(p->inputs);
    free(p);
}

int source_of_shards(TokenSource *source, Shards *shards, int length, Error *err) {
    *source = (TokenSource){0};
    for (int part = 0; part < SHARD_PARTS; part++)
        if (shards->parts[part].tokens <= length)
            return error_set(
                err,
                "%s: the %s part has %lld tokens; a window of context length %d needs %d. Prepare "
                "more text, or another share for validation, or take a shorter --context",
                shards->directory, shard_part_names[part], (long long)shards->parts[part].tokens,
                length, length + 1);
    Prefetch *p = must_alloc(1, sizeof *p);
    p->shards = shards;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->changed, NULL);
    if (pthread_create(&p->thread, NULL, produce, p)) fatal("cannot start a thread to read ahead");
    *source = (TokenSource){.batch = batch_of_shards,
                            .validation = validation_of_shards,
                            .free = free_prefetch,
                            .self = p,
                            .train_tokens = shards->parts[SHARD_TRAIN].tokens,
                            .validation_tokens = shards->parts[SHARD_VALIDATION].tokens,
                            .bytes = shards->parts[SHARD_TRAIN].bytes +
                                     shards->parts[SHARD_VALIDATION].bytes};
    return 0;
}
