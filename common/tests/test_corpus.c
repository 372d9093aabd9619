/*
 * Texts as windows of ids: what cannot be learned from, and who may see what.
 */
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"
#include "common/text/corpus.h"

Test(corpus, texts_that_cannot_be_learned_from) {
    Error err = {0};
    size_t bytes;
    const char *missing = "/proc/none/text.txt", *folder = "/tmp";
    Scratch scratch = scratch_open();
    const char *empty_path = scratch_write(&scratch, "empty.txt", "", 0);
    cr_assert(!corpus_read_text(&missing, 1, &bytes, &err) && strstr(err.text, missing), "%s",
              err.text);
    cr_assert(!corpus_read_text(&folder, 1, &bytes, &err) && strstr(err.text, folder), "%s",
              err.text);
    cr_assert(!corpus_read_text(&empty_path, 1, &bytes, &err) && strstr(err.text, "no text"), "%s",
              err.text);

    Tokenizer *tokenizer = tokenizer_train("too short", 9, 257, NULL, NULL, &err);
    Corpus corpus;
    cr_assert(corpus_init(&corpus, tokenizer, "too short", 9, 0.1, 16, &err) == -1);
    cr_assert(strstr(err.text, "too short") && strstr(err.text, "17"), "%s", err.text);
}

Test(corpus, windows_stay_in_their_part) {
    enum { COUNT = 2000, TRAIN = 1800 };
    int32_t ids[COUNT], inputs[64 * 16], targets[64 * 16];
    for (int i = 0; i < COUNT; i++) ids[i] = i; /* an id is its place */
    Corpus corpus = {.ids = ids, .count = COUNT, .train_count = TRAIN};
    corpus_batch(&corpus, 1, 0, 64, 16, inputs, targets);
    for (int i = 0; i < 64 * 16; i++) {
        cr_assert(targets[i] == inputs[i] + 1);
        cr_assert(targets[i] < TRAIN, "a training window reads validation text");
    }
    for (int i = 0; i < 10; i++) {
        corpus_validation(&corpus, i, 10, 16, inputs, targets);
        check_all(inputs[0] >= TRAIN, targets[15] < COUNT);
    }
    int32_t again[16], ignored[16];
    corpus_batch(&corpus, 1, 5, 1, 16, again, ignored);
    corpus_batch(&corpus, 1, 4, 2, 16, inputs, targets);
    cr_assert(!memcmp(again, inputs + 16, sizeof again), "window 5 is window 5 in any batch");
}
