/*
 * Running another program (git, gnuplot) without a shell: no file name can become a command.
 */
#ifndef COMMON_PROCESS_H
#define COMMON_PROCESS_H

#include "common/core/error.h"

#include <stddef.h>

enum { PROCESS_MISSING = 127 }; /* the exit status a shell gives, too */

/*
 * Runs argv[0], looked for on PATH, with the arguments up to the NULL, and waits for its end. What
 * it prints (stdout and stderr together) is kept in output, cut to fit and terminated. Returns its
 * exit status, PROCESS_MISSING when there is no such program, or -1 and a message when it could not
 * be started or was killed by a signal.
 */
int process_run(const char *const argv[], char *output, size_t size, Error *err);

#endif
