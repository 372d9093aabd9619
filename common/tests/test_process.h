/*
 * A program as its users meet it: a process of its own, what it prints, and its exit status.
 *
 *     Process p;
 *     if (process_fork(&p, SIGKILL)) execv(path, argv), _exit(127);
 *     Output o = process_end(&p);
 *     expect(&o, 0, "what it must say");
 *
 * What is started is not left behind: it ends with the test, and after a minute.
 */
#ifndef COMMON_TEST_PROCESS_H
#define COMMON_TEST_PROCESS_H

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGUMENTS(...) ((const char *const[]){__VA_ARGS__, NULL})

typedef struct Output {
    int status;     /* as from exit(); 128 + the signal's number if one ended it */
    double seconds; /* from its start to its end */
    char out[40000], err[40000];
} Output;

typedef struct Process {
    pid_t id;
    struct timespec start;
    FILE *out, *err;
} Process;

/* The tests may run below nohup or in the background, where some of these are ignored; a program
 * that is started inherits that. */
__attribute__((constructor)) static void signals_as_in_a_terminal(void) {
    static const int signals[] = {SIGHUP, SIGINT, SIGTERM, SIGPIPE};
    for (int i = 0; i < 4; i++) signal(signals[i], SIG_DFL);
}

/* True in the child, whose stdout and stderr are files, and which gets the signal `with_us` when
 * the test ends before it. */
static inline bool process_fork(Process *p, int with_us) {
    *p = (Process){.out = tmpfile(), .err = tmpfile()};
    cr_assert(p->out && p->err);
    clock_gettime(CLOCK_MONOTONIC, &p->start);
    fflush(NULL);
    p->id = fork();
    cr_assert(p->id >= 0);
    if (p->id) return false;
    prctl(PR_SET_PDEATHSIG, with_us);
    alarm(60);
    dup2(fileno(p->out), 1), dup2(fileno(p->err), 2);
    return true;
}

static inline void read_back(FILE *file, char *text, size_t size) {
    rewind(file);
    text[fread(text, 1, size - 1, file)] = 0;
    fclose(file);
}

static inline Output process_end(Process *p) {
    Output o;
    int status;
    struct timespec end;
    cr_assert(waitpid(p->id, &status, 0) == p->id);
    clock_gettime(CLOCK_MONOTONIC, &end);
    o.seconds =
        (double)(end.tv_sec - p->start.tv_sec) + (double)(end.tv_nsec - p->start.tv_nsec) * 1e-9;
    o.status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    read_back(p->out, o.out, sizeof o.out);
    read_back(p->err, o.err, sizeof o.err);
    return o;
}

/* The status, and what stdout (status 0) or stderr must say. */
static inline void expect(const Output *o, int status, const char *says) {
    cr_assert(o->status == status, "status %d, not %d\n%s%s", o->status, status, o->out, o->err);
    cr_assert(strstr(status ? o->err : o->out, says), "'%s' should be in\n%s%s", says, o->out,
              o->err);
}

#endif
