/*
 * Answers of several ranks: each draws those to its own prompts, and all learn from all of them.
 *
 *     rank 0   prompts 0 .. P/n - 1          answers \
 *     rank 1   prompts P/n .. 2 P/n - 1      answers  > all, in order of the prompts, on every rank
 *
 * What travels is what was drawn, and what the sampler knew of it: ids, log-probabilities, and
 * where they are kept supports and experts; a few kilobytes an answer. Text and rewards follow from
 * the ids, so every rank makes its own.
 *
 * The random numbers of an answer are those of its number, so it is the same one that a process
 * alone would have drawn, as far as the kernels that draw round alike whatever is beside it.
 */
#ifndef SHARE_H
#define SHARE_H

#include "09_grpo/rollout/rollout.h"
#include "common/comm/comm.h"

/* Completions of all ranks, and the memory in which they lie. */
typedef struct SharedAnswers {
    Completion *list; /* [ranks * P G] */
    ActionSupport *supports;
    void *memory;
} SharedAnswers;

/* Those of this rank's last rollout, and the others'. comm NULL: those of the rollout, where they
 * are. Collective. */
SharedAnswers share_answers(Comm *comm, const Rollouts *r);
void share_free(SharedAnswers *shared);

/*
 * numbers[order[i]] [width], of which each rank has an equal part of the `count`, in order of
 * ranks: to all. Collective.
 */
void share_numbers(Comm *comm, float **numbers, const int32_t *order, int count, int width);

/* Sums over the ranks, in their order: the same bits on each. Collective. */
void share_sums(Comm *comm, double *sums, int count);

#endif
