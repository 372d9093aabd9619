/*
 * What does a head look at? Its probabilities, and a name for its habit found by measuring.
 *
 * A row of a head's probabilities is a way to spend a weight of 1 on the tokens up to this one. A
 * habit is a set of tokens ("the previous one", "all spaces"); its share is how much of the
 * weight falls on the set, averaged over rows, and its chance is the share that a head without
 * preferences (1 / (t + 1) for everything) would give it. A head is named after the habit whose
 * share exceeds its chance by most.
 *
 * Only rows t >= HABIT_FIRST_ROW are counted: in row 0 every head looks at itself, for there is
 * nothing else.
 */
#ifndef HEADS_H
#define HEADS_H

#include "03_multihead/multihead.h"

/*
 * p [T, T] F32 on the host: what head h of sequence b does with x [B, T, hidden_size], the
 * module's input. For looking at, not for speed: the plain softmax of chapter 01 on scores by
 * plain loops. Recording must be off.
 */
void head_probabilities(Context *ctx, float *p, Tensor *x, const Multihead *w,
                        const MultiheadConfig *cfg, int b, int h);

enum { HABIT_FIRST_ROW = 8 };

typedef enum Habit {
    LOOKS_AT_ITSELF,
    LOOKS_1_BACK,
    LOOKS_2_BACK,
    LOOKS_3_BACK,
    LOOKS_AT_SEPARATORS, /* the spaces between words */
    /* everything since the last separator, itself and the one before not counted */
    LOOKS_AT_OWN_WORD,
    LOOKS_AT_SAME,    /* earlier occurrences of the same character */
    LOOKS_AFTER_SAME, /* what followed them: the start of copying (Olsson et al. 2022) */
    HABIT_COUNT
} Habit;

typedef struct HeadHabits {
    double share[HABIT_COUNT], chance[HABIT_COUNT]; /* sums over rows; see habits_average */
    double entropy;                                 /* of the rows, in nats, summed */
    int64_t rows;
} HeadHabits;

/* Adds the rows of one sequence: p [T, T], ids [T]; `separator` is the id of the space. */
void habits_add(HeadHabits *habits, const float *p, const int32_t *ids, int T, int32_t separator);

/* Sums -> averages. Call it once, after the last habits_add(). */
void habits_average(HeadHabits *habits);

/* The habit with the largest share - chance. */
Habit habits_best(const HeadHabits *habits);

/* "looks at the previous character: 88 % of its weight (chance: 5 %)", in the caller's buffer. */
char *habits_name(const HeadHabits *habits, char *buffer, size_t size);

#endif
