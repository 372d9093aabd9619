/*
 * A text, a tokenizer, a model and the options to train it: all small enough for a test of a
 * second.
 */
#ifndef TEST_WORLD_H
#define TEST_WORLD_H

#include "10_full_model/tests/test_tiny.h"
#include "10_full_model/train/train.h"

#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const TEXT =
    "the cat sat on the mat and the dog sat on the log; the frog sat in the fog. ";
enum { COPIES = 60 };

typedef struct World {
    Context ctx;
    Tokenizer *tokenizer;
    Corpus corpus;
    TokenSource source;
    Model model;
    TrainOptions options;
} World;

static inline void must(int status, const Error *err) {
    if (status) cr_assert_fail("%s", err->text);
}

/* In place: the model keeps a pointer to w->ctx. */
static inline void world_init(World *w, Device device, DType dtype) {
    *w = (World){.ctx = test_context(device, dtype), .options = train_defaults()};
    Error err = {0};
    size_t length = strlen(TEXT);
    char *text = malloc(COPIES * length);
    for (int i = 0; i < COPIES; i++) memcpy(text + i * length, TEXT, length);
    if (!(w->tokenizer = tokenizer_train(text, COPIES * length, 290, NULL, NULL, &err)))
        cr_assert_fail("%s", err.text);
    must(corpus_init(&w->corpus, w->tokenizer, text, COPIES * length, 0.1, 16, &err), &err);
    w->source = source_of_corpus(&w->corpus);
    ModelConfig cfg = tiny_config(tokenizer_vocab_size(w->tokenizer));
    cfg.hidden_size = 32;
    cfg.num_hidden_layers = 2;
    cfg.max_position_embeddings = 32;
    cfg.initializer_range = 0.05f;
    cfg.tie_word_embeddings = true;
    must(model_init(&w->model, &w->ctx, &cfg, true, &err), &err);
    model_randomize(&w->model);
    w->options.schedule = (Schedule){.steps = 60, .warmup = 5, .peak = 1e-2f, .floor = 3e-4f};
    w->options.batch_size = 8;
    w->options.context_length = 16;
    w->options.eval_interval = 20;
    w->options.eval_batches = 1;
    w->options.quiet = true;
}

/* A source that sends the process a signal when this window is asked for (0: never). */
typedef struct Alarm {
    TokenSource inner;
    uint64_t window;
    int signal;
} Alarm;

static inline void alarm_batch(void *self, uint64_t seed, uint64_t first, int batch, int length,
                               int32_t *inputs, int32_t *targets) {
    Alarm *a = self;
    if (a->window && first == a->window) raise(a->signal);
    source_batch(&a->inner, seed, first, batch, length, inputs, targets);
}

static inline void alarm_validation(void *self, int i, int count, int length, int32_t *inputs,
                                    int32_t *targets) {
    source_validation(&((Alarm *)self)->inner, i, count, length, inputs, targets);
}

static inline TokenSource alarm_source(Alarm *alarm) {
    TokenSource source = alarm->inner;
    source.self = alarm;
    source.batch = alarm_batch;
    source.validation = alarm_validation;
    return source;
}

#endif
