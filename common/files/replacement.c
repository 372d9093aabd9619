/*
 * The folder "deepseek.incoming" is the record of what is still to be done: a file in it moves up,
 * an empty one (no file of a set is empty) says that the name is to go. Doing so is the same
 * whether it is done at once or after a kill, and may be begun again at any point.
 */
#include "common/files/replacement.h"

#include "common/core/memory.h"
#include "common/files/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char INCOMING[] = "deepseek.incoming";

int folder_lock(const char *directory, Error *err) {
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return error_set(err, "cannot open %s: %s", directory, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return fd;
    close(fd);
    error_set(err, "another process is writing into %s", directory);
    return FOLDER_BUSY;
}

static bool is_directory(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* ---- the names in a folder ---- */

/* Calls visit() for each but "." and ".."; ends with the first that does not return 0. The names
 * are read first, for visit() may remove and add some. */
static int for_each_name(const char *directory, int (*visit)(void *user, const char *name),
                         void *user) {
    char **names = NULL;
    size_t count = 0, capacity = 0;
    DIR *folder = opendir(directory);
    if (!folder) return -1;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        names = grow(names, &capacity, count + 1, sizeof *names);
        names[count++] = must_strdup(entry->d_name);
    }
    closedir(folder);
    int status = 0;
    for (size_t i = 0; i < count && !status; i++) status = visit(user, names[i]);
    int code = errno;
    for (size_t i = 0; i < count; i++) free(names[i]);
    free(names);
    errno = code;
    return status;
}

static void remove_folder(const char *path);

static int remove_name(void *directory, const char *name) {
    PathText path = file_path(directory, name);
    if (unlink(path.text) && is_directory(path.text)) remove_folder(path.text);
    return 0;
}

static void remove_folder(const char *path) {
    for_each_name(path, remove_name, (void *)path);
    rmdir(path);
}

/* ---- moving up ---- */

typedef struct Move {
    const char *from, *to;
    char failed[64]; /* the name that could not be moved */
} Move;

static int move_up(void *user, const char *name) {
    Move *move = user;
    struct stat info;
    PathText from = file_path(move->from, name), to = file_path(move->to, name);
    int status = stat(from.text, &info);
    if (!status && info.st_size == 0) {
        status = unlink(to.text) && errno != ENOENT ? -1 : unlink(from.text);
    } else if (!status) {
        status = rename(from.text, to.text);
        if (!status) unlink(from.text); /* two names of one file: rename() has left both */
    }
    if (status) snprintf(move->failed, sizeof move->failed, "%s", name);
    return status;
}

static int move_all(const char *directory, Error *err) {
    PathText incoming = file_path(directory, INCOMING);
    Move move = {incoming.text, directory, ""};
    if (for_each_name(incoming.text, move_up, &move) || rmdir(incoming.text))
        return error_set(err,
                         "cannot move %s/%s to %s: %s. The new files are whole, in %s: any command "
                         "that opens %s and may write there goes on with moving them",
                         incoming.text, move.failed, directory, strerror(errno), incoming.text,
                         directory);
    return directory_sync(directory, err);
}

int replacement_finish(const char *directory, Error *err) {
    enum { TRIES = 200 };
    const struct timespec pause = {0, 10000000};
    PathText incoming = file_path(directory, INCOMING);
    for (int i = 0; is_directory(incoming.text); i++) {
        int lock = folder_lock(directory, err);
        if (lock >= 0) {
            int status = is_directory(incoming.text) ? move_all(directory, err) : 0;
            close(lock);
            return status;
        }
        if (lock != FOLDER_BUSY || i == TRIES) return -1;
        nanosleep(&pause, NULL); /* a save moves its files within milliseconds */
    }
    return 0;
}

/* ---- a new set ---- */

int replacement_open(Replacement *r, const char *directory, Error *err) {
    *r = (Replacement){0};
    if (strlen(directory) >= sizeof r->directory)
        return error_set(err, "the path %.80s... is too long", directory);
    if (make_directories(directory, err)) return -1;
    if (is_directory(file_path(directory, INCOMING).text) && move_all(directory, err)) return -1;
    strcpy(r->directory, directory);
    for (int i = 0; i < 1000; i++) {
        snprintf(r->staging, sizeof r->staging, "%s/%s.%ld-%d.tmp", directory, INCOMING,
                 (long)getpid(), i);
        if (mkdir(r->staging, 0777) == 0) return 0;
        if (errno != EEXIST) break;
    }
    r->staging[0] = 0;
    return error_set(err, "cannot write into %s: %s", directory, strerror(errno));
}

void replacement_abandon(Replacement *r) {
    if (r->staging[0]) remove_folder(r->staging);
    r->staging[0] = 0;
}

typedef struct Commit {
    Replacement *r;
    OwnedName owned;
    int moves; /* files in the staging folder */
    char last[256];
} Commit;

static bool same_content(const char *a, const char *b) {
    MappedFile x, y;
    if (file_map(&x, a, NULL)) return false;
    bool same = file_map(&y, b, NULL) == 0;
    if (same) {
        same = x.size == y.size && !memcmp(x.data, y.data, x.size);
        file_unmap(&y);
    }
    file_unmap(&x);
    return same;
}

/* A name of the old set that the new one has not: an empty file says that it goes. */
static int mark_for_removal(void *user, const char *name) {
    Commit *commit = user;
    PathText path = file_path(commit->r->staging, name);
    if (!commit->owned(name) || access(path.text, F_OK) == 0) return 0;
    int fd = open(path.text, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return fd < 0 ? -1 : close(fd);
}

/* What is there already in the same bytes need not move. */
static int count_move(void *user, const char *name) {
    Commit *commit = user;
    PathText path = file_path(commit->r->staging, name);
    struct stat info;
    if (stat(path.text, &info)) return -1;
    if (info.st_size && same_content(path.text, file_path(commit->r->directory, name).text))
        return unlink(path.text);
    commit->moves++;
    snprintf(commit->last, sizeof commit->last, "%s", name);
    return 0;
}

static int commit_staging(Commit *commit, Error *err) {
    Replacement *r = commit->r;
    PathText incoming = file_path(r->directory, INCOMING);
    if (for_each_name(r->directory, mark_for_removal, commit) ||
        for_each_name(r->staging, count_move, commit) || directory_sync(r->staging, err))
        return error_set(err, "cannot write into %s: %s (what is there is as it was before)",
                         r->directory, strerror(errno));
    if (commit->moves <= 1) { /* one step anyway */
        Move move = {r->staging, r->directory, ""};
        if (commit->moves && move_up(&move, commit->last))
            return error_set(err, "cannot write %s/%s: %s", r->directory, commit->last,
                             strerror(errno));
        return directory_sync(r->directory, err);
    }
    if (rename(r->staging, incoming.text))
        return error_set(err, "cannot write %s: %s", incoming.text, strerror(errno));
    r->staging[0] = 0;
    return directory_sync(r->directory, err) ? -1 : move_all(r->directory, err);
}

int replacement_commit(Replacement *r, OwnedName owned, Error *err) {
    CHECK(r->staging[0], "replacement_commit: nothing is open");
    Commit commit = {.r = r, .owned = owned};
    int status = commit_staging(&commit, err);
    replacement_abandon(r);
    return status;
}

/* ---- what was left unfinished ---- */

typedef struct Clearing {
    const char *directory;
    OwnedName owned;
} Clearing;

static int clear_name(void *user, const char *name) {
    const Clearing *clearing = user;
    char base[256];
    if (!file_is_temporary(name, base, sizeof base)) return 0;
    PathText path = file_path(clearing->directory, name);
    if (!strcmp(base, INCOMING) && is_directory(path.text))
        remove_folder(path.text);
    else if (clearing->owned(base))
        unlink(path.text);
    return 0;
}

void replacement_clear(const char *directory, OwnedName owned) {
    for_each_name(directory, clear_name, &(Clearing){directory, owned});
}
