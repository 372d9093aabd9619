/*
 * JSON files, read by cJSON and with its gaps closed.
 *
 * cJSON accepts some texts that JSON forbids or that C strings cannot carry: invalid UTF-8, zero
 * characters (which would cut a name short), and the same key twice in one object. It also turns
 * every number into a double, which above 2^53 is another number. The functions here refuse all of
 * these with a message that says where.
 */
#ifndef COMMON_JSON_H
#define COMMON_JSON_H

#include "common/core/error.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

/* Parses size bytes (zero-terminated or not). `what` names them in messages ("config.json"). NULL
 * and a message with line and column if they are not JSON. Free the result with cJSON_Delete(). */
cJSON *json_parse(const char *what, const char *text, size_t size, Error *err);

/* The JSON in a file. */
cJSON *json_load(const char *path, Error *err);

/* Writes a file, atomically, indented. */
int json_save(const char *path, const cJSON *json, Error *err);

/* The first key that an object has twice, or NULL. */
const char *json_duplicate(const cJSON *object);

/* A name out of a file, fit to be shown: at most 80 bytes, control characters as "?". */
typedef struct NameText {
    char text[88];
} NameText;
NameText name_text(const char *name);

/* Drops, in all objects within, every key but the last of those with the same name, as Python and
 * JavaScript read such texts. True: there was one, and *name is it. */
bool json_keep_last(cJSON *json, NameText *name);

/* *value = item if it is a whole number in low .. high, all within +-2^53. item may be NULL. */
bool json_integer(const cJSON *item, int64_t low, int64_t high, int64_t *value);

#endif
