/*
 * What the tokenizer's tests share: golden files, and a text's words as a list.
 */
#ifndef TEST_TOKENIZER_H
#define TEST_TOKENIZER_H

#include "common/program/testing.h"
#include "common/text/tokenizer_internal.h"

#include <stdio.h>
#include <unistd.h>

/* The tests run in the repository's root or in a chapter's directory. */
static inline const char *golden(const char *name) {
    static char path[2][256];
    static int turn;
    char *found = path[turn ^= 1];
    snprintf(found, sizeof *path, "common/tests/goldens/%s", name);
    if (access(found, R_OK) != 0) snprintf(found, sizeof *path, "../common/tests/goldens/%s", name);
    cr_assert(access(found, R_OK) == 0, "no golden file %s; tools/goldens/common_tokenizer.py",
              name);
    return found;
}

static inline Tokenizer *must_load(const char *path) {
    Error err = {""};
    Tokenizer *tokenizer = tokenizer_load(path, &err);
    cr_assert(tokenizer, "%s", err.text);
    return tokenizer;
}

typedef struct Words {
    const char *start[4096];
    size_t length[4096];
    size_t count;
} Words;

static inline void keep_word(void *user, const char *word, size_t length) {
    Words *words = user;
    cr_assert(words->count < 4096);
    words->start[words->count] = word;
    words->length[words->count++] = length;
}

static inline Words words_of(const Tokenizer *tokenizer, const char *text, size_t size) {
    Words words = {.count = 0};
    Matcher matcher;
    matcher_init(&matcher);
    split_words(&tokenizer->splitter, &matcher, text, size, keep_word, &words);
    matcher_free(&matcher);
    return words;
}

#endif
