/*
 * Ranks that train one model: each computes a part of every batch, and all take the same step.
 *
 *     backward     each rank's gradients; bucket by bucket they are added up over the ranks, while
 *                  the backward pass of the layers before still runs
 *     norm         of the sum: the whole model's
 *     AdamW        on every rank, all of it; or (ZeRO-1: Rajbhandari et al. 2020, stage 1) on each
 *                  a part of every bucket, which the others then get
 *
 * A bucket is a few million numbers of the flat gradients. It is final when the last node of the
 * tape that writes to it has run. Which one that is the first backward pass tells: it is watched
 * (tape.h), and as long as later tapes are as long, they are taken to be alike. The order in which
 * buckets go is rank 0's, so all ranks say the same things in the same order.
 *
 * Slots make the result independent of how many ranks there are. A step has RANKS_SLOTS of them,
 * each a part of the batch; a slot's gradient is computed alone, and all are added as a tree:
 *
 *     ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))
 *
 * of which a rank has a branch. It costs a gradient's memory for each level that is a rank's own.
 *
 * Spread weights (params.h) are other numbers on every rank of ctx->experts, so theirs are added
 * up over the ranks that have the same.
 *
 * NULL is a Ranks, too: one process, which adds up nothing.
 */
#ifndef COMMON_RANKS_H
#define COMMON_RANKS_H

#include "common/comm/comm.h"
#include "common/core/optimizer.h"

__BEGIN_DECLS

typedef struct Ranks Ranks;

enum { RANKS_SLOTS = 8 };

typedef struct RanksOptions {
    bool in_turn;   /* gradients are added up behind the backward pass, not beside it */
    bool slots;     /* the same bits for 1, 2, 4 and 8 ranks */
    int64_t bucket; /* elements; 0: BUCKET */
} RanksOptions;

/* Behind params_allocate() and the first weights, for the ranks of params' Context. NULL for one
 * that is alone and wants no slots. Collective, as all that follow. */
Ranks *ranks_open(Params *params, const RanksOptions *options);
void ranks_close(Ranks *ranks);

/*
 * Around the backward pass of this rank's micro-batch `micro` of `count` in a step; with slots, of
 * a multiple of RANKS_SLOTS / size. Behind the last, grads is the sum over all of the step's. (With
 * ZeRO-1 and without slots, in this rank's part of each bucket only.)
 */
void ranks_before_backward(Ranks *ranks, int micro, int count, bool tapes_differ);
void ranks_after_backward(Ranks *ranks, int micro, int count);

/* adamw_step() on that. */
float ranks_adamw_step(Ranks *ranks, AdamW *adamw, Params *params, float lr, float grad_scale);

/* Are there weights, moments or masters that no rank has all of? */
bool ranks_are_apart(const Params *params);

/*
 * Of a weight that trains, its F32 numbers (part 0) or a moment (1, 2: of dtype params->moments),
 * all rows: to every rank's host memory; and back, each keeping what is its own. A frozen weight
 * has part 0 alone, of its own dtype on the way out and F32 on the way in. ranks may be NULL.
 */
void ranks_get(Ranks *ranks, Params *params, const Tensor *t, int part, void *host);
void ranks_set(Ranks *ranks, Params *params, Tensor *t, int part, const void *host);

__END_DECLS
#endif
