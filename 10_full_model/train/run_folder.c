/*
 * Both folders are locked, so that nobody can take last/ for a folder of its own. A new run is
 * refused where anything would be lost: a state, or a model without one. What tells a model whose
 * state is gone from the first one of a run that was killed while it saved is the file
 * last/unsaved: a run that finds no model there begins with it, and the first state takes it away.
 */
#include "10_full_model/train/run_folder.h"

#include "10_full_model/checkpoint/output_folder.h"

#include "common/core/memory.h"
#include "common/files/files.h"
#include "common/files/replacement.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool has(const char *path, const char *name) {
    return access(file_path(path, name).text, F_OK) == 0;
}

static bool has_model(const char *path) {
    return output_folder_content(path, OUTPUT_MODEL) == FOLDER_MODEL;
}

/* Is there anything that must not be lost? */
static int check_start(const char *path, RunStart start, Error *err) {
    if (start != RUN_OVERWRITE && run_folder_has_state(path))
        return start == RUN_RESUME ? 0
                                   : error_set(err,
                                               "%s has a run that can be resumed: --resume goes on "
                                               "with it, --overwrite begins anew in its place",
                                               path);
    if (has(path, "last/unsaved") && (start == RUN_RESUME || !has_model(path))) return 0;
    if (output_folder_check(path, OUTPUT_RUN, start == RUN_OVERWRITE, err) == 0) return 0;
    return start == RUN_RESUME
               ? error_prefix(err, "there is no last/training.safetensors to resume from, and ")
               : -1;
}

static int lock_one(const char *path, Error *err) {
    int lock = folder_lock(path, err);
    if (lock == FOLDER_BUSY)
        error_set(err,
                  "%s: another process is training there; wait for it, stop it, or choose another "
                  "--out",
                  path);
    return lock;
}

static void set_names(RunFolder *folder, const char *path) {
    snprintf(folder->best, sizeof folder->best, "%s", path);
    snprintf(folder->last, sizeof folder->last, "%s/last", path);
}

int run_folder_open(RunFolder *folder, const char *path, RunStart start, Error *err) {
    *folder = (RunFolder){.locks = {-1, -1}};
    if (strlen(path) >= sizeof folder->best)
        return error_set(err, "the path %.80s... is too long", path);
    set_names(folder, path);
    if (!has(path, "last") && check_start(path, start, err)) return -1; /* before it gets one */
    if (make_directories(folder->last, err)) return -1;
    const char *const both[] = {folder->best, folder->last};
    int status = 0;
    for (int i = 0; i < 2 && !status; i++) {
        folder->locks[i] = lock_one(both[i], err);
        if (folder->locks[i] < 0) status = -1;
        if (!status && access(both[i], W_OK))
            status = error_set(err, "cannot write into %s: %s", path, strerror(errno));
    }
    if (!status) status = check_start(path, start, err);
    if (status) {
        run_folder_close(folder);
        return -1;
    }
    for (int i = 0; i < 2; i++) output_folder_clear(both[i], OUTPUT_RUN);
    return 0;
}

int run_folder_open_shared(RunFolder *folder, const char *path, RunStart start, Comm *comm,
                           bool *resumed, Error *err) {
    bool first = comm_rank(comm) == 0;
    int status = first ? run_folder_open(folder, path, start, err) : 0;
    *resumed = !status && start == RUN_RESUME && run_folder_has_state(path);
    if (!status && first && !*resumed) status = run_folder_begin(folder, err);
    if (comm_agree(comm, status, err)) return -1;
    comm_broadcast_host(comm, resumed, sizeof *resumed, 0);
    if (first) return 0;
    *folder = (RunFolder){.locks = {-1, -1}};
    set_names(folder, path);
    return 0;
}

int run_folder_stop(Comm *comm, int mine) {
    int ranks = comm_size(comm), stop = 0;
    int *all = must_alloc((size_t)ranks, sizeof *all);
    comm_gather_host(comm, all, &mine, sizeof mine);
    for (int r = 0; r < ranks && !stop; r++) stop = all[r];
    free(all);
    return stop;
}

void run_folder_close(RunFolder *folder) {
    for (int i = 0; folder->best[0] && i < 2; i++)
        if (folder->locks[i] >= 0) close(folder->locks[i]); /* the lock goes with it */
    *folder = (RunFolder){.locks = {-1, -1}};
}

bool run_folder_has_state(const char *path) { return has(path, "last/training.safetensors"); }

static int remove_from_last(const RunFolder *folder, const char *name, Error *err) {
    PathText path = file_path(folder->last, name);
    if (unlink(path.text) && errno != ENOENT)
        return error_set(err, "cannot remove %s: %s", path.text, strerror(errno));
    return 0;
}

int run_folder_begin(const RunFolder *folder, Error *err) {
    if (remove_from_last(folder, "training.safetensors", err)) return -1;
    if (has_model(folder->best)) return 0; /* it stays until there is a better one */
    int fd = open(file_path(folder->last, "unsaved").text, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return error_set(err, "cannot write into %s: %s", folder->last, strerror(errno));
    close(fd);
    return 0;
}

int run_folder_saved(const RunFolder *folder, Error *err) {
    return remove_from_last(folder, "unsaved", err);
}
