/*
 * A warp to practise on without a GPU: 32 lanes run the same function, each with a number of its
 * own, and the only way to learn another lane's number is shuffle_xor, as __shfl_xor_sync on a GPU.
 */
#ifndef WARP_H
#define WARP_H

/* Gives `mine` to lane number (my number ^ mask), and returns what that lane gave. All 32 lanes
 * must call it together. */
float shuffle_xor(float mine, int mask);

#endif
