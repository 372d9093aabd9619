/*
 * Exercise 10.15: round and round
 *
 * Every rank has numbers in `size` pieces, and all shall have the sum. Say which piece a rank sends
 * in which round, and what the receiver does with it (15_ring.h). After size - 1 rounds each rank
 * has one piece that is complete; after as many again all have all of them.
 *
 * POINTS: 4
 * TESTS: check_15_ring
 */
#include "10_full_model/exercises/15_ring.h"

RingMove ring_move(int rank, int round, int size) {
    (void)rank, (void)round, (void)size;
    return (RingMove){0, true};
}
