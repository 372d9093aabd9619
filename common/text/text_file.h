/*
 * A file that is to be read as text: UTF-8, with or without a byte order mark. What is another
 * thing under a text's name (compressed, or UTF-16) is refused with its own name, for as UTF-8 it
 * would become rubbish without a word. Single bytes that are no UTF-8 are no reason to refuse a
 * file.
 */
#ifndef COMMON_TEXT_FILE_H
#define COMMON_TEXT_FILE_H

#include "common/files/files.h"

/* Maps a file as file_map() does. */
int text_file_map(MappedFile *file, const char *path, Error *err);

/* Bytes of the byte order mark that a text begins with: 3 or 0. */
size_t text_mark(const char *text, size_t bytes);

/* What a text that begins so really is ("gzip", "UTF-16"), or NULL. */
const char *text_is_really(const char *text, size_t bytes);

#endif
