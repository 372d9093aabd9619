#include "run_folder.h"

#include "../common/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* What atomic_open() calls its files until they are whole: "model.safetensors.1234-0.tmp". We
 * hold the lock, so nobody is writing them any more. */
static void remove_unfinished(const char *path) {
    DIR *directory = opendir(path);
    if (!directory) return;
    int fd = dirfd(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        const char *ours = strstr(entry->d_name, ".safetensors.");
        if (!ours) ours = strstr(entry->d_name, ".json.");
        if (!ours) ours = strstr(entry->d_name, ".csv.");
        size_t length = strlen(entry->d_name);
        if (ours && length > 4 && !strcmp(entry->d_name + length - 4, ".tmp"))
            unlinkat(fd, entry->d_name, 0);
    }
    closedir(directory);
}

int run_folder_open(RunFolder *folder, const char *path, Error *err) {
    *folder = (RunFolder){.lock = -1};
    if (strlen(path) >= sizeof folder->best)
        return error_set(err, "the path %.80s... is too long", path);
    strcpy(folder->best, path);
    snprintf(folder->last, sizeof folder->last, "%s/last", path);
    if (make_directories(folder->last, err)) return -1;
    folder->lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->lock < 0) return error_set(err, "cannot open %s: %s", path, strerror(errno));
    /* A file system without locks (some networks') must not forbid training: only a lock that
     * somebody else has does. */
    if (flock(folder->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        run_folder_close(folder);
        return error_set(err,
                         "%s: another process is training there; wait for it, stop it, or choose "
                         "another --out",
                         path);
    }
    if (access(path, W_OK) || access(folder->last, W_OK)) {
        int code = errno;
        run_folder_close(folder);
        return error_set(err, "cannot write into %s: %s", path, strerror(code));
    }
    remove_unfinished(folder->best);
    remove_unfinished(folder->last);
    return 0;
}

void run_folder_close(RunFolder *folder) {
    if (folder->best[0] && folder->lock >= 0) close(folder->lock); /* the lock goes with it */
    *folder = (RunFolder){.lock = -1};
}

bool run_folder_has_state(const char *path) {
    char name[600];
    snprintf(name, sizeof name, "%s/last/training.safetensors", path);
    return access(name, F_OK) == 0;
}

int run_folder_forget(const RunFolder *folder, Error *err) {
    char name[600];
    snprintf(name, sizeof name, "%s/training.safetensors", folder->last);
    if (unlink(name) && errno != ENOENT)
        return error_set(err, "cannot remove %s: %s", name, strerror(errno));
    return 0;
}
