/*
 * The watchdog: a thread in each rank that knows how the others are.
 *
 * A collective waits for all, so one rank that is gone stops the others without a word. Each rank
 * therefore holds one more connection to rank 0, and a thread that speaks on it twice a second:
 * which step, which collective, waiting or not. From that, rank 0 knows
 *
 *     gone           the connection has ended without a good-bye: the process has died
 *     silent         nothing heard for 5 seconds: the process, or its host, stands still
 *     standing still the others have waited for it in a collective longer than the time-out
 *     NCCL's errors  which NCCL notes and tells only who asks
 *
 * and ends all: one message on stderr, "rank 1 (host), step 17: ...", and exit code 1 everywhere.
 * If rank 0 itself is gone, rank 1 says so. A process that was stopped itself, and goes on, does
 * not blame the others for the time it has missed.
 */
#ifndef COMMON_WATCHDOG_H
#define COMMON_WATCHDOG_H

#include "common/comm/comm_internal.h"

/* Collective. comm: the world, whose carrier works. -1 and a message. */
int watchdog_open(Comm *comm, Error *err);
/* Behind a barrier of all. */
void watchdog_close(Watchdog *w);

/* The main thread is about to wait for the others in a collective, and has come back. */
void watchdog_enter(Watchdog *w, const char *doing);
void watchdog_leave(Watchdog *w);
void watchdog_step(Watchdog *w, int64_t step);
int64_t watchdog_at(const Watchdog *w);      /* that step */
void watchdog_nccl(Watchdog *w, Nccl *nccl); /* look at this one, too; NULL: no longer */

/* Ends all ranks with this message, which is about this rank. w NULL: before there is one. */
void watchdog_abort(Watchdog *w, const char *text) __attribute__((noreturn));

#endif
