/*
 * What a run that learns from rewards says about itself: a row of a CSV file for each step, under
 * the names that TRL's users know, and tables of samples.
 *
 *     step, learning_rate, num_tokens (so far: prompts and answers), step_time (seconds)
 *     the columns of grpo_columns (09_grpo/grpo.h): loss, reward, entropy, kl, ...
 *     rewards/NAME/mean                                of each reward
 *     replaced_groups, rollout_time, update_time       ours: dynamic sampling; seconds
 *     eval_reward, eval_pass@1, eval_pass@K, eval_greedy
 *
 * Cells are empty where there is no number: a look at held-out questions that was not due, a loss
 * where no answer was better than another, a reward that judged none. Row 0 is the look before the
 * first step.
 */
#ifndef GRPO_LOG_H
#define GRPO_LOG_H

#include "10_full_model/reinforce/grpo_run.h"

#include "common/files/csv.h"

#include <stdio.h>

typedef struct GrpoLog {
    Csv csv; /* stream NULL: no file */
    const GrpoConfig *cfg;
} GrpoLog;

typedef struct GrpoRow {
    int64_t step, num_tokens;
    double learning_rate, step_time;
    const GrpoReport *report; /* NULL: before the first step */
    GrpoScores scores;
} GrpoRow;

/* path NULL: none. after: the run goes on behind this step; below 0 begins a new file. */
int grpo_log_open(GrpoLog *log, const char *path, const Context *ctx, const GrpoRunOptions *options,
                  int64_t after, Error *err);
void grpo_log_row(GrpoLog *log, const GrpoRow *row);
int grpo_log_close(GrpoLog *log, Error *err);

/* `count` answers of the last step, in 80 columns: of the first question whose answers found
 * different rewards, half of them better than the mean and half not. */
void grpo_print_samples(FILE *out, const Grpo *grpo, int64_t step, int count);

#endif
