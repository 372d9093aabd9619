/*
 * Every socket is non-blocking, and poll() does the waiting. What is small goes off at once
 * (TCP_NODELAY): the next message waits for an answer.
 */
#define _GNU_SOURCE /* accept4 */
#include "common/comm/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

double net_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int net_resolve(struct sockaddr_in *at, const char *host, int port, Error *err) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    int status = getaddrinfo(host, NULL, &hints, &found);
    if (status)
        return error_set(err, "there is no host '%s' (%s): MASTER_ADDR names that of rank 0", host,
                         gai_strerror(status));
    memcpy(at, found->ai_addr, sizeof *at);
    at->sin_port = htons((uint16_t)port);
    freeaddrinfo(found);
    return 0;
}

NetText net_text(const struct sockaddr_in *at) {
    NetText t;
    char address[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &at->sin_addr, address, sizeof address);
    snprintf(t.text, sizeof t.text, "%s:%d", address, ntohs(at->sin_port));
    return t;
}

static int ready(int fd, short what, double deadline) {
    for (;;) {
        double left = deadline - net_now();
        struct pollfd p = {.fd = fd, .events = what};
        int n = poll(&p, 1, left > 0 ? (int)(1e3 * left) + 1 : 0);
        if (n > 0) return 1;
        if (n == 0 && left <= 0) return 0;
        if (n < 0 && errno != EINTR) return 0;
    }
}

static void at_once(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

int net_listen(struct sockaddr_in *at) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0) return -1;
    /* A port that an ended run has left a moment ago may be taken; one that is in use may not. */
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    socklen_t size = sizeof *at;
    if (bind(fd, (struct sockaddr *)at, sizeof *at) || listen(fd, 128) ||
        getsockname(fd, (struct sockaddr *)at, &size)) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

int net_accept(int listener, double deadline) {
    while (ready(listener, POLLIN, deadline)) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) return at_once(fd), fd;
    }
    return -1;
}

int net_connect(const struct sockaddr_in *at, double deadline) {
    for (int pause = 2000;; pause = pause < 200000 ? 2 * pause : pause) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), why = 0;
        if (fd < 0) return -1;
        socklen_t size = sizeof why;
        if (connect(fd, (const struct sockaddr *)at, sizeof *at)) why = errno;
        if (why == EINPROGRESS) {
            why = ETIMEDOUT;
            if (ready(fd, POLLOUT, deadline)) getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &size);
        }
        /* A port in one's own range of free ones may be connected to itself, when nobody listens.
         */
        struct sockaddr_in self = {0};
        size = sizeof self;
        if (!why && !getsockname(fd, (struct sockaddr *)&self, &size) &&
            self.sin_port == at->sin_port && self.sin_addr.s_addr == at->sin_addr.s_addr)
            why = ECONNREFUSED;
        if (!why) return at_once(fd), fd;
        close(fd);
        errno = why;
        if (net_now() >= deadline) return -1;
        usleep((useconds_t)pause);
    }
}

bool net_send(int fd, const void *data, size_t bytes, double deadline) {
    for (const char *from = data; bytes;) {
        ssize_t n = send(fd, from, bytes, MSG_NOSIGNAL);
        if (n > 0)
            from += n, bytes -= (size_t)n;
        else if (errno != EAGAIN && errno != EINTR)
            return false;
        else if (!ready(fd, POLLOUT, deadline))
            return false;
    }
    return true;
}

bool net_receive(int fd, void *data, size_t bytes, double deadline) {
    for (char *to = data; bytes;) {
        ssize_t n = recv(fd, to, bytes, 0);
        if (n > 0)
            to += n, bytes -= (size_t)n;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            return false;
        else if (!ready(fd, POLLIN, deadline))
            return false;
    }
    return true;
}
