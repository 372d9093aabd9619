/*
 * A star of connections, and a thread at each end of them.
 *
 * Messages have one size, so a reader never looks for where one ends. Rank 0 alone speaks to the
 * user, and once: what another rank has to say it sends there, and waits for the end, which rank 0
 * sends back. Only where rank 0 is gone itself does rank 1 speak.
 *
 * The main thread leaves what it does in a few atomic numbers, which costs a collective nothing.
 */
#define _GNU_SOURCE /* program_invocation_short_name */
#include "common/comm/watchdog.h"

#include "common/comm/net.h"
#include "common/core/memory.h"
#include "common/core/utf8.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const double TICK = 0.25, BEAT = 0.5, SILENCE = 5, OPENING = 10; /* seconds */
enum { ADDRESSES = 12, TEXT = 1200 };

typedef enum Kind { ALIVE, FAILED, END, BYE } Kind;

typedef struct Message {
    int kind;
    int64_t step, calls; /* calls: collectives entered so far */
    double waiting;      /* seconds in the last one; 0: not in one */
    char doing[24];
    char text[TEXT]; /* of FAILED */
} Message;

/* What rank 0 knows of a rank, and the others of rank 0. */
typedef struct Line {
    int fd;    /* -1: none */
    bool over; /* it has said good-bye */
    double heard;
    Message last;
} Line;

struct Watchdog {
    Comm *comm;
    Line *lines; /* of rank 0 [size], of the others [1] */
    int line_count;
    pthread_t thread;
    int wake[2]; /* a pipe: the thread is to end */
    pthread_mutex_t lock;
    _Atomic bool closing;
    _Atomic int64_t step, calls;
    _Atomic double since; /* net_now() when the last collective began; 0: it is over */
    _Atomic(const char *) doing;
    pthread_mutex_t nccl_lock;
    Nccl *nccl; /* NULL: none, or no longer */
};

/* ---- speaking ---- */

/* One write, past every lock that the main thread may hold; a line that is being drawn goes. */
static void print(const char *text) {
    char *clean = terminal_text(text, strlen(text));
    dprintf(2, "%s%s: %s\n", isatty(2) ? "\r\033[K" : "", program_invocation_short_name, clean);
    free(clean);
}

static Message message_now(Watchdog *w, Kind kind) {
    Message m = {.kind = kind, .step = w->step, .calls = w->calls};
    double since = w->since;
    const char *doing = w->doing;
    if (since > 0) m.waiting = net_now() - since;
    pthread_mutex_lock(&w->nccl_lock);
    double queued = w->nccl ? nccl_waiting(w->nccl, &doing) : 0;
    pthread_mutex_unlock(&w->nccl_lock);
    if (queued > m.waiting) m.waiting = queued;
    snprintf(m.doing, sizeof m.doing, "%s", doing ? doing : "");
    return m;
}

static bool tell(const Line *line, const Message *m, double seconds) {
    return line->fd >= 0 && net_send(line->fd, m, sizeof *m, net_now() + seconds);
}

static void quit(Watchdog *w) {
    if (w->nccl) {
        alarm(3); /* should NCCL not come back from it */
        signal(SIGALRM, SIG_DFL);
        nccl_abort(w->nccl);
    }
    _exit(1);
}

/* Rank 0: the one message, and the end of all. Who comes second waits for the end. */
static void end_all(Watchdog *w, const char *text) {
    pthread_mutex_lock(&w->lock);
    print(text);
    Message end = message_now(w, END);
    for (int r = 1; r < w->line_count; r++) tell(&w->lines[r], &end, 0.2);
    usleep(100000); /* the others go first: what started us may kill who is left */
    quit(w);
}

