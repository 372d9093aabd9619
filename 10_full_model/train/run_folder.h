/*
 * The folder of a training run, and who may write into it.
 *
 *     DIR/            the best model so far, as transformers loads it: config.json, ...
 *     DIR/last/       the model after the last step that was saved, in the same form, and with it
 *                     training.safetensors: everything that --resume needs (training_state.h);
 *                     or, before the first save of a new run, the empty file "unsaved"
 *     DIR/metrics.csv
 *
 * One process at a time: both folders are locked (folder_lock) for as long as the process lives,
 * however it ends, so there is no lock file that a crash could leave behind. What else may lie in a
 * new run's folder is told by output_folder.h.
 */
#ifndef RUN_FOLDER_H
#define RUN_FOLDER_H

#include "common/comm/comm.h"

#include <stdbool.h>

typedef struct RunFolder {
    char best[512], last[520]; /* DIR and DIR/last */
    int locks[2];              /* descriptors; -1: none */
} RunFolder;

/* What is meant to happen to a run, or a model, that is there already. */
typedef enum RunStart {
    RUN_NEW,       /* nothing: the folder must have none */
    RUN_RESUME,    /* go on with it, or begin if there is none; never in the place of a model */
    RUN_OVERWRITE, /* it makes room */
} RunStart;

/*
 * Creates the folders, locks them, and removes what a killed run left half written. -1 and a
 * message when another process trains there, the folder cannot be written, or it has what `start`
 * does not allow for.
 */
int run_folder_open(RunFolder *folder, const char *path, RunStart start, Error *err);
/*
 * The same where several ranks train: rank 0 opens the folder and, unless the run is resumed,
 * begins anew; the others know where it is and whether there is a state. Collective.
 */
int run_folder_open_shared(RunFolder *folder, const char *path, RunStart start, Comm *comm,
                           bool *resumed, Error *err);
/* What the first rank has to stop for that has anything (a signal, no time); 0: nothing.
 * Collective. */
int run_folder_stop(Comm *comm, int mine);
void run_folder_close(RunFolder *folder); /* one that was never opened, all zeros: fine */

/* Is there a state to resume from? */
bool run_folder_has_state(const char *path);

/* A new run begins here: the old one's state goes. Its model stays until the first save. */
int run_folder_begin(const RunFolder *folder, Error *err);

/* The run's state is saved, not only its models. */
int run_folder_saved(const RunFolder *folder, Error *err);

#endif
