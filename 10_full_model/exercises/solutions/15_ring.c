/*
 * Solution 10.15. Piece r must arrive at rank r in the last of size - 1 rounds, so it sets out
 * from rank r + 1: in round 0 a rank sends the piece before its own number, and then always what
 * it has just received, piece rank - 1 - round. Then rank r holds the sum of piece r, and sends
 * that in round size - 1: the same formula, only that nothing is added any more.
 *
 * Tempting is the lesson's ring, in which a rank begins with the piece of its own number: all sums
 * come out, but rank r holds piece r + 1 when the first half is over, and ZeRO-1 would update a
 * neighbour's weights. And to go on adding: then what is complete is counted again.
 */
#include "10_full_model/exercises/15_ring.h"

RingMove ring_move(int rank, int round, int size) {
    return (RingMove){(rank - 1 - round + 2 * size) % size, round < size - 1};
}