static void __attribute__((format(printf, 3, 4)))
end_all_for(Watchdog *w, int r, const char *format, ...) {
    char text[TEXT], why[TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    const Member *member = &w->comm->members[r];
    const Message *m = &w->lines[w->comm->rank ? 0 : r].last;
    int64_t here = w->step, there = m->step; /* what it said last may be half a second old */
    snprintf(text, sizeof text, "rank %d (%s), step %" PRId64 ": %s", r, member->host,
             here > there ? here : there, why);
    end_all(w, text);
}

void watchdog_abort(Watchdog *w, const char *text) {
    fflush(stdout);
    if (!w) {
        print(text);
        _exit(1);
    }
    if (w->comm->rank == 0) end_all(w, text);
    Message m = message_now(w, FAILED);
    snprintf(m.text, sizeof m.text, "%s", text);
    pthread_mutex_lock(&w->lock);
    bool told = tell(&w->lines[0], &m, 2);
    pthread_mutex_unlock(&w->lock);
    if (told) sleep(5); /* the thread hears the end, and ends us */
    print(text);
    quit(w);
    abort(); /* not reached */
}

/* ---- looking after the others ---- */

static const char GONE[] =
    "process %d is gone without a word. What it has printed stands above; if that is nothing, "
    "something has killed it (out of memory? see dmesg). What was saved before is whole";
static const char SILENT[] =
    "process %d, or its host, stands still: no sign of life for %.0f s. Is it stopped, or the "
    "network down?";

/* [watchdog_waiting] */
/* Which rank keeps the others waiting: one that is not waiting itself, and has entered the fewest
 * collectives. */
static void check_waiting(Watchdog *w) {
    int longest = -1, behind = -1;
    for (int r = 0; r < w->line_count; r++) {
        const Message *m = &w->lines[r].last;
        if (m->waiting > w->comm->timeout &&
            (longest < 0 || m->waiting > w->lines[longest].last.waiting))
            longest = r;
        if (behind < 0 || m->calls < w->lines[behind].last.calls ||
            (m->calls == w->lines[behind].last.calls && m->waiting < w->lines[behind].last.waiting))
            behind = r;
    }
    if (longest < 0) return;
    const Message *m = &w->lines[longest].last;
    end_all_for(w, behind,
                "process %d keeps the others waiting: rank %d has been in %s for %.0f s. It stands "
                "still (gdb -p %d shows where), or needs more time: DEEPSEEK_TIMEOUT=SECONDS",
                w->comm->members[behind].pid, longest, m->doing, m->waiting,
                w->comm->members[behind].pid);
}
/* [/watchdog_waiting] */

/* What has come on a line. r: whose it is. */
static void hear(Watchdog *w, Line *line, int r) {
    Message m;
    int pid = w->comm->members[r].pid;
    bool first = w->comm->rank == 0;
    if (!net_receive(line->fd, &m, sizeof m, net_now() + 2)) {
        if (w->closing) {
            line->over = true;
        } else if (first) {
            end_all_for(w, r, GONE, pid);
        } else {
            if (w->comm->rank == 1) end_all_for(w, 0, GONE, pid);
            usleep(200000);
            quit(w);
        }
        return;
    }
    m.text[TEXT - 1] = m.doing[sizeof m.doing - 1] = 0;
    line->heard = net_now();
    if (m.kind == FAILED) end_all(w, m.text);
    if (m.kind == END) quit(w);
    if (m.kind == BYE && !first) w->closing = true;
    if (m.kind == BYE) line->over = true;
    line->last = m;
}

static void check_silence(Watchdog *w, double now) {
    for (int i = 0; i < w->line_count; i++) {
        Line *line = &w->lines[i];
        if (line->fd < 0 || line->over || now - line->heard < SILENCE) continue;
        if (w->comm->rank < 2) end_all_for(w, i, SILENT, w->comm->members[i].pid, SILENCE);
        quit(w);
    }
}

static void check_nccl(Watchdog *w) {
    pthread_mutex_lock(&w->nccl_lock);
    const char *trouble = w->nccl ? nccl_trouble(w->nccl) : NULL;
    pthread_mutex_unlock(&w->nccl_lock);
    if (!trouble) return;
    char text[TEXT];
    snprintf(text, sizeof text, "rank %d (%s), step %" PRId64 ": NCCL: %s", w->comm->rank,
             w->comm->members[w->comm->rank].host, (int64_t)w->step, trouble);
    /* A rank that has died makes errors everywhere; its line ends at the same time, and says it
     * better. */
    sleep(1);
    watchdog_abort(w, text);
}

static void beat(Watchdog *w) {
    Message m = message_now(w, ALIVE);
    if (w->comm->rank == 0) w->lines[0].last = m;
    for (int i = 0; i < w->line_count; i++) {
        pthread_mutex_lock(&w->lock);
        tell(&w->lines[i], &m, 0.1);
        pthread_mutex_unlock(&w->lock);
    }
}

static void *watch(void *argument) {
    Watchdog *w = argument;
    struct pollfd *polls = must_alloc((size_t)w->line_count + 1, sizeof *polls);
    double last = net_now(), beaten = 0;
    for (;;) {
        for (int i = 0; i < w->line_count; i++)
            polls[i] = (struct pollfd){w->lines[i].over ? -1 : w->lines[i].fd, POLLIN, 0};
        polls[w->line_count] = (struct pollfd){w->wake[0], POLLIN, 0};
        poll(polls, (nfds_t)w->line_count + 1, (int)(1e3 * TICK));
        if (polls[w->line_count].revents) break;
        double now = net_now();
        for (int i = 0; i < w->line_count && now - last > 1 + TICK; i++)
            w->lines[i].heard = now; /* we were stopped, too */
        last = now;
        for (int i = 0; i < w->line_count; i++)
            if (polls[i].fd >= 0 && polls[i].revents) hear(w, &w->lines[i], i);
        if (now - beaten > BEAT) beat(w), beaten = now;
        check_silence(w, net_now());
        if (w->comm->rank == 0) check_waiting(w);
        check_nccl(w);
        last = net_now();
    }
    free(polls);
    return NULL;
}

/* ---- the main thread's side ---- */

void watchdog_enter(Watchdog *w, const char *doing) {
    if (!w) return;
    w->doing = doing;
    w->calls++;
    w->since = net_now();
}

void watchdog_leave(Watchdog *w) {
    if (w) w->since = 0;
}

void watchdog_step(Watchdog *w, int64_t step) { w->step = step; }
int64_t watchdog_at(const Watchdog *w) { return w ? w->step : 0; }

void watchdog_nccl(Watchdog *w, Nccl *nccl) {
    pthread_mutex_lock(&w->nccl_lock);
    w->nccl = nccl;
    pthread_mutex_unlock(&w->nccl_lock);
}

/* ---- opening: rank 0 says where it listens ---- */

typedef struct Invitation {
    uint64_t token;
    int count;
    struct sockaddr_in at[ADDRESSES]; /* the first is for its own host */
} Invitation;

typedef struct Greeting {
    uint64_t token;
    int rank;
} Greeting;

/* Every address of this host: which of them the others can reach is theirs to find out. */
static void invite(Invitation *in, const struct sockaddr_in *listens) {
    struct ifaddrs *list = NULL;
    in->token = (uint64_t)getpid() << 32 ^ (uint64_t)(1e9 * net_now());
    in->at[in->count++] = (struct sockaddr_in){.sin_family = AF_INET,
                                               .sin_port = listens->sin_port,
                                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (getifaddrs(&list)) return;
    for (struct ifaddrs *i = list; i && in->count < ADDRESSES; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || i->ifa_flags & IFF_LOOPBACK)
            continue;
        struct sockaddr_in *at = &in->at[in->count++];
        memcpy(at, i->ifa_addr, sizeof *at);
        at->sin_port = listens->sin_port;
    }
    freeifaddrs(list);
}

static int accept_lines(Watchdog *w, int listener, uint64_t token, Error *err) {
    double deadline = net_now() + OPENING;
    for (int here = 1; here < w->comm->size;) {
        Greeting g;
        int fd = net_accept(listener, deadline);
        if (fd < 0)
            return error_set(err,
                             "%d of %d ranks have not reached rank 0's watchdog in %.0f s; is "
                             "there a firewall between the hosts?",
                             w->comm->size - here, w->comm->size, OPENING);
        if (net_receive(fd, &g, sizeof g, net_now() + 1) && g.token == token && g.rank > 0 &&
            g.rank < w->comm->size && w->lines[g.rank].fd < 0 &&
            net_send(fd, &token, sizeof token, deadline)) {
            w->lines[g.rank].fd = fd;
            here++;
        } else {
            close(fd);
        }
    }
    return 0;
}

static int connect_line(Watchdog *w, const Invitation *in, Error *err) {
    Greeting g = {.token = in->token, .rank = w->comm->rank};
    bool same_host = !strcmp(w->comm->members[0].host, w->comm->members[w->comm->rank].host);
    for (int i = same_host ? 0 : 1; i < in->count; i++) {
        uint64_t token = 0;
        int fd = net_connect(&in->at[i], net_now() + 1.5);
        if (fd < 0) continue;
        if (net_send(fd, &g, sizeof g, net_now() + 1) &&
            net_receive(fd, &token, sizeof token, net_now() + OPENING / 2) && token == g.token) {
            w->lines[0].fd = fd;
            return 0;
        }
        close(fd);
    }
    return error_set(err,
                     "rank %d cannot reach rank 0's watchdog (%s, port %d); is there a "
                     "firewall between the hosts?",
                     w->comm->rank, w->comm->members[0].host, ntohs(in->at[0].sin_port));
}

static void start_thread(Watchdog *w) {
    sigset_t all, before;
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pipe(w->wake) || pthread_create(&w->thread, NULL, watch, w))
        fatal("the watchdog's thread does not start: %s", strerror(errno));
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int watchdog_open(Comm *comm, Error *err) {
    Watchdog *w = must_alloc(1, sizeof *w);
    *w = (Watchdog){
        .comm = comm, .lock = PTHREAD_MUTEX_INITIALIZER, .nccl_lock = PTHREAD_MUTEX_INITIALIZER};
    w->line_count = comm->rank == 0 ? comm->size : 1;
    w->lines = must_alloc((size_t)w->line_count, sizeof *w->lines);
    for (int i = 0; i < w->line_count; i++) w->lines[i].fd = -1;
    Invitation in = {0};
    struct sockaddr_in listens = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    int listener = -1, status = 0;
    if (comm->rank == 0) {
        listener = net_listen(&listens);
        if (listener >= 0) invite(&in, &listens);
    }
    comm_broadcast_host(comm, &in, sizeof in, 0);
    if (!in.count)
        status = error_set(err, "rank 0 has no port to listen at");
    else
        status = comm->rank ? connect_line(w, &in, err) : accept_lines(w, listener, in.token, err);
    if (listener >= 0) close(listener);
    status = comm_agree(comm, status, err);
    for (int i = 0; i < w->line_count; i++) w->lines[i].heard = net_now();
    if (!status) start_thread(w);
    comm->watchdog = w;
    return status;
}

void watchdog_close(Watchdog *w) {
    if (!w) return;
    w->closing = true;
    Message bye = message_now(w, BYE);
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < w->line_count; i++) tell(&w->lines[i], &bye, 1);
    pthread_mutex_unlock(&w->lock);
    if (w->thread) {
        if (write(w->wake[1], "", 1) == 1) pthread_join(w->thread, NULL);
        close(w->wake[0]), close(w->wake[1]);
    }
    for (int i = 0; i < w->line_count; i++)
        if (w->lines[i].fd >= 0) close(w->lines[i].fd);
    free(w->lines);
    free(w);
}
