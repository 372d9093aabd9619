/*
 * Rank 0 takes greetings one by one; who connects and does not greet within two seconds is no rank.
 */
#define _GNU_SOURCE /* struct sockaddr_in's kin, gethostname */
#include "common/comm/rendezvous.h"

#include "common/comm/net.h"
#include "common/core/memory.h"
#include "common/files/files.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char MAGIC[16] = "deepseek.c comm";
static const double GREETING = 2; /* seconds */

typedef struct Greeting {
    char magic[16], job[64], host[64];
    int rank, size;
    struct sockaddr_in listens; /* the address is filled in by rank 0, which sees it */
    uint64_t token;             /* to other ranks than 0: what rank 0 has drawn for this run */
} Greeting;

typedef struct Answer {
    char refusal[256]; /* "": welcome, and the addresses of all follow */
    uint64_t token;
} Answer;

static Greeting greeting(const Place *place, const struct sockaddr_in *listens, uint64_t token) {
    Greeting g = {.rank = place->rank, .size = place->size, .listens = *listens, .token = token};
    memcpy(g.magic, MAGIC, sizeof MAGIC);
    snprintf(g.job, sizeof g.job, "%s", place->job);
    gethostname(g.host, sizeof g.host - 1);
    return g;
}

static bool is_greeting(const Greeting *g) {
    return !memcmp(g->magic, MAGIC, sizeof MAGIC) && !g->job[sizeof g->job - 1] &&
           !g->host[sizeof g->host - 1];
}

/* Why this one may not join; "": it may. */
static void judge(char *why, size_t size, const Greeting *g, const Place *place,
                  const int *sockets) {
    why[0] = 0;
    if (strcmp(g->job, place->job))
        snprintf(why, size, "another job (%s) uses it; give each job a port of its own",
                 place->job[0] ? place->job : "without a name");
    else if (g->size != place->size)
        snprintf(why, size,
                 "the job there has %d ranks, and this one %d; give each a port of its "
                 "own, or end the one that is left over",
                 place->size, g->size);
    else if (g->rank <= 0 || g->rank >= place->size || sockets[g->rank] >= 0)
        snprintf(why, size,
                 "there is a rank %d already: two jobs on one port, or two processes of "
                 "one number",
                 g->rank);
}

/* Which ranks have not come: "1, 3". */
static void list_missing(char *text, size_t size, const int *sockets, int count) {
    size_t used = 0;
    text[0] = 0;
    for (int r = 1; r < count && used + 16 < size; r++)
        if (sockets[r] < 0)
            used += (size_t)snprintf(text + used, size - used, "%s%d", used ? ", " : "", r);
}

/* Rank 0: takes greetings until all are there. */
static int welcome(int *sockets, struct sockaddr_in *addresses, int listener, const Place *place,
                   double deadline, double timeout, uint64_t token, Error *err) {
    for (int here = 1; here < place->size;) {
        int fd = net_accept(listener, deadline);
        if (fd < 0) {
            char missing[200];
            list_missing(missing, sizeof missing, sockets, place->size);
            return error_set(err,
                             "%d of %d ranks are here after %.0f s; missing: rank %s. Look at "
                             "what they say, and whether they can reach this host's port %d",
                             here, place->size, timeout, missing, place->port);
        }
        Greeting g;
        Answer answer = {.token = token};
        double soon = net_now() + GREETING;
        if (!net_receive(fd, &g, sizeof g, soon) || !is_greeting(&g)) {
            close(fd);
            continue;
        }
        judge(answer.refusal, sizeof answer.refusal, &g, place, sockets);
        if (answer.refusal[0]) {
            net_send(fd, &answer, sizeof answer, soon);
            close(fd);
            continue;
        }
        struct sockaddr_in seen;
        socklen_t size = sizeof seen;
        getpeername(fd, (struct sockaddr *)&seen, &size);
        addresses[g.rank] = seen;
        addresses[g.rank].sin_port = g.listens.sin_port;
        sockets[g.rank] = fd;
        here++;
    }
    Answer answer = {.token = token};
    for (int r = 1; r < place->size; r++)
        if (!net_send(sockets[r], &answer, sizeof answer, deadline) ||
            !net_send(sockets[r], addresses, sizeof *addresses * (size_t)place->size, deadline))
            return error_set(err, "rank %d has gone while the ranks were meeting", r);
    return 0;
}

static int meet_as_first(int *sockets, const Place *place, double timeout, Error *err) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    if (!place->file[0] && net_resolve(&at, place->address, place->port, err)) return -1;
    /* On one machine nobody else needs to reach it. */
    if (ntohl(at.sin_addr.s_addr) >> 24 != 127) at.sin_addr.s_addr = htonl(INADDR_ANY);
    int listener = net_listen(&at);
    if (listener < 0)
        return error_set(err, "rank 0 cannot listen at port %d: %s. %s", place->port,
                         strerror(errno),
                         errno == EADDRINUSE ? "Another job uses it; give each a MASTER_PORT of "
                                               "its own"
                                             : "MASTER_PORT says which");
    AtomicFile file = {0};
    int status = 0;
    if (place->file[0]) {
        char host[64] = "";
        gethostname(host, sizeof host - 1);
        status = atomic_open(&file, place->file, err);
        if (!status) fprintf(file.stream, "%s %d %s\n", host, ntohs(at.sin_port), place->job);
        if (!status) status = atomic_commit(&file, err);
    }
    uint64_t token = (uint64_t)getpid() << 32 ^ (uint64_t)(1e9 * net_now());
    struct sockaddr_in *addresses = must_alloc((size_t)place->size, sizeof *addresses);
    Place known = *place;
    known.port = ntohs(at.sin_port);
    if (!status)
        status =
            welcome(sockets, addresses, listener, &known, net_now() + timeout, timeout, token, err);
    if (place->file[0]) unlink(place->file); /* what is left over could only mislead */
    free(addresses);
    close(listener);
    return status;
}

