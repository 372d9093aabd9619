/*
 * Texts as windows of ids: what cannot be learned from, and who may see what. And the demos' texts,
 * by characters.
 */
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"
#include "common/text/chartext.h"
#include "common/text/corpus.h"

#include <string.h>

Test(corpus, texts_that_cannot_be_learned_from) {
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

/* A text begins with a token that the corpus has. */
Test(corpus, begins_with_what_it_has) {
    static const struct {
        const char *text, *begin;
    } cases[] = {{"one two one two one two", NULL},
                 {"one two\none two\none two", "\n"},
                 {"one two\none two<|endoftext|>one two", "<|endoftext|>"}};
    for (int i = 0; i < 3; i++) {
        Error err;
        Corpus corpus;
        size_t bytes = strlen(cases[i].text);
        Tokenizer *t = tokenizer_train(cases[i].text, bytes, 257, NULL, NULL, &err);
        check_ok(corpus_whole(&corpus, t, cases[i].text, bytes, 2, &err), &err);
        int id = corpus_begin(&corpus, t);
        cr_assert_eq(id < 0, !cases[i].begin, "text %d begins with %d", i, id);
        if (id < 0) continue;
        const char *token = tokenizer_token(t, id, &bytes);
        cr_assert(bytes == strlen(cases[i].begin) && !memcmp(token, cases[i].begin, bytes));
    }
}

/* A mark at the beginning of any of the files is no text; UTF-16 is refused by name. */
Test(corpus, byte_order_marks) {
    Error err = {""};
    Scratch scratch = scratch_open();
    const char *paths[] = {strdup(scratch_write(&scratch, "a.txt", "\xEF\xBB\xBFone", 6)),
                           strdup(scratch_write(&scratch, "b.txt", "\xEF\xBB\xBFtwo", 6))};
    size_t bytes;
    char *text = corpus_read_text(paths, 2, &bytes, &err);
    cr_assert(text && bytes == 6 && !memcmp(text, "onetwo", 6), "%zu bytes", bytes);
    const char *wide = scratch_write(&scratch, "c.txt", "\xFF\xFEo\0n\0e\0", 8);
    cr_expect(!corpus_read_text(&wide, 1, &bytes, &err) && strstr(err.text, "c.txt is UTF-16"),
              "%s", err.text);
    CharText chars;
    cr_expect(chartext_load(&chars, wide, 3, &err) && strstr(err.text, "UTF-16"), "%s", err.text);
    check_ok(chartext_load(&chars, paths[0], 3, &err), &err);
    cr_expect(chars.size == 3 && chars.alphabet.size == 3);
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

/* ---- the demos' text ---- */

/* From the program `bible` or built in: it begins with the beginning and has no verse numbers. */
Test(chartext, genesis) {
    CharText text;
    cr_assert(chartext_load(&text, NULL, 4000, &err) == 0, "%s", err.text);
    cr_assert(strncmp(text.data, "In the beginning God created", 28) == 0, "%.40s", text.data);
    cr_assert_eq(strlen(text.data), text.size);
    cr_assert(strstr(text.data, "the earth. And the earth"), "verses are not joined by one blank");
    for (size_t i = 0; i < text.size; i++)
        cr_assert(text.data[i] < '0' || text.data[i] > '9', "a digit in %.20s", text.data + i);
}

/* Targets are the characters behind the ids; what is kept for validation is never trained on. */
CPU_TEST(chartext, batches_are_stretches_of_their_part) {
    enum { COUNT = 400, TRAIN = 300, B = 7, T = 20 };
    int32_t places[COUNT];
    for (int i = 0; i < COUNT; i++) places[i] = i;
    CharText text = {.ids = places, .train = TRAIN, .count = COUNT};
    Tensor *ids, *targets;
    for (int round = 0; round < 40; round++) {
        bool kept = round % 2;
        chartext_batch(&text, &ctx, kept ? NULL : &ctx.rng, B, T, &ids, &targets);
        const int32_t *id = ids->data, *target = targets->data;
        for (int i = 0; i < B * T; i++)
            check_all(id[i] == id[i / T * T] + i % T, target[i] == id[i] + 1);
        for (int b = 0; b < B; b++)
            check_all(id[b * T] >= (kept ? TRAIN : 0),
                      target[b * T + T - 1] < (kept ? COUNT : TRAIN));
    }
    /* Part by part they are the same stretches as all at once. */
    Tensor *all, *part;
    chartext_batch(&text, &ctx, NULL, 2 * B, T, &all, &targets);
    chartext_batch_kept(&text, &ctx, B, 2 * B, B, T, &part, &targets);
    cr_assert_arr_eq((int32_t *)part->data, (int32_t *)all->data + B * T, sizeof(int32_t) * B * T);
}

Test(chartext, what_is_wrong_is_named) {
    CharText text;
    cr_assert_eq(chartext_load(&text, "no/such/text.txt", 10, &err), -1);
    cr_assert(strstr(err.text, "no/such/text.txt"), "it says: %s", err.text);
    cr_assert_eq(chartext_load(&text, "common", 10, &err), -1); /* a directory */
    cr_assert_eq(chartext_load(&text, "/dev/null", 10, &err), -1);
    cr_assert_eq(chartext_load(&text, "LICENSE", 1 << 24, &err), -1);
    cr_assert(strstr(err.text, "needs at least 16777216"), "it says: %s", err.text);
}

Test(chartext, alphabet) {
    CharText text;
    Scratch scratch = scratch_open();
    const char *path = scratch_write(&scratch, "banana.txt", "banana\xff", 7);
    cr_assert(chartext_load(&text, path, 7, &err) == 0, "%s", err.text);
    const Alphabet *a = &text.alphabet;
    cr_assert(a->size == 4 && a->id['a'] == 0 && a->id['n'] == 2 && a->id[0xff] == 3);
    cr_assert_eq(a->id['x'], -1);
    for (int i = 0; i < a->size; i++) cr_assert_eq(a->id[a->byte[i]], i);
    for (int i = 0; i < 7; i++) cr_assert_eq(a->byte[text.ids[i]], (uint8_t)text.data[i]);
}
