/*
 * Files, whole: read by mapping, written by rename.
 *
 * A checkpoint that took hours must not be lost because the next one did not fit on the disk. So
 * nothing here writes into an existing file: the new content goes into a temporary file in the same
 * directory, is flushed to the disk, and takes over the name by rename(2), which is atomic. A
 * program that opens the name sees the old file or the new one, never half of one.
 */
#ifndef COMMON_FILES_H
#define COMMON_FILES_H

#include "common/core/error.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct MappedFile {
    const char *data; /* read-only; not zero-terminated */
    size_t size;
} MappedFile;

/*
 * Maps a regular file. A missing, unreadable or special file, or a directory, is an error that
 * names it. Size 0 is allowed. The pages are the file's: when it is shortened while it is mapped
 * (replacing it by rename is fine), who reads what is gone ends the program with a message that
 * names the file.
 */
int file_map(MappedFile *file, const char *path, Error *err);
void file_unmap(MappedFile *file);

/*
 * Atomic replacement: write into file->stream (no need to check each write), then commit. commit
 * flushes to disk and renames over path; any error on the way, a full disk included, removes the
 * temporary file, leaves path as it was, and says so. A symbolic link is followed; a path that is a
 * device, a pipe or a directory is refused.
 */
typedef struct AtomicFile {
    void *stream; /* a FILE *; NULL when nothing is open */
    char path[512], temporary[560];
} AtomicFile;

int atomic_open(AtomicFile *file, const char *path, Error *err);
int atomic_commit(AtomicFile *file, Error *err);
/* Closes and removes the temporary file; harmless after commit. */
void atomic_abandon(AtomicFile *file);

/* Is it a name that a temporary file has, "config.json.1234-0.tmp"? base: what is to replace,
 * "config.json". */
bool file_is_temporary(const char *name, char *base, size_t size);

/* A rename is in the directory's pages; without this a power cut could bring the old name back. */
int directory_sync(const char *directory, Error *err);

/* "directory/name"; what is too long is cut, and then there is no such file. */
typedef struct PathText {
    char text[1300];
} PathText;
PathText file_path(const char *directory, const char *name);

/* Creates a directory and its parents; an existing one is fine. */
int make_directories(const char *path, Error *err);
/* The one that a file of this path is to lie in, and its parents. */
int make_directories_above(const char *path, Error *err);

/*
 * Programs write the paths of the project's own files from its root ("02_causal/figures/out").
 * Started in a chapter's folder, or one deeper, they find that root above them: project_path copies
 * path into the caller's buffer with "", "../" or "../../" before it. Only paths that begin with a
 * chapter's two digits or with common/ are the project's; others, and those found nowhere, stay as
 * they are. -1 and a message when the buffer is too small.
 */
int project_path(char *buffer, size_t size, const char *path, Error *err);
bool project_owns(const char *path);

#endif
