/*
 * What the chapters use of glibc and wasi-libc does not declare. It is included before every file
 * that is compiled for a page.
 */
#ifndef BOOK_GLIBC_H
#define BOOK_GLIBC_H

#include <stddef.h>
#include <sys/cdefs.h>

extern char *program_invocation_short_name;
void *reallocarray(void *memory, size_t count, size_t size);

#endif
