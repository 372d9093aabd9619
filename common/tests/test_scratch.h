/*
 * A directory for a test's own files, and what tests do there: put bytes into a file, read it back,
 * compare and count what is left. It goes when the test's process ends, whether it passed or not.
 * And where the programs lie that a test runs.
 */
#ifndef COMMON_TEST_SCRATCH_H
#define COMMON_TEST_SCRATCH_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* build/KIND/tests/NN_name/test_x -> build/KIND/NN_name/NAME, which must have been built. */
static inline void program_path(char *path, size_t size, const char *name) {
    ssize_t length = readlink("/proc/self/exe", path, size - 1);
    cr_assert(length > 0);
    path[length] = 0;
    char *tests = NULL;
    for (char *at = path; (at = strstr(at, "/tests/")); at++) tests = at;
    cr_assert_not_null(tests, "%s is not where make puts tests", path);
    memmove(tests, tests + strlen("/tests"), strlen(tests + strlen("/tests")) + 1);
    char *file = strrchr(path, '/') + 1;
    snprintf(file, size - (size_t)(file - path), "%s", name);
    cr_assert(access(path, X_OK) == 0, "%s is missing: make builds it", path);
}

typedef struct Scratch {
    char directory[64];
    char path[400]; /* the file named last */
} Scratch;

static struct {
    pid_t owner; /* children that a test forks leave the directories alone */
    int count;
    char directory[256][64];
} scratch_made;

static inline void scratch_remove_all(void) {
    char command[80];
    for (int i = 0; i < scratch_made.count && getpid() == scratch_made.owner; i++) {
        snprintf(command, sizeof command, "rm -rf '%s'", scratch_made.directory[i]);
        if (system(command)) fprintf(stderr, "%s failed\n", command);
    }
}

static inline Scratch scratch_open(void) {
    Scratch scratch = {.directory = "/tmp/deepseek-test-XXXXXX"};
    cr_assert_not_null(mkdtemp(scratch.directory), "cannot make a directory in /tmp");
    if (!scratch_made.count) scratch_made.owner = getpid(), atexit(scratch_remove_all);
    cr_assert(scratch_made.count < 256, "too many directories");
    strcpy(scratch_made.directory[scratch_made.count++], scratch.directory);
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

/* A path that lives as long as the test's process. */
static inline const char *path_in(const char *directory, const char *name) {
    size_t size = strlen(directory) + strlen(name) + 2;
    char *path = malloc(size);
    cr_assert_not_null(path);
    snprintf(path, size, "%s/%s", directory, name);
    return path;
}

/* The whole file, terminated. */
static inline char *file_text(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s is missing", path);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(*bytes + 1);
    cr_assert(text && fread(text, 1, *bytes, file) == *bytes);
    text[*bytes] = 0;
    fclose(file);
    return text;
}

static inline void same_bytes(const char *a, const char *b, const char *name) {
    size_t sizes[2];
    char *texts[2] = {file_text(path_in(a, name), &sizes[0]),
                      file_text(path_in(b, name), &sizes[1])};
    cr_assert(sizes[0] == sizes[1] && !memcmp(texts[0], texts[1], sizes[0]), "%s differs", name);
}

#endif
