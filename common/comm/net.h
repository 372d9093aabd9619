/*
 * TCP in five functions, for what ranks tell each other before and beside the data. IPv4.
 *
 * Each waits until `deadline`, a time of net_now() (seconds), and no longer.
 */
#ifndef COMMON_NET_H
#define COMMON_NET_H

#include "common/core/error.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

double net_now(void); /* seconds, of a clock that nobody sets */

/* A name or four numbers; -1 and a message. */
int net_resolve(struct sockaddr_in *at, const char *host, int port, Error *err);

/* "10.77.0.1:29500" */
typedef struct NetText {
    char text[32];
} NetText;
NetText net_text(const struct sockaddr_in *at);

/* A socket that listens, on *at's port or (0) a free one, which *at is then given. -1: errno says
 * why. */
int net_listen(struct sockaddr_in *at);
/* A connection; -1: none came in time. */
int net_accept(int listener, double deadline);
/* Tries again while nobody listens there; -1: nobody did in time, errno says why. */
int net_connect(const struct sockaddr_in *at, double deadline);

/* All bytes, or false: the other end is gone, or the time is up. */
bool net_send(int fd, const void *data, size_t bytes, double deadline);
bool net_receive(int fd, void *data, size_t bytes, double deadline);

#endif
