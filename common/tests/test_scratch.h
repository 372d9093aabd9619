/*
 * A directory for a test's own files, and the two things tests do there: put bytes into a file and
 * count what is left. For the tests of common/ that read and write files.
 */
#ifndef COMMON_TEST_SCRATCH_H
#define COMMON_TEST_SCRATCH_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Scratch {
    char directory[64];
    char path[400]; /* the file named last */
} Scratch;

static inline Scratch scratch_open(void) {
    Scratch scratch = {.directory = "/tmp/deepseek-test-XXXXXX"};
    cr_assert_not_null(mkdtemp(scratch.directory), "cannot make a directory in /tmp");
    return scratch;
}

/* The full path of a file in the directory; valid until the next call. */
static inline const char *scratch_path(Scratch *scratch, const char *name) {
    snprintf(scratch->path, sizeof scratch->path, "%s/%s", scratch->directory, name);
    return scratch->path;
}

/* Creates or replaces the file with these bytes. */
static inline const char *scratch_write(Scratch *scratch, const char *name, const void *data,
                                        size_t size) {
    unlink(scratch_path(scratch, name)); /* ext4 writes to disk at once what replaces a content */
    FILE *stream = fopen(scratch->path, "wb");
    cr_assert(stream && fwrite(data, 1, size, stream) == size && fclose(stream) == 0);
    return scratch->path;
}

static inline int scratch_count(const Scratch *scratch) {
    DIR *directory = opendir(scratch->directory);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(directory));) count += entry->d_name[0] != '.';
    closedir(directory);
    return count;
}

/* Removes the files and the directory; fails the test if there is anything else in it. */
static inline void scratch_close(Scratch *scratch) {
    DIR *directory = opendir(scratch->directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        unlink(scratch_path(scratch, entry->d_name));
    }
    closedir(directory);
    cr_assert(rmdir(scratch->directory) == 0, "the test left directories in %s",
              scratch->directory);
}

#endif
