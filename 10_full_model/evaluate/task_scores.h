/*
 * What a model makes of tasks (tasks.h), in lm-eval's sense. With ll the log-likelihood of a choice
 * behind its context (score.h):
 *
 *     acc        share of the items where the right choice has the largest ll; of a last word:
 *                where each of its tokens is the likeliest
 *     acc_norm   the same by ll / characters of the choice
 *     perplexity of last words, exp(- mean ll): of words, not of tokens
 *
 * Of equal choices the first one counts, as argmax does (seven of BLiMP's pairs are equal texts:
 * they are always right). An error is the standard error of a mean, sqrt(sum (x - mean)^2 /
 * (n (n - 1))); of a perplexity, to first order, that of ll times the perplexity; of a mean over
 * tasks, sqrt(sum error^2) / tasks.
 */
#ifndef TASK_SCORES_H
#define TASK_SCORES_H

#include "10_full_model/evaluate/score.h"
#include "10_full_model/evaluate/tasks.h"

#include <stdio.h>

typedef struct Measured {
    double value, error; /* NaN: there is no such number, or only one item */
} Measured;

typedef struct TaskScore {
    const char *name;  /* of a task; "mean of 67" of a group of tasks */
    const char *field; /* of its tasks; "" for none, and for the mean of all */
    TaskKind kind;
    bool mean;          /* of tasks, each of which counts as much as another */
    int64_t items, cut; /* cut: the beginnings of so many contexts did not fit */
    Measured acc, acc_norm, perplexity;
    char text[32]; /* holds the name of a mean */
} TaskScore;

typedef struct TaskScores {
    TaskScore *rows; /* by kind: the tasks; each field's mean, if it has several; the mean of all */
    int count;
    double *logprobs; /* of each item's choices, in the set's order */
    int longest;      /* tokens of the longest text that the model was given */
} TaskScores;

typedef struct TaskOptions {
    int longest;      /* tokens that the model is given at a time */
    int begin;        /* the token that a text without a context begins with; -1: there is none */
    int batch_tokens; /* 0: as many as fit (score.h) */
    bool quiet;       /* no progress line */
} TaskOptions;

/* Scores the set, which must outlive the scores. -1 and a message for an item that does not fit,
 * by its file and line, before anything is computed; or for numbers that are not finite. */
int task_scores(TaskScores *scores, Model *model, const Tokenizer *tokenizer, const TaskSet *set,
                const TaskOptions *options, Error *err);
void task_scores_free(TaskScores *scores);

/* A table for 80 columns; and the same as CSV, whose columns are these. */
#define TASK_COLUMNS                                                                   \
    "kind,task,field,mean,items,cut,acc,acc_error,acc_norm,acc_norm_error,perplexity," \
    "perplexity_error"
void task_scores_print(const TaskScores *scores, FILE *out);
int task_scores_csv(const TaskScores *scores, const char *path, const char *device, Error *err);

#endif
