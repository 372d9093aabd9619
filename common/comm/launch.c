/*
 * fork and exec; then one poll() over a signalfd (SIGCHLD, and what is to be passed on) and the
 * pipes from the ranks' stderr.
 */
#define _GNU_SOURCE /* pipe2, CPU_COUNT */
#include "common/comm/launch.h"

#include "common/comm/net.h"
#include "common/core/memory.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static const double GRACE = 2; /* seconds to end by themselves, and then on SIGTERM */
enum { KEPT = 4096 };

typedef struct Child {
    pid_t pid; /* 0: has ended */
    int status;
    bool killed;    /* by us */
    int stderr_end; /* of the pipe; -1: none */
    char kept[KEPT];
    int kept_bytes;
} Child;

typedef struct Children {
    Child *list;
    int count, running;
    int first_failed;  /* -1: none */
    double kill_at;    /* net_now(); 0: not yet */
    int kills;         /* 1: SIGTERM is sent, 2: SIGKILL */
    int signal_passed; /* 0: none */
} Children;

/* ---- starting ---- */

static void set_number(const char *name, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static int free_port(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = net_listen(&at);
    if (fd >= 0) close(fd);
    return fd < 0 ? -1 : ntohs(at.sin_port);
}

static void set_environment(const Launch *launch, int port) {
    char job[32];
    snprintf(job, sizeof job, "launch-%d", getpid());
    setenv("DEEPSEEK_JOB", job, 1);
    unsetenv("DEEPSEEK_BOOTSTRAP");
    unsetenv("TORCHELASTIC_USE_AGENT_STORE");
    setenv("MASTER_ADDR", "127.0.0.1", 1);
    set_number("MASTER_PORT", port);
    set_number("WORLD_SIZE", launch->ranks);
    if (launch->timeout > 0) set_number("DEEPSEEK_TIMEOUT", (int)(launch->timeout + 0.999));
    cpu_set_t cores;
    int usable = sched_getaffinity(0, sizeof cores, &cores) ? 1 : CPU_COUNT(&cores);
    if (!getenv("OMP_NUM_THREADS"))
        set_number("OMP_NUM_THREADS", usable > launch->ranks ? usable / launch->ranks : 1);
}

static void become_rank(const Launch *launch, int rank, int stderr_end, const sigset_t *mask,
                        pid_t parent) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1); /* it ended before it could matter */
    sigprocmask(SIG_SETMASK, mask, NULL);
    set_number("RANK", rank);
    set_number("LOCAL_RANK", rank);
    int nothing = open("/dev/null", O_RDWR);
    dup2(nothing, 0);
    if (rank && !launch->verbose) {
        dup2(nothing, 1);
        dup2(stderr_end, 2);
    }
    execv(launch->argv[0], launch->argv);
    dprintf(2, "%s: %s\n", launch->argv[0], strerror(errno));
    _exit(127);
}

static int start(Children *c, const Launch *launch, const sigset_t *mask, Error *err) {
    pid_t parent = getpid();
    fflush(NULL);
    for (int r = 0; r < launch->ranks; r++) {
        Child *child = &c->list[r];
        int ends[2];
        if (pipe2(ends, O_CLOEXEC)) return error_set(err, "a pipe: %s", strerror(errno));
        child->pid = fork();
        if (child->pid < 0)
            return error_set(err, "rank %d cannot be started: %s", r, strerror(errno));
        if (!child->pid) become_rank(launch, r, ends[1], mask, parent);
        close(ends[1]);
        child->stderr_end = ends[0];
        c->running++;
    }
    return 0;
}

/* ---- standing by ---- */

static void signal_all(Children *c, int signal) {
    for (int r = 0; r < c->count; r++) {
        if (!c->list[r].pid) continue;
        if (signal == SIGKILL) kill(-c->list[r].pid, signal); /* and whom it has started */
        kill(c->list[r].pid, signal);
        if (signal == SIGTERM)
            kill(c->list[r].pid, SIGCONT); /* one that is stopped hears nothing */
    }
}

/* What a rank writes, of which the last 4 KiB are kept. */
static void keep(Child *child) {
    char text[KEPT];
    ssize_t n = read(child->stderr_end, text, sizeof text);
    if (n <= 0) {
        if (n == 0 || errno != EINTR) close(child->stderr_end), child->stderr_end = -1;
        return;
    }
    int surplus = child->kept_bytes + (int)n - KEPT;
    if (surplus > 0) {
        int gone = surplus < child->kept_bytes ? surplus : child->kept_bytes;
        memmove(child->kept, child->kept + gone, (size_t)(child->kept_bytes - gone));
        child->kept_bytes -= gone;
    }
    memcpy(child->kept + child->kept_bytes, text, (size_t)n);
    child->kept_bytes += (int)n;
}

