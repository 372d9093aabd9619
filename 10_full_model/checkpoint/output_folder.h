/*
 * A folder that a command is going to write into: what is there already, and may it be replaced?
 *
 * One answer for all commands. What a folder holds is told by names that this program, or
 * transformers, gives:
 *
 *     a run       last/training.safetensors, which --resume needs
 *     a model     weights
 *     shards      index.json of `deepseek data`
 *     files       none of these, but a name that the command would write: config.json, ...
 *
 *               new model          new run             new shards
 *     model     --overwrite        --overwrite         refused
 *     run       refused            --overwrite (1)     refused
 *     shards    refused            refused             --overwrite
 *     files     --overwrite        --overwrite         --overwrite
 *
 * (1) or --resume. Refused is what would leave a mixture: a model beside the shards' tokenizer is
 * neither. Other files may lie there: they are not touched.
 */
#ifndef OUTPUT_FOLDER_H
#define OUTPUT_FOLDER_H

#include "common/core/error.h"

#include <stdbool.h>

typedef enum OutputKind { OUTPUT_MODEL, OUTPUT_RUN, OUTPUT_SHARDS } OutputKind;

typedef enum FolderContent {
    FOLDER_FREE, /* nothing that the command would replace, or no folder at all */
    FOLDER_FILES,
    FOLDER_MODEL,
    FOLDER_RUN,
    FOLDER_SHARDS,
} FolderContent;

/* What a new model, run or set of shards would find in `path`. */
FolderContent output_folder_content(const char *path, OutputKind kind);

/*
 * Refuses what must not be replaced: -1 and a message. Without looking at locks, and without
 * creating anything. An empty path, and the last/ of a run, are refused too.
 */
int output_folder_check(const char *path, OutputKind kind, bool overwrite, Error *err);

/*
 * The same, and then makes the folder, locks it (folder_lock), and clears away what a killed
 * process has left unfinished. The descriptor of the lock, to be closed when all is written; -1 and
 * a message.
 */
int output_folder_open(const char *path, OutputKind kind, bool overwrite, Error *err);

/* Removes what a killed process has left unfinished. Hold the folder's lock. */
void output_folder_clear(const char *path, OutputKind kind);

/* A single file, of which --output says the name. */
int output_file_check(const char *path, bool overwrite, Error *err);

#endif
