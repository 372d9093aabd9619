/*
 * Rewards that can be verified: what an answer is worth, as a C function.
 *
 * A reward looks at the answer's text and returns a number, or NaN where it has nothing to say (a
 * format cannot be judged where there is none). Several count together: the sum of weight times
 * reward over those that spoke; NaN if none did. To add one is to write the function and a line of
 * the table in rewards.c.
 */
#ifndef REWARDS_H
#define REWARDS_H

#include "common/core/error.h"

#include <stdbool.h>

/* What a reward may look at. */
typedef struct Answer {
    const char *prompt;   /* the question, as the model saw it */
    const char *text;     /* what the model wrote, without the end */
    const char *expected; /* the right answer; NULL: the task has none */
    int tokens;           /* drawn, the end included */
    int max_tokens;       /* that could be drawn */
    bool ended;           /* did it end by itself? */
} Answer;

typedef float RewardFunction(const Answer *answer);

typedef struct Reward {
    const char *name;
    RewardFunction *function;
    const char *help;
} Reward;

enum { REWARDS_MAX = 8 };

typedef struct WeightedReward {
    const Reward *reward;
    float weight;
} WeightedReward;

/* Ended by a row without a name. */
extern const Reward rewards[];

/* NULL and a message that lists the names, if there is none of this name. */
const Reward *reward_find(const char *name, Error *err);

/* "accuracy" or "accuracy=1,length=0.1" -> how many, at most REWARDS_MAX, or -1 and a message. */
int rewards_parse(WeightedReward *list, const char *text, Error *err);

/* each [count]: what every reward said. Returns the weighted sum, NaN if none spoke. */
float rewards_total(const WeightedReward *list, int count, const Answer *answer, float *each);

/* ---- the rewards ---- */

float reward_accuracy(const Answer *a);  /* 1: the text is the answer, and it ended; else 0 */
float reward_digits(const Answer *a);    /* the share of characters in their place, if it ended */
float reward_countdown(const Answer *a); /* 1: an expression of the prompt's numbers, each used
                                          * once, that has the prompt's value */
float reward_format(const Answer *a);    /* 1: as many characters, of the same kinds (digit, letter,
                                          * other), as the answer has */
float reward_length(const Answer *a);    /* soft overlong punishment (DAPO, eq. 13): 0 up to 4/5 of
                                          * max_tokens, down to -1 there and for what has no end */

#endif
