/*
 * Tasks: problems with answers that a program can check, made from random numbers.
 *
 *     addition        "27+85="      "112"          operands and sums have a fixed width, so the
 *     subtraction     "085-027="    "058"          places of all digits are known
 *     multiplication  "7*38="
 *     sort            "3141>"       "1134"
 *     countdown       "3,7,25>46="  "3*7+25"       any expression that does it is right
 *
 * Every task writes in the same few characters, each of which is a token; the end is one of them.
 * With `reversed` answers begin with their last digit: a carry then goes the way the model writes.
 *
 * Whether a problem is held out is a property of the problem (a hash of its text), not of when it
 * was drawn: whatever the seeds are, training never sees a problem that it is judged by.
 */
#ifndef TASKS_H
#define TASKS_H

#include "common/core/error.h"
#include "common/core/rng.h"

#include <stdbool.h>
#include <stdint.h>

enum { PROBLEM_TEXT = 64 };

typedef struct Problem {
    char prompt[PROBLEM_TEXT];
    char answer[PROBLEM_TEXT]; /* one that is right: what supervised training teaches */
} Problem;

typedef struct Task Task;

typedef struct TaskConfig {
    const Task *task;
    int digits; /* of each operand; sort: digits in all; countdown: numbers */
    bool reversed;
    uint64_t seed;
} TaskConfig;

/* NULL and a message that lists the names, if there is none of this name. */
const Task *task_find(const char *name, Error *err);

/* Names, ended by NULL. */
extern const char *const task_names[];

/* 0, or -1 and a message: digits out of the task's range. */
int task_check(const TaskConfig *cfg, Error *err);

/* Problem `index` of those to learn from, or of those held out: a function of seed, part and index.
 * A tenth of all different problems is held out. */
void task_problem(const TaskConfig *cfg, bool held_out, uint64_t index, Problem *problem);

/* The name of the reward that judges it (rewards.h). */
const char *task_reward(const Task *task);

/* ---- characters as tokens ---- */

enum { TASK_END = 0 }; /* the token that ends an answer, "\n" */
int task_vocab_size(void);

/* Writes at most `most` ids; -1 for a character that is no token, or too many, else how many. */
int task_encode(const char *text, int32_t *ids, int most);
char task_character(int32_t id);

#endif
