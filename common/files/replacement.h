/*
 * Several files of a folder, replaced together.
 *
 * A model is a few files that belong together: config.json of one beside the weights of another is
 * worse than none. So a new set is first written, whole, into a folder of its own inside DIR:
 *
 *     DIR/deepseek.incoming.PID-N.tmp/   being written: a full disk, or a kill, costs nothing
 *     DIR/deepseek.incoming/             by one rename: complete, the new set counts
 *     DIR/                               its files move up one by one
 *
 * Whoever opens the folder first calls replacement_finish(), which moves up what a kill in the last
 * step has left; so a reader meets the old set or the new one. (If a single file
 * differs from the one that is there, it just takes over the name.)
 *
 * What the new set lacks and the old one had is removed: names of which owned() says that they are
 * of this kind of set, and nothing else, whoever may have put it there.
 */
#ifndef COMMON_REPLACEMENT_H
#define COMMON_REPLACEMENT_H

#include "common/core/error.h"

#include <stdbool.h>

typedef bool (*OwnedName)(const char *name);

typedef struct Replacement {
    char directory[512];
    char staging[560]; /* write the new files here; "": nothing is open */
} Replacement;

/* Creates `directory` if need be, finishes what was left in it, and makes the staging folder. -1
 * and a message. Who opens one holds the folder's lock, or nobody else writes there. */
int replacement_open(Replacement *r, const char *directory, Error *err);

/* The new files take their places. -1 and a message: the old set is as it was, unless the message
 * says that the new one waits in deepseek.incoming/. */
int replacement_commit(Replacement *r, OwnedName owned, Error *err);

/* Removes the staging folder; harmless after commit. */
void replacement_abandon(Replacement *r);

/* Moves up what a killed process has left in directory/deepseek.incoming, if there is one. While
 * that process lives, and holds the folder's lock, waits for it a little. */
int replacement_finish(const char *directory, Error *err);

/*
 * Removes what killed processes have left unfinished: staging folders, and the temporary files that
 * atomic_open() made for names of which owned() is true. Hold the folder's lock.
 */
void replacement_clear(const char *directory, OwnedName owned);

/*
 * Only one process at a time writes into a folder: a lock (flock) on the folder itself, which the
 * system gives up when the process ends, however it ends. Returns a descriptor that holds it until
 * it is closed; -1 and a message; FOLDER_BUSY when another process has it. A file system without
 * locks (some networks') locks nobody out.
 */
enum { FOLDER_BUSY = -2 };
int folder_lock(const char *directory, Error *err);

#endif