/* Where the file says that rank 0 is; false: it says nothing yet, or something about another job.
 */
static bool read_place(struct sockaddr_in *at, const Place *place) {
    char host[64], job[64] = "";
    int port;
    FILE *file = fopen(place->file, "r");
    if (!file) return false;
    int n = fscanf(file, "%63s %d %63s", host, &port, job);
    fclose(file);
    return n >= 2 && !strcmp(job, place->job) && !net_resolve(at, host, port, NULL);
}

/* The connection to rank 0, welcomed; addresses [size]. */
static int greet_first(struct sockaddr_in *addresses, const Place *place,
                       const struct sockaddr_in *listens, double timeout, uint64_t *token,
                       Error *err) {
    double deadline = net_now() + timeout;
    struct sockaddr_in at = {0};
    if (!place->file[0] && net_resolve(&at, place->address, place->port, err)) return -1;
    int connected = 0;
    for (int fd = -1; net_now() < deadline; usleep(20000)) {
        if (place->file[0] && !read_place(&at, place)) continue;
        fd = net_connect(&at, place->file[0] ? net_now() : deadline);
        if (fd < 0) continue;
        connected++;
        Greeting g = greeting(place, listens, 0);
        Answer answer;
        if (net_send(fd, &g, sizeof g, deadline) &&
            net_receive(fd, &answer, sizeof answer, deadline)) {
            answer.refusal[sizeof answer.refusal - 1] = 0;
            if (answer.refusal[0]) {
                close(fd);
                return error_set(err, "rank %d was refused at %s: %s", place->rank,
                                 net_text(&at).text, answer.refusal);
            }
            if (net_receive(fd, addresses, sizeof *addresses * (size_t)place->size, deadline)) {
                addresses[0] = at;
                *token = answer.token;
                return fd;
            }
        }
        close(fd);
    }
    if (place->file[0])
        return error_set(err,
                         "rank %d has looked into %s for %.0f s, and found no rank 0 of this "
                         "job behind it; a file that an earlier run has left can be removed",
                         place->rank, place->file, timeout);
    return error_set(err,
                     connected ? "rank %d: what listens at %s does not answer as rank 0 of "
                                 "this job would (for %.0f s); is the port another program's?"
                               : "rank %d: nobody listens at %s (for %.0f s), where rank 0 "
                                 "should be; did it end?",
                     place->rank, net_text(&at).text, timeout);
}

/* Every two of the ranks behind 0: the higher one connects. */
static int meet_the_others(int *sockets, const struct sockaddr_in *addresses, int listener,
                           const Place *place, uint64_t token, double timeout, Error *err) {
    double deadline = net_now() + timeout;
    for (int r = 1; r < place->rank; r++) {
        Greeting g = greeting(place, &addresses[place->rank], token);
        sockets[r] = net_connect(&addresses[r], deadline);
        if (sockets[r] < 0 || !net_send(sockets[r], &g, sizeof g, deadline))
            return error_set(err, "rank %d cannot reach rank %d at %s: %s", place->rank, r,
                             net_text(&addresses[r]).text, strerror(errno));
    }
    for (int here = place->rank + 1; here < place->size;) {
        Greeting g;
        int fd = net_accept(listener, deadline);
        if (fd < 0)
            return error_set(err, "rank %d: %d of the ranks behind it did not connect in %.0f s",
                             place->rank, place->size - here, timeout);
        if (net_receive(fd, &g, sizeof g, net_now() + GREETING) && is_greeting(&g) &&
            g.token == token && g.rank > place->rank && g.rank < place->size &&
            sockets[g.rank] < 0) {
            sockets[g.rank] = fd;
            here++;
        } else {
            close(fd);
        }
    }
    return 0;
}

static int meet(int *sockets, const Place *place, double timeout, Error *err) {
    struct sockaddr_in listens = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    int listener = net_listen(&listens);
    if (listener < 0) return error_set(err, "no port to listen at: %s", strerror(errno));
    uint64_t token = 0;
    struct sockaddr_in *addresses = must_alloc((size_t)place->size, sizeof *addresses);
    sockets[0] = greet_first(addresses, place, &listens, timeout, &token, err);
    int status = sockets[0] < 0
                     ? -1
                     : meet_the_others(sockets, addresses, listener, place, token, timeout, err);
    free(addresses);
    close(listener);
    return status;
}

int rendezvous(int *sockets, const Place *place, double timeout, Error *err) {
    for (int r = 0; r < place->size; r++) sockets[r] = -1;
    int status = place->rank == 0 ? meet_as_first(sockets, place, timeout, err)
                                  : meet(sockets, place, timeout, err);
    for (int r = 0; r < place->size && status; r++)
        if (sockets[r] >= 0) close(sockets[r]);
    return status;
}
