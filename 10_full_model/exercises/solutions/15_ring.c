/*
 * Solution 10.15. In round 0 a rank sends the piece of its own number, and then always what it has
 * just received: piece rank - round. After size - 1 rounds rank r holds the sum of piece r + 1, and
 * with it the second half begins: piece r + 1 - (round - (size - 1)), which is the same formula,
 * only that nothing is added any more. The tempting mistake is to go on adding: then what is
 * complete is counted again.
 */
#include "10_full_model/exercises/15_ring.h"

RingMove ring_move(int rank, int round, int size) {
    return (RingMove){(rank - round + 2 * size) % size, round < size - 1};
}
