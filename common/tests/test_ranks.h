/*
 * Several ranks in a test: processes of this program that find each other by a file.
 *
 *     static void work(Comm *comm, void *user) { ... }
 *     ranks_run(4, work, &what);
 *
 * What they find out goes into files, and the test looks at those: Criterion knows nothing of them.
 */
#ifndef TEST_RANKS_H
#define TEST_RANKS_H

#include "common/comm/comm.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

typedef void RankWork(Comm *comm, void *user);

/* A rank that cannot go on ends all, as the programs do. */
static inline void rank_ok(Comm *comm, int status, const Error *err) {
    if (status < 0) comm_abort(comm, "%s", err->text);
}

static inline int rank_main(int rank, int size, const char *file, RankWork *work, void *user) {
    char number[2][16];
    Comm *comm;
    Error err;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(number[0], sizeof number[0], "%d", rank);
    snprintf(number[1], sizeof number[1], "%d", size);
    setenv("RANK", number[0], 1), setenv("LOCAL_RANK", number[0], 1);
    setenv("WORLD_SIZE", number[1], 1), setenv("DEEPSEEK_BOOTSTRAP", file, 1);
    omp_set_num_threads(1);
    if (comm_open(&comm, &(CommOptions){.device = CPU, .timeout = 60}, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    work(comm, user);
    comm_close(comm);
    return 0;
}

/* Runs it on `size` ranks, or, 1, in one process with a NULL Comm; the number that failed. */
static inline int ranks_run(int size, RankWork *work, void *user) {
    Scratch scratch = scratch_open();
    char file[600];
    snprintf(file, sizeof file, "%s/ranks", scratch.directory);
    pid_t ids[16];
    int failed = 0;
    fflush(NULL);
    for (int rank = 0; rank < size; rank++)
        if ((ids[rank] = fork()) == 0) _exit(rank_main(rank, size, file, work, user));
    for (int rank = 0; rank < size; rank++) {
        int status;
        cr_assert(waitpid(ids[rank], &status, 0) == ids[rank]);
        failed += status != 0;
    }
    return failed;
}

#endif
