/*
 * A run that learns from rewards: chapter 09's step, again and again, and nothing lost on the way.
 *
 *     questions -> grpo_step()  ->  a row of metrics; where they are due a look at held-out
 *                                   questions, a table of samples, and a save
 *
 * The folder is that of a training run (run_folder.h), and so are the ways in which it stops and
 * goes on: a run that is interrupted and resumed ends in the same bits as one that is not. The best
 * model is the one that earned most on held-out questions.
 */
#ifndef GRPO_RUN_H
#define GRPO_RUN_H

#include "10_full_model/data/questions.h"
#include "10_full_model/train/run_folder.h"
#include "10_full_model/train/training_state.h"

typedef struct GrpoRunOptions {
    GrpoConfig grpo;
    Schedule schedule; /* with the number of steps */
    AdamW adamw;
    /* Every so many steps, and at the end, eval_prompts held-out questions are answered
     * num_generations_eval times at the temperature, and once by the likeliest tokens. */
    int eval_interval, eval_prompts, num_generations_eval;
    /* TRL's sync_ref_model: every ref_model_sync_steps the reference becomes alpha policy +
     * (1 - alpha) reference. */
    bool sync_ref_model;
    float ref_model_mixup_alpha;
    int ref_model_sync_steps;
    int num_completions_to_print; /* rows of a table of samples, where one is due; 0: none */

    const char *out; /* folder for the model and the state; NULL: do not save */
    RunStart start;
    const Tokenizer *tokenizer;
    const char *csv; /* one row a step (grpo_log.h), or NULL */
    double minutes;  /* after so many it stops, as after Ctrl-C; 0: never */
    bool in_turn;    /* of several ranks: as RankOptions' */
    bool quiet;      /* neither a progress line nor samples */
} GrpoRunOptions;

/* TRL's defaults where it has them (grpo.h), for models and tasks that a CPU can learn; of the
 * rollout, lengths and the end are the caller's. */
GrpoRunOptions grpo_run_defaults(void);

/* pass@1 and pass@k of drawn answers, k num_generations_eval; the share of questions whose
 * likeliest answer is right; the mean reward of drawn answers. NaN: not measured. */
typedef struct GrpoScores {
    double pass_1, pass_k, greedy, reward;
} GrpoScores;

typedef struct GrpoRunResult {
    int64_t steps, resumed_from;
    int64_t idle;           /* steps, of this process, in which no group had a difference */
    GrpoScores first, last; /* first: before the first step; a resumed run knows only `greedy` */
    double best_reward;     /* held-out */
    int64_t best_step;      /* 0: none yet */
    double seconds, tokens_per_second; /* prompts and answers, drawn and learned from */
    int interrupted;                   /* the signal that stopped it, or OUT_OF_TIME; 0: none */
} GrpoRunResult;

/*
 * Trains policy (allocated for training, with the weights it begins with: a resumed run replaces
 * them). reference: NULL where beta is 0; else a model of the same shape, allocated without
 * training, which gets the policy's weights or those of the run that goes on. -1 and a message for
 * settings that cannot be, numbers that are not finite, a save that fails, a state that does not
 * fit, answers that no reward can judge.
 */
int grpo_run(Model *policy, Model *reference, const Questions *questions,
             const GrpoRunOptions *options, GrpoRunResult *result, Error *err);

#endif
