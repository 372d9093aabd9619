/*
 * The text that the demo learns: a file that the user names, else Genesis as the program `bible`
 * prints it (package bible-kjv), else the first chapter of it, which is built in. So the demo
 * runs anywhere.
 */
#ifndef CHARTEXT_H
#define CHARTEXT_H

#include "common/core/error.h"

#include <stddef.h>

typedef struct CharText {
    char *data; /* terminated */
    size_t size;
    char source[256]; /* where it is from, for people */
} CharText;

/*
 * path may be NULL. A text of fewer than `least` bytes is an error, as is a file that cannot be
 * read.
 */
int chartext_load(CharText *text, const char *path, int least, Error *err);
void chartext_free(CharText *text);

#endif