static void reap(Children *c) {
    for (int r = 0; r < c->count; r++) {
        int status;
        if (!c->list[r].pid || waitpid(c->list[r].pid, &status, WNOHANG) <= 0) continue;
        Child *child = &c->list[r];
        child->pid = 0;
        child->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        child->killed = c->kills > 0;
        c->running--;
        if (!child->status) continue;
        if (c->first_failed < 0) c->first_failed = r;
        if (!c->kill_at) c->kill_at = net_now() + GRACE;
    }
}

static void take_signals(Children *c, int signals) {
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info) {
        int number = (int)info.ssi_signo;
        if (number == SIGCHLD) continue;
        c->signal_passed = number;
        signal_all(c, number);
    }
    reap(c);
}

static void stand_by(Children *c, int signals) {
    struct pollfd *polls = must_alloc((size_t)c->count + 1, sizeof *polls);
    while (c->running) {
        for (int r = 0; r < c->count; r++)
            polls[r] = (struct pollfd){c->list[r].stderr_end, POLLIN, 0};
        polls[c->count] = (struct pollfd){signals, POLLIN, 0};
        double left = c->kill_at && c->kills < 2 ? c->kill_at - net_now() : 3600;
        poll(polls, (nfds_t)c->count + 1, left > 0 ? (int)(1e3 * left) + 1 : 0);
        for (int r = 0; r < c->count; r++)
            if (polls[r].fd >= 0 && polls[r].revents) keep(&c->list[r]);
        take_signals(c, signals);
        if (c->kill_at && c->kills < 2 && net_now() >= c->kill_at) {
            signal_all(c, c->kills++ ? SIGKILL : SIGTERM);
            c->kill_at = net_now() + GRACE;
        }
    }
    for (int r = 0; r < c->count; r++) { /* what is still in the pipes */
        if (c->list[r].stderr_end >= 0) fcntl(c->list[r].stderr_end, F_SETFL, O_NONBLOCK);
        while (c->list[r].stderr_end >= 0) keep(&c->list[r]);
    }
    free(polls);
}

/* ---- in the end ---- */

/* What rank 0 has not told: it speaks for the others if it has ended by itself, with an error. */
static void tell(const Children *c) {
    int first = c->first_failed;
    if (first < 0 || c->signal_passed) return;
    const Child *zero = &c->list[0];
    bool told = !zero->killed && (zero->status == 1 || zero->status == 2);
    for (int r = 1; r < c->count; r++) {
        const Child *child = &c->list[r];
        bool own_way = child->status > 2 && !child->killed, spoke = child->kept_bytes > 0;
        bool of_zero = !told && child->status && !child->killed; /* the next one speaks then */
        if (!spoke || !(own_way || of_zero)) continue;
        fwrite(child->kept, 1, (size_t)child->kept_bytes, stderr);
        told = true;
    }
    if (told) return;
    int status = c->list[first].status;
    if (status > 128)
        fprintf(stderr, "rank %d was ended by signal %d (%s), and so all were\n", first,
                status - 128, strsignal(status - 128));
    else
        fprintf(stderr, "rank %d has ended with status %d, and so all were ended\n", first, status);
}

int launch_ranks(const Launch *launch, Error *err) {
    static const int passed[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
    int port = free_port();
    if (port < 0) return error_set(err, "no port for the ranks to meet at: %s", strerror(errno));
    set_environment(launch, port);
    sigset_t signals, before;
    sigemptyset(&signals);
    for (int i = 0; i < 5; i++) {
        struct sigaction action;
        sigaction(passed[i], NULL, &action);
        if (action.sa_handler != SIG_IGN) sigaddset(&signals, passed[i]); /* nohup */
    }
    sigaddset(&signals, SIGCHLD);
    sigprocmask(SIG_BLOCK, &signals, &before);
    int fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    Children c = {.count = launch->ranks, .first_failed = -1};
    c.list = must_alloc((size_t)c.count, sizeof *c.list);
    for (int r = 0; r < c.count; r++) c.list[r].stderr_end = -1;
    int status = start(&c, launch, &before, err);
    if (status) signal_all(&c, SIGKILL);
    stand_by(&c, fd);
    close(fd);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (!status) {
        tell(&c);
        status = c.first_failed < 0 ? 0 : c.list[c.first_failed].status;
    }
    free(c.list);
    return status;
}
