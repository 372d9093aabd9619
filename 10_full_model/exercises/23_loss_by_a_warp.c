/*
 * Exercise 10.23: a loss by a warp.
 *
 * The logits are the largest tensor of a training step, so the kernel that makes the loss of them
 * should hardly touch them. 32 lanes call warp_loss() together for one row z of `vocab` logits.
 * Each returns the row's loss, and the row itself is replaced by its gradient:
 *
 *     loss = log(sum_j e^(z_j)) - z_target,    z_j becomes (softmax(z)_j - [j == target]) * scale
 *
 * A target of -1 is to be ignored: the loss is 0, and so is the whole gradient. Logits may be as
 * large as 10000, or -infinity for a token that is forbidden (never the target), and a vocabulary
 * may have fewer than 32 tokens.
 *
 * Each logit may be loaded twice and stored once: once less than with a loop each for maximum, sum
 * and gradient. The count is in pieces of memory (23_loss_by_a_warp.h), so it matters which lane
 * takes which logit. One more load is free: the target's. Fifteen shuffles are enough.
 *
 * POINTS: 4
 */
#include "10_full_model/exercises/23_loss_by_a_warp.h"

#include <math.h>

float warp_loss(int lane, int vocab, int target, float scale);

float warp_loss(int lane, int vocab, int target, float scale) { return 0; }
