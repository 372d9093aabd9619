/*
 * The carrier over sockets: every two ranks are connected, and an exchange sends and receives on
 * all connections at the same time, whatever their order of being ready.
 *
 * Before each piece goes a header: which collective this is, the how-manieth, and how many bytes.
 * Ranks that are not in the same one, or that do not agree about a count, would otherwise wait for
 * each other for ever, or take one tensor's numbers for another's.
 */
#include "common/comm/comm_internal.h"
#include "common/comm/net.h"
#include "common/comm/rendezvous.h"
#include "common/core/memory.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

typedef struct Header {
    int64_t bytes;
    int64_t call;
    char doing[16];
} Header;

/* One direction of one connection. */
typedef struct Transfer {
    Header header;
    Piece piece;
    size_t done, all; /* bytes, header included */
} Transfer;

static int *sockets_of(const Comm *comm) { return comm->world->link; }

/* What is left of header and piece; returns how many vectors that is. */
static int rest(const Transfer *t, struct iovec *v) {
    size_t head = sizeof t->header, at = t->done;
    int n = 0;
    if (at < head) v[n++] = (struct iovec){(char *)&t->header + at, head - at};
    size_t gone = at > head ? at - head : 0;
    if (gone < t->piece.bytes)
        v[n++] = (struct iovec){(char *)t->piece.data + gone, t->piece.bytes - gone};
    return n;
}

/* Sends or receives what goes without waiting. */
static void go_on(Comm *comm, int r, Transfer *t, bool send) {
    int fd = sockets_of(comm)[comm->world_ranks[r]];
    struct iovec v[2];
    struct msghdr message = {.msg_iov = v, .msg_iovlen = (size_t)rest(t, v)};
    ssize_t n = send ? sendmsg(fd, &message, MSG_NOSIGNAL) : recvmsg(fd, &message, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        /* The watchdog hears of it too, and knows more: it should speak. */
        sleep(5);
        comm_abort(comm, "the connection to rank %d (%s) has ended in %s", r,
                   comm_host_name(comm, r), comm->doing);
    }
    t->done += (size_t)n;
}

/* Each rank says what it is in; they must be in the same. */
static void compare(Comm *comm, int r, const Transfer *t) {
    const Header *h = &t->header;
    if (strncmp(h->doing, comm->doing, sizeof h->doing - 1) || h->call != comm->calls)
        comm_abort(comm,
                   "the ranks are not in the same place: this one is in %s (number %d), rank %d "
                   "(%s) in %.15s (number %lld)",
                   comm->doing, comm->calls, r, comm_host_name(comm, r), h->doing,
                   (long long)h->call);
    if (h->bytes != (int64_t)t->piece.bytes)
        comm_abort(comm, "in %s, rank %d (%s) sends %lld bytes where this one expects %zu",
                   comm->doing, r, comm_host_name(comm, r), (long long)h->bytes, t->piece.bytes);
}

static void exchange(Comm *comm, const Piece *receive, const Piece *send) {
    int size = comm->size, waiting = 0;
    Transfer *out = must_alloc(2 * (size_t)size, sizeof *out), *in = out + size;
    struct pollfd *polls = must_alloc((size_t)size, sizeof *polls);
    for (int r = 0; r < size; r++) {
        polls[r].fd = -1;
        if (r == comm->rank) continue;
        out[r] = (Transfer){
            {(int64_t)send[r].bytes, comm->calls, ""}, send[r], 0, sizeof(Header) + send[r].bytes};
        snprintf(out[r].header.doing, sizeof out[r].header.doing, "%s", comm->doing);
        in[r] = (Transfer){.piece = receive[r], .all = sizeof(Header) + receive[r].bytes};
        polls[r] = (struct pollfd){sockets_of(comm)[comm->world_ranks[r]], POLLIN | POLLOUT, 0};
        waiting++;
    }
    int self = comm->rank;
    if (send[self].bytes && receive[self].data != send[self].data)
        memmove(receive[self].data, send[self].data, send[self].bytes);
    while (waiting) {
        if (poll(polls, (nfds_t)size, -1) < 0) continue; /* a signal: noted elsewhere */
        for (int r = 0; r < size; r++) {
            if (polls[r].fd < 0 || !polls[r].revents) continue;
            bool gone = polls[r].revents & (POLLERR | POLLHUP);
            if (out[r].done < out[r].all && (polls[r].revents & POLLOUT || gone))
                go_on(comm, r, &out[r], true);
            if (in[r].done < in[r].all && (polls[r].revents & POLLIN || gone)) {
                size_t before = in[r].done;
                go_on(comm, r, &in[r], false);
                if (before < sizeof(Header) && in[r].done >= sizeof(Header))
                    compare(comm, r, &in[r]);
            }
            bool sends = out[r].done < out[r].all, receives = in[r].done < in[r].all;
            polls[r].events = (short)((sends ? POLLOUT : 0) | (receives ? POLLIN : 0));
            if (!sends && !receives) polls[r].fd = -1, waiting--;
        }
    }
    free(polls);
    free(out);
}

static void sockets_split(Comm *part, Comm *whole, int color) {
    (void)part, (void)whole, (void)color;
}

static void sockets_close(Comm *comm) {
    if (comm != comm->world || !comm->link) return; /* a part, or alone */
    int *sockets = comm->link;
    for (int r = 0; r < comm->size; r++)
        if (sockets[r] >= 0) close(sockets[r]);
    free(sockets);
}

const Carrier comm_sockets = {
    .name = "sockets", .exchange = exchange, .split = sockets_split, .close = sockets_close};

int sockets_open(Comm *comm, const Place *place, Error *err) {
    double timeout = comm->timeout < 120 ? comm->timeout : 120;
    int *sockets = must_alloc((size_t)place->size, sizeof *sockets);
    if (rendezvous(sockets, place, timeout, err)) {
        free(sockets);
        return -1;
    }
    comm->link = sockets;
    comm->carrier = &comm_sockets;
    return 0;
}
