/*
 * A Hopper multiprocessor to plan on, without a GPU. One warpgroup gives the orders; the tensor
 * cores do what was ordered, one product after the other, while the warpgroup goes on.
 *
 * start_... returns at once; wait_for_... waits until that product is done; softmax() and rescale()
 * keep the warpgroup busy until they are done. The scores of a tile take 2 units of time, P V 2,
 * a softmax 4, and rescale none.
 */
#ifndef OVERLAP_H
#define OVERLAP_H

/* S = Q K^T of a tile. There is one S: softmax() must have read the last one. */
void start_scores(int tile);
/* O += P V; needs softmax(tile) and rescale(tile). */
void start_values(int tile);
void wait_for_scores(int tile);
void wait_for_values(int tile);
/* Makes P from S; needs wait_for_scores(tile). */
void softmax(int tile);
/* O to the new maximum; needs softmax(tile), and no P V may be running. */
void rescale(int tile);

#endif
