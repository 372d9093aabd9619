/*
 * The table of output_folder.h. A folder is looked at twice: before anything is created in it, and
 * again under the lock, for another process may have been faster.
 */
#include "10_full_model/checkpoint/output_folder.h"

#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/weight_files.h"
#include "10_full_model/data/shards.h"

#include "common/files/files.h"
#include "common/files/json.h"
#include "common/files/replacement.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool has(const char *path, const char *name) {
    return access(file_path(path, name).text, F_OK) == 0;
}

/* ---- what is there ---- */

typedef bool (*Matches)(const char *name);

static bool run_owns(const char *name) {
    return checkpoint_owns(name) || !strcmp(name, "metrics.csv") ||
           !strcmp(name, "training.safetensors");
}

static const Matches owned[] = {
    [OUTPUT_MODEL] = checkpoint_owns, [OUTPUT_RUN] = run_owns, [OUTPUT_SHARDS] = shards_owns};

/* Is there a name in the folder that matches? It is copied into `found`. */
static bool find(const char *path, Matches matches, char found[256]) {
    DIR *directory = opendir(path);
    if (!directory) return false;
    bool is = false;
    for (struct dirent *entry; !is && (entry = readdir(directory));)
        if ((is = matches(entry->d_name))) snprintf(found, 256, "%s", entry->d_name);
    closedir(directory);
    return is;
}

static FolderContent look(const char *path, OutputKind kind, char found[256]) {
    if (has(path, "last/training.safetensors")) return FOLDER_RUN;
    if (find(path, weight_file_owned, found)) return FOLDER_MODEL;
    if (shards_are_there(path)) return FOLDER_SHARDS;
    /* What a killed run of an older version left: shards, tokenizer.json, but no index. */
    if (kind == OUTPUT_SHARDS && !has(path, SHARD_INDEX) && find(path, shard_file_owned, found))
        return FOLDER_FREE;
    return find(path, owned[kind], found) ? FOLDER_FILES : FOLDER_FREE;
}

FolderContent output_folder_content(const char *path, OutputKind kind) {
    char found[256];
    return look(path, kind, found);
}

/* ---- may it be replaced? ---- */

/* A run's state beside the weights: somebody means the inside of a run's folder. */
static bool is_last_of_a_run(const char *path) { return has(path, "training.safetensors"); }

int output_folder_check(const char *path, OutputKind kind, bool overwrite, Error *err) {
    static const char *const what[] = {
        [FOLDER_MODEL] = "a model", [FOLDER_RUN] = "a training run", [FOLDER_SHARDS] = "shards"};
    static const char *const news[] = {
        [OUTPUT_MODEL] = "a model", [OUTPUT_RUN] = "a training run", [OUTPUT_SHARDS] = "shards"};
    char found[256] = "";
    struct stat info;
    if (strlen(path) > 390) return error_set(err, "the path %.80s... is too long", path);
    if (stat(path, &info) == 0 && !S_ISDIR(info.st_mode))
        return error_set(err, "%s: Not a directory", path);
    if (is_last_of_a_run(path))
        return error_set(err, "%s is the inside of a training run; choose another --out", path);
    if (replacement_finish(path, err)) return -1; /* what waits to be moved is there, too */
    FolderContent content = look(path, kind, found);
    if (content == FOLDER_FREE) return 0;
    bool same = (content == FOLDER_MODEL && kind != OUTPUT_SHARDS) ||
                (content == FOLDER_RUN && kind == OUTPUT_RUN) ||
                (content == FOLDER_SHARDS && kind == OUTPUT_SHARDS) || content == FOLDER_FILES;
    if (!same)
        return error_set(err,
                         "%s has %s, and %s needs a folder of %s own: some names are the same. "
                         "Choose another --out",
                         path, what[content], news[kind], kind == OUTPUT_SHARDS ? "their" : "its");
    if (overwrite) return 0;
    if (content == FOLDER_FILES)
        return error_set(err,
                         "%s has a file %s, which would be lost: choose another --out, or say "
                         "--overwrite",
                         path, name_text(found).text);
    return error_set(err,
                     "%s has %s, which would be lost: choose another --out, or say --overwrite",
                     path, what[content]);
}

void output_folder_clear(const char *path, OutputKind kind) {
    replacement_clear(path, owned[kind]);
}

int output_folder_open(const char *path, OutputKind kind, bool overwrite, Error *err) {
    if (output_folder_check(path, kind, overwrite, err) || make_directories(path, err)) return -1;
    int lock = folder_lock(path, err);
    if (lock < 0) return -1;
    int status = 0;
    if (access(path, W_OK))
        status = error_set(err, "cannot write into %s: %s", path, strerror(errno));
    if (!status) output_folder_clear(path, kind);
    if (!status && output_folder_check(path, kind, overwrite, err) == 0) return lock;
    close(lock);
    return -1;
}

int output_file_check(const char *path, bool overwrite, Error *err) {
    struct stat info;
    if (overwrite || stat(path, &info) || !S_ISREG(info.st_mode)) return 0;
    return error_set(err, "%s is there already: choose another --output, or say --overwrite", path);
}
