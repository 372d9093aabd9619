/*
 * The lock is flock on the folder itself, which the system gives up when the process ends, however
 * it ends. Only who holds it removes the temporary files that a crash has left. A new run is
 * refused where anything would be lost: a state, or a model without one.
 */
#include "10_full_model/train/run_folder.h"

#include "common/files/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* What atomic_open() calls its files until they are whole: "model.safetensors.1234-0.tmp". We
 * hold the lock, so no process is writing them any more. */
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

static bool has(const char *path, const char *name) {
    char whole[600];
    snprintf(whole, sizeof whole, "%s/%s", path, name);
    return access(whole, F_OK) == 0;
}

/* Is there anything that must not be lost? */
static int check_start(const char *path, RunStart start, Error *err) {
    if (start == RUN_OVERWRITE) return 0;
    if (run_folder_has_state(path))
        return start == RUN_RESUME ? 0
                                   : error_set(err,
                                               "%s has a run that can be resumed: --resume goes on "
                                               "with it, --overwrite begins anew in its place",
                                               path);
    /* A run that was killed between its first two saves has a model without a state, and last/.
     * Any other model is not ours to replace. */
    bool model = has(path, "model.safetensors") || has(path, "model.safetensors.index.json");
    if (!model || (start == RUN_RESUME && has(path, "last"))) return 0;
    return error_set(err,
                     "%s has a model, which would be lost: choose another --out, or say "
                     "--overwrite",
                     path);
}

int run_folder_open(RunFolder *folder, const char *path, RunStart start, Error *err) {
    *folder = (RunFolder){.lock = -1};
    if (strlen(path) >= sizeof folder->best)
        return error_set(err, "the path %.80s... is too long", path);
    strcpy(folder->best, path);
    snprintf(folder->last, sizeof folder->last, "%s/last", path);
    if (!has(path, "last") && check_start(path, start, err)) return -1; /* before it gets one */
    if (make_directories(folder->last, err)) return -1;
    folder->lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder->lock < 0) return error_set(err, "cannot open %s: %s", path, strerror(errno));
    /* A file system without locks (some networks') must not forbid training: only a lock that
     * another process has does. */
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
    if (check_start(path, start, err)) {
        run_folder_close(folder);
        return -1;
    }
    remove_unfinished(folder->best);
    remove_unfinished(folder->last);
    return 0;
}

void run_folder_close(RunFolder *folder) {
    if (folder->best[0] && folder->lock >= 0) close(folder->lock); /* the lock goes with it */
    *folder = (RunFolder){.lock = -1};
}

bool run_folder_has_state(const char *path) { return has(path, "last/training.safetensors"); }

int run_folder_forget(const RunFolder *folder, Error *err) {
    char name[600];
    snprintf(name, sizeof name, "%s/training.safetensors", folder->last);
    if (unlink(name) && errno != ENOENT)
        return error_set(err, "cannot remove %s: %s", name, strerror(errno));
    return 0;
}
