/*
 * Files, whole: read by mapping, written by rename.
 */
#ifndef COMMON_FILES_H
#define COMMON_FILES_H

#include "error.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MappedFile {
    const char *data; /* read-only; not terminated */
    size_t size;
} MappedFile;

/* Maps a regular file. A missing, unreadable or special file, or a directory, is an error that names it. Size 0 is allowed. */
int file_map(MappedFile *file, const char *path, Error *err);
void file_unmap(MappedFile *file);

/*
 * Atomic replacement: write into atomic->stream, then commit. commit flushes to disk and renames over path; any error on
 * the way (a full disk included) removes the temporary file, leaves path as it was, and says so.
 */
typedef struct AtomicFile {
    void *stream; /* a FILE * */
    char path[512], temporary[560];
} AtomicFile;
int atomic_open(AtomicFile *file, const char *path, Error *err);
int atomic_commit(AtomicFile *file, Error *err);
void atomic_abandon(AtomicFile *file);

/* Creates a directory and its parents; an existing one is fine. */
int make_directories(const char *path, Error *err);

#ifdef __cplusplus
}
#endif
#endif
