/*
 * Messages: made in the caller's buffer and cut where it ends. error_set() always returns -1, so
 * that `return error_set(...)` is a statement; a prefix is written first and the old message after
 * it. Before a message goes to stderr stdout is flushed, so that the two come in the order in which
 * they happened.
 */
#define _GNU_SOURCE /* program_invocation_short_name */
#include "common/core/error.h"

#include "common/core/utf8.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int error_set(Error *err, const char *format, ...) {
    if (!err) return -1;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return -1;
}

int error_prefix(Error *err, const char *format, ...) {
    if (!err) return -1;
    Error old = *err;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    size_t used = strlen(err->text);
    snprintf(err->text + used, sizeof err->text - used, "%s", old.text);
    return -1;
}

static void (*others)(const char *message);
void fatal_hand_over(void (*last)(const char *message)) { others = last; }

void fatal(const char *format, ...) {
    fflush(stdout);
    char text[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (others) others(text);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    terminal_print(stderr, text); /* names and texts out of files may be in it */
    fputc('\n', stderr);
    exit(1);
}

void check_failed(const char *file, int line, const char *condition, const char *format, ...) {
    fflush(stdout);
    fprintf(stderr, "%s:%d: ", file, line);
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "  [broken: %s]\n", condition);
    abort();
}
