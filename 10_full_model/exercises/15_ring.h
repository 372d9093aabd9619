/* All-reduce in a ring: in every round each rank sends one piece to the rank behind it, all at the
 * same time. */
#ifndef RING_H
#define RING_H

#include <stdbool.h>

typedef struct RingMove {
    int piece; /* of `size` pieces: which one this rank sends */
    bool adds; /* the receiver adds it to its own; else it takes the place of its own */
} RingMove;

/* What `rank` sends to rank (rank + 1) % size in this round, of 2 (size - 1): from 0 on. */
RingMove ring_move(int rank, int round, int size);

#endif
