/*
 * The folder of a training run, and who may write into it.
 *
 *     DIR/            the best model so far, as transformers loads it: config.json, ...
 *     DIR/last/       the model after the last step that was saved, in the same form, and with it
 *                     training.safetensors: everything that --resume needs (training_state.h)
 *     DIR/metrics.csv
 *
 * One process at a time: the folder is locked (flock) for as long as the process lives, however it
 * ends, so there is no lock file that a crash could leave behind.
 */
#ifndef RUN_FOLDER_H
#define RUN_FOLDER_H

#include "common/core/error.h"

#include <stdbool.h>

typedef struct RunFolder {
    char best[512], last[520]; /* DIR and DIR/last */
    int lock;                  /* a descriptor; -1: no folder */
} RunFolder;

/* What is meant to happen to a run, or a model, that is there already. */
typedef enum RunStart {
    RUN_NEW,       /* nothing: the folder must have none */
    RUN_RESUME,    /* go on with it, or begin if there is none */
    RUN_OVERWRITE, /* it makes room */
} RunStart;

/*
 * Creates the folders, locks them, and removes what a killed run left half written. -1 and a
 * message when another process trains there, the folder cannot be written, or it has what `start`
 * does not allow for.
 */
int run_folder_open(RunFolder *folder, const char *path, RunStart start, Error *err);
void run_folder_close(RunFolder *folder); /* one that was never opened, all zeros: fine */

/* Is there a state to resume from? */
bool run_folder_has_state(const char *path);

/* Removes it: another run begins here. */
int run_folder_forget(const RunFolder *folder, Error *err);

#endif
