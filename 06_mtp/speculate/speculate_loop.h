/*
 * What the two loops of speculative decoding share: speculate.c's, in which the host judges, and
 * speculate_graph.c's, in which the device does.
 */
#ifndef SPECULATE_LOOP_H
#define SPECULATE_LOOP_H

#include "06_mtp/speculate/speculate.h"
#include "06_mtp/speculate/verify.h"

/* What a step finds, in the arena. */
typedef struct Rows {
    Tensor *logits, *states; /* [B, T, vocab_size], [B, T, hidden_size] after the last norm */
    Tensor *says;            /* I32 [B, T]: the likeliest token behind each row */
    Tensor *judged;          /* the same, but -1 where logits are not finite, and says has 0 */
} Rows;

/* Is the likeliest token always the one? */
bool speculate_is_greedy(const Speculator *s);

/* The newest token of each text and its s->drafted drafts go through the decoder. */
Rows speculate_look(Speculator *s);

/* `count` tokens come behind sequence b, or fewer if it ends among them or one is -1, which sets
 * s->broken; they are counted, and s->last[b] is the last one's number. */
void speculate_append(Speculator *s, int b, const SampledToken *tokens, int count);

/* A round for the drafter; count and found are the caller's to say. */
DraftRound speculate_round(Speculator *s, Tensor *states, Tensor *next, Tensor *last);

/* Some steps on the device, if they can be made there: whether they were. */
bool speculate_launch(Speculator *s);

#endif
