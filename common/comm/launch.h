/*
 * Starting ranks on this machine, and standing by until they have ended.
 *
 * Each gets torchrun's variables (environment.h), its share of the cores (OMP_NUM_THREADS), nothing
 * to read, and a process group of its own, so that Ctrl-C reaches the launcher alone, which passes
 * it on to every rank once. When one fails the others have two seconds to end by themselves, as
 * their watchdogs make them; when the launcher is killed they are, too.
 *
 * Rank 0 speaks for all. What the others write to stderr is kept, and shown where one of them has
 * ended in a way that rank 0 did not tell of.
 */
#ifndef COMMON_LAUNCH_H
#define COMMON_LAUNCH_H

#include "common/core/error.h"

#include <stdbool.h>

typedef struct Launch {
    int ranks;
    char *const *argv; /* the program, its arguments, NULL; argv[0] is a path */
    bool verbose;      /* stdout and stderr of all ranks */
    double timeout;    /* for DEEPSEEK_TIMEOUT; 0: as it is */
} Launch;

/* The exit status of the first that failed (of a signal 128 + its number), or 0; -1 and a message:
 * they could not be started. */
int launch_ranks(const Launch *launch, Error *err);

#endif
