/*
 * What all targets share: which one runs, files in memory, and a fatal() that ends the input.
 *
 * The linker puts __wrap_X in the place of X (--wrap) in all calls from other files. fatal() must
 * not return, so it jumps back to where the input began; what it leaves allocated is lost, which is
 * why leaks are looked for in single runs only (FUZZ_LEAKS), where it ends the process instead.
 */
#define _GNU_SOURCE /* memmem */
#include "tools/fuzz/fuzz.h"

#include "common/files/files.h"

#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_file_map(MappedFile *file, const char *path, Error *err);
void __wrap_file_unmap(MappedFile *file);
int __wrap_access(const char *path, int mode);
int __wrap_madvise(void *at, size_t size, int advice);
void __wrap_fatal(const char *format, ...) __attribute__((noreturn));
int __real_access(const char *path, int mode);

static const FuzzTarget *target;
static jmp_buf start; /* of the input */

/* ---- files ---- */

enum { MOST_FILES = 8 };
static struct {
    char path[100];
    Bytes content;
} files[MOST_FILES];
static int file_count;

void fuzz_file(const char *name, Bytes content) {
    CHECK(file_count < MOST_FILES, "too many files");
    snprintf(files[file_count].path, sizeof files[0].path, "%s/%s", FUZZ_FOLDER, name);
    files[file_count++].content = content;
}

static const Bytes *find_file(const char *path) {
    for (int i = 0; i < file_count; i++)
        if (!strcmp(files[i].path, path)) return &files[i].content;
    return NULL;
}

/* A file on the disk; data NULL: there is none. */
static Bytes read_file(const char *path) {
    Bytes bytes = {NULL, 0};
    FILE *stream = fopen(path, "rb");
    if (!stream) return bytes;
    fseek(stream, 0, SEEK_END);
    bytes.size = (size_t)ftell(stream);
    rewind(stream);
    char *data = malloc(bytes.size ? bytes.size : 1);
    if (fread(data, 1, bytes.size, stream) != bytes.size) abort();
    fclose(stream);
    bytes.data = data;
    return bytes;
}

int __wrap_file_map(MappedFile *file, const char *path, Error *err) {
    const Bytes *found = find_file(path);
    Bytes bytes = found ? *found : read_file(path);
    *file = (MappedFile){.data = "", .size = 0};
    if (!bytes.data) return error_set(err, "cannot open %s: %s", path, strerror(ENOENT));
    if (found && bytes.size) bytes.data = memcpy(malloc(bytes.size), bytes.data, bytes.size);
    if (bytes.size) *file = (MappedFile){bytes.data, bytes.size};
    return 0;
}

void __wrap_file_unmap(MappedFile *file) {
    if (file->size) free((void *)file->data);
    *file = (MappedFile){.data = "", .size = 0};
}

int __wrap_access(const char *path, int mode) {
    if (find_file(path)) return 0;
    return __real_access(path, mode);
}

/* Pages of the heap must not be given back. */
int __wrap_madvise(void *at, size_t size, int advice) {
    (void)at, (void)size, (void)advice;
    return 0;
}

static char folder[64];

static void remove_folder(void) {
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (*folder && system(command)) fprintf(stderr, "%s is left behind\n", folder);
}

const char *fuzz_scratch(const char *name) {
    static char path[160];
    if (!*folder) {
        snprintf(folder, sizeof folder, "%s/deepseek-fuzz-XXXXXX",
                 __real_access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
        if (!mkdtemp(folder)) abort();
        atexit(remove_folder);
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

Bytes fuzz_project_file(const char *path) {
    Bytes bytes = read_file(path);
    CHECK(bytes.data, "%s: run this from the project's root", path);
    return bytes;
}

/* ---- inputs ---- */

Bytes fuzz_part(Bytes *input) {
    static const char separator[] = {'\xFF', 'F', 'Z', '\xFF'};
    const char *end = memmem(input->data, input->size, separator, sizeof separator);
    Bytes part = {input->data, end ? (size_t)(end - input->data) : input->size};
    size_t used = end ? part.size + sizeof separator : part.size;
    *input = (Bytes){input->data + used, input->size - used};
    return part;
}

void __wrap_fatal(const char *format, ...) {
    (void)format;
    if (getenv("FUZZ_LEAKS")) _exit(0);
    longjmp(start, 1);
}

/* The program's name ends in the target's: fuzz_config. */
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    const char *name = strrchr(**argv, '_');
    const FuzzTarget *const tables[] = {fuzz_text_targets, fuzz_file_targets};
    for (int i = 0; i < 2; i++)
        for (const FuzzTarget *t = tables[i]; t->name; t++)
            if (name && !strcmp(name + 1, t->name)) target = t;
    CHECK(target, "%s is named like no target", **argv);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    file_count = 0;
    if (!setjmp(start)) target->run((Bytes){(const char *)data, size});
    return 0;
}
