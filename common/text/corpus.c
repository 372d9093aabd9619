/*
 * The validation text is moved to the back once, tenth by tenth, with two copies and no index. A
 * window's start is a random number of its own stream, numbered by (step, place in the batch), so a
 * batch needs no state. Validation windows lie at even distances and are the same every time.
 */
#include "common/text/corpus.h"

#include "common/core/memory.h"
#include "common/core/rng.h"
#include "common/text/text_file.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* A stream that no operation of a model takes: those count up from 0. */
static const uint64_t DATA_STREAM = 1ull << 63;

char *corpus_read_text(const char *const *paths, int path_count, size_t *bytes, Error *err) {
    char *text = NULL;
    *bytes = 0;
    for (int i = 0; i < path_count; i++) {
        MappedFile file;
        if (text_file_map(&file, paths[i], err)) {
            free(text);
            return NULL;
        }
        size_t mark = text_mark(file.data, file.size), size = file.size - mark;
        text = must_realloc(text, *bytes + size + 1, 1);
        if (size) memcpy(text + *bytes, file.data + mark, size);
        *bytes += size;
        file_unmap(&file);
    }
    if (*bytes == 0) {
        error_set(err,
                  "%s%s: there is no text in it; give a file with at least a few thousand words",
                  path_count ? paths[0] : "no file", path_count > 1 ? " and the others" : "");
        free(text);
        return NULL;
    }
    return text;
}

enum { STRETCHES = 10 };

/* Moves the last `share` of each tenth of the tokens to the back; returns how many stay in
 * front. */
static size_t hold_back(int32_t *ids, size_t count, double share) {
    int32_t *held = must_alloc(count, sizeof *held);
    size_t kept = 0, held_count = 0;
    for (size_t i = 0; i < STRETCHES; i++) {
        size_t begin = count * i / STRETCHES, end = count * (i + 1) / STRETCHES;
        size_t middle = end - (size_t)((double)(end - begin) * share);
        memcpy(held + held_count, ids + middle, (end - middle) * sizeof *ids);
        memmove(ids + kept, ids + begin, (middle - begin) * sizeof *ids);
        held_count += end - middle;
        kept += middle - begin;
    }
    memcpy(ids + kept, held, held_count * sizeof *ids);
    free(held);
    return kept;
}

int corpus_init(Corpus *corpus, const Tokenizer *tokenizer, const char *text, size_t bytes,
                double validation, int context_length, Error *err) {
    *corpus = (Corpus){.bytes = bytes};
    corpus->ids = tokenizer_encode(tokenizer, text, bytes, &corpus->count);
    corpus->train_count = hold_back(corpus->ids, corpus->count, validation);
    size_t held = corpus->count - corpus->train_count, need = (size_t)context_length + 1;
    if (corpus->train_count >= need && held >= need) return 0;
    size_t counted = corpus->count;
    corpus_free(corpus);
    return error_set(
        err,
        "the text is too short: %zu tokens, of which %zu are for validation; each part must have "
        "at least %zu (context length %d + 1). Give more text or a shorter context",
        counted, held, need, context_length);
}

int corpus_whole(Corpus *corpus, const Tokenizer *tokenizer, const char *text, size_t bytes,
                 int context_length, Error *err) {
    *corpus = (Corpus){.bytes = bytes};
    corpus->ids = tokenizer_encode(tokenizer, text, bytes, &corpus->count);
    size_t counted = corpus->count;
    if (counted > (size_t)context_length) return 0;
    corpus_free(corpus);
    return error_set(err,
                     "the text is too short: %zu tokens, but a window of --context %d needs %d",
                     counted, context_length, context_length + 1);
}

void corpus_free(Corpus *corpus) {
    free(corpus->ids);
    *corpus = (Corpus){0};
}

static void window(const Corpus *corpus, size_t start, int length, int32_t *inputs,
                   int32_t *targets) {
    memcpy(inputs, corpus->ids + start, (size_t)length * sizeof *inputs);
    memcpy(targets, corpus->ids + start + 1, (size_t)length * sizeof *targets);
}

static bool corpus_has(const Corpus *c, int id) {
    for (size_t i = 0; i < c->count; i++)
        if (c->ids[i] == id) return true;
    return false;
}

int corpus_begin(const Corpus *c, const Tokenizer *tokenizer) {
    int eot = tokenizer_eot(tokenizer);
    if (eot >= 0 && corpus_has(c, eot)) return eot;
    size_t count;
    int32_t *ids = tokenizer_encode(tokenizer, "\n", 1, &count);
    int newline = count == 1 && corpus_has(c, ids[0]) ? ids[0] : -1;
    free(ids);
    return newline;
}

void corpus_batch(const Corpus *corpus, uint64_t seed, uint64_t first, int batch, int length,
                  int32_t *inputs, int32_t *targets) {
    uint64_t places = corpus->train_count - (size_t)length;
    for (int b = 0; b < batch; b++) {
        Philox p = philox(seed, DATA_STREAM, first + (uint64_t)b);
        uint64_t random = (uint64_t)p.word[0] << 32 | p.word[1];
        window(corpus, random % places, length, inputs + (size_t)b * length,
               targets + (size_t)b * length);
    }
}

void corpus_validation(const Corpus *corpus, int i, int count, int length, int32_t *inputs,
                       int32_t *targets) {
    size_t places = corpus->count - corpus->train_count - (size_t)length;
    window(corpus, corpus->train_count + (places - 1) * (size_t)i / (size_t)count, length, inputs,
           targets);
}

double corpus_unigram_loss(const Corpus *corpus, int vocab_size) {
    double *seen = must_alloc((size_t)vocab_size, sizeof *seen), loss = 0;
    for (size_t i = 0; i < corpus->train_count; i++) seen[corpus->ids[i]]++;
    /* One more of each (Laplace), so that a token which only validation has does not cost
     * infinity. */
    for (size_t i = corpus->train_count; i < corpus->count; i++)
        loss -= log((seen[corpus->ids[i]] + 1) / ((double)corpus->train_count + vocab_size));
    free(seen);
    return loss / (double)(corpus->count - corpus->train_count);
}
