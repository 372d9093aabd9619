/*
 * A warp with shared memory, to practise on without a GPU. 32 lanes run the same function. They
 * share an array of numbers, and what a GPU leaves open stays open here, too: which lane runs first
 * between two meetings, and whether a number that one lane has stored is seen by another one before
 * they have met in sync_warp(). The check tries all of it.
 */
#ifndef WARP_MEMORY_H
#define WARP_MEMORY_H

#include <stdint.h>

/* Which lanes gave the same number as I? Bit l of the mask is lane l, my own bit included. All 32
 * lanes must call it together, as __match_any_sync on a GPU. It moves no number of the array. */
uint32_t match_any(int mine);

/* All 32 lanes meet; what any of them stored before is seen by all afterwards (__syncwarp). */
void sync_warp(void);

int shared_load(int index);
void shared_store(int index, int value);

/* Adds, and returns what stood there before; no other lane comes between (atomicAdd). */
int shared_add(int index, int value);

#endif
