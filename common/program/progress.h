/*
 * A progress line for long work.
 *
 * On a terminal one line, as wide as it at most, is redrawn up to ten times a second: a bar, what
 * the caller says, and the time left. Elsewhere (a pipe, a log) a plain line is printed now and
 * then, more and more rarely, so that a log stays readable. Output goes to stderr, so that stdout
 * can be piped.
 */
#ifndef COMMON_PROGRESS_H
#define COMMON_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Progress {
    const char *label;
    int64_t total, skipped;
    double started, drawn; /* seconds, monotonic clock */
    bool terminal;
    int lines; /* plain lines printed */
} Progress;

Progress progress_start(const char *label, int64_t total);

/* The first `done` were done before: the bar begins there, and the time left counts only the
 * rest. */
void progress_skip(Progress *progress, int64_t done);

/* done of total; the format gives what is to be said of it: "loss 3.21  12,300 tokens/s". Cheap
 * when it is too early. */
void progress_update(Progress *progress, int64_t done, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Takes the bar away for something else that is to be printed; the next update draws it again. */
void progress_clear(Progress *progress);

/* Takes the bar away and leaves one line: label, time it took, and the text (NULL: none). */
void progress_finish(Progress *progress, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The same for work that did not come to its end: "stopped after" instead of "done in". */
void progress_stop(Progress *progress, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

double seconds_now(void); /* monotonic */

/* "1:05" or "2:03:10", and "12,345,678", in the caller's buffer; both return it. */
char *format_time(char *buffer, size_t size, double seconds);
char *format_count(char *buffer, size_t size, int64_t n);
/* In as few digits (6 at least are tried) as give the number back; a float as tell it from others.
 * */
char *format_number(char *buffer, size_t size, double number);

#endif
