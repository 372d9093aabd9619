/*
 * The text that a demo learns, as characters: each byte that it has is a token. A file that the
 * user names, else Genesis as the program `bible` prints it (package bible-kjv), else the first
 * chapter of it, which is built in. So a demo runs anywhere.
 */
#ifndef CHARTEXT_H
#define CHARTEXT_H

#include "common/core/context.h"

typedef struct Alphabet {
    int size;
    int32_t id[256];   /* of a byte; -1 when the text does not have it */
    uint8_t byte[256]; /* of an id */
} Alphabet;

typedef struct CharText {
    char *data; /* terminated */
    size_t size;
    char source[256]; /* where it is from, for people */
    Alphabet alphabet;
    int32_t *ids;         /* [count] */
    int64_t train, count; /* characters to learn from, and all: the last 5 % are for validation */
} CharText;

/*
 * path may be NULL. A text of fewer than `least` bytes is an error, as is a file that cannot be
 * read.
 */
int chartext_load(CharText *text, const char *path, int least, Error *err);
void chartext_free(CharText *text);

/* Says in two lines where the text is from, how long it is, and what is kept for validation. */
void chartext_print(const CharText *text);

/*
 * B stretches of T characters, as ids and targets I32 [B, T] on ctx's device: of what is to be
 * learned, drawn by the next stream of rng, or (rng NULL) of what is kept, evenly spaced.
 */
void chartext_batch(const CharText *text, Context *ctx, Rng *rng, int B, int T, Tensor **ids,
                    Tensor **targets);

/* The same of what is kept, part by part: of `of` stretches, evenly spaced, those from `first`
 * on. */
void chartext_batch_kept(const CharText *text, Context *ctx, int first, int of, int B, int T,
                         Tensor **ids, Tensor **targets);

#endif
