/* A step of ZeRO-1, all ranks in one function. */
#ifndef PLANTED_SHARDS_H
#define PLANTED_SHARDS_H

/*
 * weights [n], the same on every rank; grads [ranks][n], of which the mean counts. Gradients are
 * clipped to a norm of `clip` at most, and weights go down by rate times them. Each rank answers
 * for a part of the weights; n need not divide by ranks.
 */
void zero_step(float *weights, const float *grads, int n, int ranks, float rate, float clip);

#endif
