/*
 * Questions with answers, as rows of tensors.
 *
 * A sequence is a prompt and the completion behind it; the completion's tokens are what a policy
 * did, its actions. Several sequences become a rectangle, padded on the right (the mask is causal,
 * so no token sees the padding):
 *
 *     ids      [B, T]   all tokens but the last
 *     targets  [B, T]   row t: the token behind token t, where that is an action; elsewhere
 *                       IGNORE_TARGET: prompt and padding have no part in any loss
 *
 * Numbers of actions (log-probabilities) take the places of their targets.
 */
#ifndef SEQUENCES_H
#define SEQUENCES_H

#include "common/core/ops.h"

typedef struct Sequence {
    int32_t *ids;              /* [prompt_tokens + tokens] */
    int prompt_tokens, tokens; /* at least 1, and at least 0 */
    bool masked;               /* its tokens are no actions after all: none is a target */
} Sequence;

/* What a batch of them is made of: the sequences list[order[0 .. count - 1]]. */
typedef struct SequenceRows {
    const Sequence *list;
    const int32_t *order;
    int count;
} SequenceRows;

/* T of the rectangle: the longest sequence, less one; at least 1. */
int sequences_width(const SequenceRows *rows);

/* Actions that are targets. */
int sequences_actions(const SequenceRows *rows);

void sequences_batch(Context *ctx, const SequenceRows *rows, Tensor **ids, Tensor **targets);

/* F32 [B, T]: number k of sequence i, numbers[i][k], at the place of its action k; zeros elsewhere.
 * And back. */
Tensor *sequences_numbers(Context *ctx, const SequenceRows *rows, float *const *numbers);
void sequences_gather(Context *ctx, const SequenceRows *rows, const Tensor *from, float **numbers);

#endif
