/*
 * Checks exercise 05.11. A lane is a thread, but only one runs at a time: from meeting to meeting,
 * lane 0 first, or lane 31. What a lane stores is seen by the others at once, or not before they
 * meet in sync_warp. An answer must be right in all four cases.
 */
#include "05_moe/exercises/warp_memory.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

void place_rows(int lane, int32_t *row_of_slot, const int32_t *expert, int slots);

enum { LANES = 32, EXPERTS = 256, MOST = 1000 };
typedef enum Stop { RUNNING, MATCH, SYNC, RETURNED } Stop;

static struct {
    sem_t turn[LANES], end;
    int backwards, delayed; /* who comes first; when a store is seen */
    Stop at[LANES];
    int given[LANES], matches, syncs;
    const char *misuse;
    int memory[EXPERTS];         /* what all see */
    int own[LANES][EXPERTS];     /* with `delayed`: what a lane has stored since the last sync */
    char stored[LANES][EXPERTS]; /* and whether it has */
} warp;
static _Thread_local int me;

static int at_place(int place) { return warp.backwards ? LANES - 1 - place : place; }

/* When every lane has stopped: are they all in the same place? */
static void meet(void) {
    Stop first = RETURNED;
    for (int l = 0; l < LANES; l++)
        if (warp.at[l] != RETURNED) first = warp.at[l];
    for (int l = 0; l < LANES; l++)
        if (warp.at[l] != first)
            warp.misuse = "some lanes wait in match_any or sync_warp, and others do not come";
    warp.matches += first == MATCH;
    warp.syncs += first == SYNC;
    for (int l = 0; first == SYNC && l < LANES; l++)
        for (int i = 0; i < EXPERTS; i++)
            if (warp.stored[l][i]) warp.memory[i] = warp.own[l][i], warp.stored[l][i] = 0;
}

/* The calling lane has stopped; the next one that has not returned goes on. */
static void hand_over(void) {
    int place = at_place(me); /* at_place is its own inverse */
    for (;;) {
        if (++place == LANES) {
            meet();
            place = 0;
        }
        int alive = 0;
        for (int l = 0; l < LANES; l++) alive += warp.at[l] != RETURNED;
        if (!alive || warp.misuse) {
            sem_post(&warp.end);
            return;
        }
        if (warp.at[at_place(place)] == RETURNED) continue;
        sem_post(&warp.turn[at_place(place)]);
        return;
    }
}

static void stop(Stop where) {
    warp.at[me] = where;
    hand_over();
    if (where != RETURNED) sem_wait(&warp.turn[me]);
}

uint32_t match_any(int mine) {
    uint32_t same = 0;
    warp.given[me] = mine;
    stop(MATCH);
    for (int l = 0; l < LANES; l++) same |= (uint32_t)(warp.given[l] == mine) << l;
    stop(RUNNING); /* nobody gives another number before all have seen this one */
    return same;
}

void sync_warp(void) { stop(SYNC); }

static int inside(int index) {
    if (index >= 0 && index < EXPERTS) return 1;
    warp.misuse = "an index outside of the shared array";
    return 0;
}

int shared_load(int index) {
    if (!inside(index)) return 0;
    return warp.stored[me][index] ? warp.own[me][index] : warp.memory[index];
}

void shared_store(int index, int value) {
    if (!inside(index)) return;
    if (!warp.delayed) warp.memory[index] = value;
    if (warp.delayed) warp.own[me][index] = value, warp.stored[me][index] = 1;
}

int shared_add(int index, int value) { /* an atomic sum is seen at once */
    if (!inside(index)) return 0;
    int before = warp.memory[index];
    warp.memory[index] += value;
    return before;
}

/* ---- one run ---- */

static int32_t expert[MOST], row[MOST], wanted[MOST];
static int slots;

static void *lane(void *number) {
    me = (int)(long)number;
    sem_wait(&warp.turn[me]);
    place_rows(me, row, expert, slots);
    stop(RETURNED);
    return NULL;
}

/* Rows by walking through the slots expert by expert, and what the warp makes of them. */
static void check_order(int backwards, int delayed) {
    memset(&warp, 0, sizeof warp);
    warp.backwards = backwards, warp.delayed = delayed;
    for (int e = 0, next = 0; e < EXPERTS; e++) {
        warp.memory[e] = next;
        for (int s = 0; s < slots; s++)
            if (expert[s] == e) wanted[s] = next++;
    }
    for (int s = 0; s < MOST; s++) row[s] = -7;
    for (int s = 0; s < slots; s++)
        if (expert[s] < 0) wanted[s] = -1;
    pthread_t thread[LANES];
    sem_init(&warp.end, 0, 0);
    for (long l = 0; l < LANES; l++) {
        sem_init(&warp.turn[l], 0, 0);
        cr_assert(pthread_create(&thread[l], NULL, lane, (void *)l) == 0);
    }
    sem_post(&warp.turn[at_place(0)]);
    sem_wait(&warp.end); /* lanes that wait in vain end with this process */
    cr_assert_null(warp.misuse, "%s (%d slots)", warp.misuse, slots);
    for (int s = 0; s < slots; s++)
        cr_assert_eq(row[s], wanted[s],
                     "slot %d of expert %d has row %d, not %d, when lane %d runs first and a "
                     "stored number is seen %s",
                     s, expert[s], row[s], wanted[s], at_place(0),
                     delayed ? "after the next sync_warp" : "at once");
    cr_assert(slots == MOST || row[slots] == -7, "row %d was written: there is no such slot",
              slots);
    int rounds = (slots + LANES - 1) / LANES;
    cr_assert(warp.matches <= rounds, "%d match_any for %d rounds of 32 slots; one each is enough",
              warp.matches, rounds);
    cr_assert(warp.syncs <= 2 * rounds,
              "%d sync_warp for %d rounds of 32 slots; two each are enough", warp.syncs, rounds);
}

static void check_rows(void) {
    for (int i = 0; i < 4; i++) check_order(i % 2, i / 2);
}

Test(rows, one_round, .timeout = 10) {
    slots = 32;
    for (int s = 0; s < slots; s++) expert[s] = s * 5 % 7;
    check_rows();
}

Test(rows, all_choose_the_same, .timeout = 10) {
    slots = 128;
    for (int s = 0; s < slots; s++) expert[s] = 3;
    check_rows();
}

Test(rows, all_choose_another, .timeout = 10) {
    slots = 64;
    for (int s = 0; s < slots; s++) expert[s] = 255 - s;
    check_rows();
}

Test(rows, ragged_and_with_nobody, .timeout = 10) {
    static const int sizes[] = {1, 31, 33, 127, MOST};
    for (int i = 0; i < 5; i++) {
        slots = sizes[i];
        for (int s = 0; s < slots; s++)
            expert[s] = s % 11 == 4 ? -1 : (int)((unsigned)s * 2654435761u >> 16) % 23;
        check_rows();
    }
}
