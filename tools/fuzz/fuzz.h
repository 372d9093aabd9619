/*
 * Harnesses for everything that reads what others wrote.
 *
 * A target is a function that gets bytes and does with them what the program does with a file. What
 * must never happen, whatever the bytes: a sanitizer's report, a CHECK of ours, ten seconds, two
 * gigabytes; beyond that each target REQUIREs properties of its own. A refusal, or fatal(), is a
 * good answer.
 *
 * Files lie in memory, under names of the target's choice; file_map() gives heap copies of exactly
 * their size, so that a read one byte behind the end is seen, which a mapping would hide. What is
 * written goes into a folder of the process.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "common/core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct Bytes {
    const char *data;
    size_t size;
} Bytes;

typedef struct FuzzTarget {
    const char *name;
    void (*run)(Bytes input);
} FuzzTarget;
extern const FuzzTarget fuzz_text_targets[], fuzz_file_targets[]; /* {NULL} behind the last */

/* A property that is broken is a crash, with its text. */
#define REQUIRE(condition, ...) CHECK(condition, __VA_ARGS__)

/* The next part of an input of several: up to the separator "\xFFFZ\xFF" or the end. */
Bytes fuzz_part(Bytes *input);

/* From now on, until the input is done, the file FUZZ_FOLDER/name. */
#define FUZZ_FOLDER "/fuzz"
void fuzz_file(const char *name, Bytes content);

/* A path in a folder of this process, on the disk. */
const char *fuzz_scratch(const char *name);

/* A file of the project, whole, or the end of the program. Not to be freed. */
Bytes fuzz_project_file(const char *path);

#endif
