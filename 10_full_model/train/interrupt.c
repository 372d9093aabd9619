/*
 * A signal handler can reach nothing but what has a place of its own, so there is one note for the
 * whole program.
 */
#include "10_full_model/train/interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal) { interrupted = signal; }

enum { CAUGHT = 4 };
static const int caught[CAUGHT] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
static struct sigaction before[CAUGHT];

void interrupt_catch(void) {
    interrupted = 0;
    for (int i = 0; i < CAUGHT; i++) {
        struct sigaction action = {.sa_handler = on_interrupt};
        if (caught[i] != SIGPIPE) action.sa_flags = (int)SA_RESETHAND;
        sigaction(caught[i], NULL, &before[i]);
        if (caught[i] != SIGHUP || before[i].sa_handler != SIG_IGN)
            sigaction(caught[i], &action, NULL);
    }
}

void interrupt_release(void) {
    for (int i = 0; i < CAUGHT; i++) sigaction(caught[i], &before[i], NULL);
}

int interrupt_signal(void) { return interrupted; }
