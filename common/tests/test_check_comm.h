/*
 * Ranks as a user starts them: the program check_comm, by one of the launchers, and what it prints.
 *
 *     Output o = run_ranks(BY_LAUNCH, 2, ARGUMENTS("--fault", "killed"));
 */
#ifndef TEST_CHECK_COMM_H
#define TEST_CHECK_COMM_H

#define _GNU_SOURCE

#include "common/comm/launch.h"
#include "common/comm/net.h"
#include "common/program/testing.h"
#include "common/tests/test_process.h"
#include "common/tests/test_scratch.h"

enum { RANKS_MOST = 8, WORDS = 40 };

typedef enum By { BY_LAUNCH, BY_MPIRUN } By;

static inline char *check_comm_path(void) {
    static char path[500];
    program_path(path, sizeof path, "comm/check_comm");
    return path;
}

static inline bool on_path(const char *program) {
    char command[100];
    snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", program);
    return system(command) == 0;
}

/* Skips the test where mpirun is missing, or the program was built without MPI. */
static inline void needs_mpi(void) {
    static char text[2000];
    if (!on_path("mpirun")) cr_skip_test("no mpirun here: make mpi installs it");
    char command[700];
    snprintf(command, sizeof command, "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 %s 2>&1",
             check_comm_path());
    FILE *pipe = popen(command, "r");
    text[fread(text, 1, sizeof text - 1, pipe)] = 0;
    pclose(pipe);
    if (strstr(text, "built without MPI")) cr_skip_test("built without MPI (make mpi)");
}

static inline void no_ranks_in_environment(void) {
    static const char *const names[] = {"RANK",
                                        "WORLD_SIZE",
                                        "LOCAL_RANK",
                                        "MASTER_ADDR",
                                        "MASTER_PORT",
                                        "SLURM_PROCID",
                                        "SLURM_STEP_NUM_TASKS",
                                        "SLURM_JOB_ID",
                                        "PMI_RANK",
                                        "PMI_SIZE",
                                        "DEEPSEEK_JOB",
                                        "DEEPSEEK_BOOTSTRAP",
                                        "DEEPSEEK_TIMEOUT",
                                        "OMPI_COMM_WORLD_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) unsetenv(names[i]);
    setenv("OMP_NUM_THREADS", "1", 1);
}

static inline Process start_ranks(By by, int ranks, const char *const *arguments) {
    Process p;
    char *program = check_comm_path();
    /* the launcher passes SIGTERM on */
    if (!process_fork(&p, SIGTERM)) return p;
    for (int i = 1; i < 32; i++) signal(i, SIG_DFL); /* not Criterion's: the launcher runs here */
    no_ranks_in_environment();
    char *argv[WORDS] = {0}, number[16];
    int n = 0;
    snprintf(number, sizeof number, "%d", ranks);
    if (by == BY_MPIRUN) {
        const char *head[] = {"mpirun", "--allow-run-as-root", "--oversubscribe", "--quiet", "-n",
                              number};
        for (int i = 0; i < 6; i++) argv[n++] = (char *)head[i];
    }
    argv[n++] = program;
    for (int i = 0; arguments[i]; i++) argv[n++] = (char *)arguments[i];
    if (by == BY_MPIRUN) execvp("mpirun", argv);
    Error error;
    int status = launch_ranks(&(Launch){.ranks = ranks, .argv = argv}, &error);
    if (status < 0) dprintf(2, "%s\n", error.text);
    _exit(status < 0 ? 99 : status);
}

static inline Output run_ranks(By by, int ranks, const char *const *arguments) {
    Process p = start_ranks(by, ranks, arguments);
    return process_end(&p);
}

/* One process with an environment of its own: "NAME=value" up to NULL. */
static inline Process start_alone(const char *const *environment, const char *const *arguments) {
    Process p;
    char *program = check_comm_path();
    if (!process_fork(&p, SIGTERM)) return p;
    no_ranks_in_environment();
    for (int i = 0; environment[i]; i++) putenv((char *)environment[i]);
    char *argv[WORDS] = {program};
    for (int i = 0; arguments[i]; i++) argv[i + 1] = (char *)arguments[i];
    execv(program, argv);
    _exit(127);
}

static inline int times_in(const char *text, const char *what) {
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)); at++) n++;
    return n;
}

#endif
