/*
 * The door to a layer's experts: what they make of rows that are sorted by expert.
 *
 *     rows [N K, hidden]: expert 0's tokens, 1's, ...  ->  E_e(row), the same rows
 *
 * Behind it the experts may all be here; then each multiplies its rows (grouped.h). Or they may be
 * spread over the ranks of ctx->experts, n of them, of which rank r has the E / n experts from
 * r E / n on and nobody else does (expert parallelism: GShard, Lepikhin et al. 2020; DeepSeek-V3,
 * 3.2). Rows then travel:
 *
 *     rank 0   [e0 e0 | e1 | e2 e2 e2 | e3]        sorted, so what rank r needs lies together
 *     rank 1   [e0 | e1 e1 | e3]
 *                   counts of all ranks, to all; then the rows, all-to-all
 *     rank 0   [e0 e0 e1 . e0 e1 e1]               by rank, and sorted by expert a second time:
 *              [e0 e0 e0 | e1 e1 e1]               rank 0's before rank 1's, as in one batch
 *                   the products; and the same way back, forward and backward
 *
 * How many rows come is known when the counts are: the host waits for the router here, once a
 * layer. A rank that gets none computes nothing and takes part in all that travels.
 */
#ifndef EXPERTS_H
#define EXPERTS_H

#include "05_moe/moe.h"

__BEGIN_DECLS

/* Of `experts`, how many have their weights in this process. ctx may be NULL: all. */
int experts_here(const Context *ctx, int experts);

/* Can `experts` be spread over so many ranks? -1 and a message that says over how many they can. */
int experts_check_spread(int experts, int ranks, Error *err);

/* rows [N K, hidden], as dispatch_permute() makes them of `plan` -> the same shape, on the tape.
 * Collective among ctx->experts. Rows that hold no token are neither read nor written. */
Tensor *experts_forward(Context *ctx, Tensor *rows, const Moe *w, const Dispatch *plan);

__END_DECLS
#endif
