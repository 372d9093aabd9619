/*
 * How ranks that know where rank 0 is come to know each other.
 *
 *     rank 0    listens where all expect it; waits for size - 1 greetings; answers each with the
 *               addresses of all
 *     others    greet: "rank 2 of 4, job 17, on host b, I listen at 10.0.0.3:40123"
 *     then      each connects to those of lower rank, so that every two are connected
 *
 * A greeting says which job it belongs to and of how many ranks. One that does not fit gets a
 * refusal, which ends whoever sent it with a message, and leaves the others alone; what is no
 * greeting at all (a scanner of ports) is dropped.
 *
 * The place is an address and a port, or a file that names them. What an earlier run has left in
 * such a file is no trap: its text says which job wrote it, and nobody listens there any more, so
 * who reads it waits for the next one.
 */
#ifndef COMMON_RENDEZVOUS_H
#define COMMON_RENDEZVOUS_H

#include "common/comm/environment.h"

/* A connection to each rank, sockets [size], -1 for this rank; -1 and a message. timeout: seconds.
 */
int rendezvous(int *sockets, const Place *place, double timeout, Error *err);

#endif
