/*
 * Two kinds of failure, two answers.
 *
 * What a user can cause (a file, a flag, a text, a missing device) is returned: the function takes
 * an Error *last, fills it by error_set() with what went wrong, where, and what to do, and returns
 * -1 (or NULL). The caller passes it up; main prints it and exits with 1. Nothing is lost on the
 * way.
 *
 * What only a programmer can cause (a shape that does not fit, an index out of range) stops the
 * program at once: CHECK() is on in every build. It prints the same kind of message and aborts, so
 * that a debugger shows the place.
 *
 * Running out of memory in the middle of a step is a user's mistake (a batch too large) that no
 * caller could mend: fatal() prints what to change and exits with 1.
 */
#ifndef COMMON_ERROR_H
#define COMMON_ERROR_H

#include <sys/cdefs.h> /* __BEGIN_DECLS: extern "C", where a .cu file reads this */

__BEGIN_DECLS

typedef struct Error {
    char text[1024]; /* one sentence or a few, no newline at the end; empty = no error */
} Error;

/* Formats the message into err (which may be NULL: the caller only wants the code) and returns
 * -1. */
int error_set(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts a prefix ("loading model.safetensors: ") in front of the message that is there; returns
 * -1. */
int error_prefix(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints "PROGRAM: message" to stderr and exits with 1. */
void fatal(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* From here on fatal() hands its message to `last`, which does not return: where several processes
 * compute together, one must not end without the others. NULL: as it was. */
void fatal_hand_over(void (*last)(const char *message));

void check_failed(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 4, 5), noreturn));

/* CHECK(condition, "format", ...): a contract between two pieces of our own code; on in every
 * build. */
#define CHECK(condition, ...) \
    ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__))

__END_DECLS
#endif
