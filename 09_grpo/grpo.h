/*
 * GRPO: a step of learning from rewards (Shao et al. 2024, "DeepSeekMath"; DeepSeek-R1).
 *
 *     prompts -> rollout -> rewards -> advantages -> loss -> AdamW, perhaps several times
 *
 * A rollout of P prompts x G answers is learned from in num_iterations passes of mini_batches
 * updates each, and every update is computed in micro-batches of a size that memory allows. The
 * first update is on-policy: its ratios are 1. For the later ones the log-probabilities of the
 * policy that drew are computed before the first, by the trainer's own kernels.
 *
 * Names of settings and of what is reported are TRL's. Invariant: the state of a run is the
 * weights, the reference's too, the optimizer, the count of random streams in the Context, and a
 * GrpoState; a step is a function of these.
 */
#ifndef GRPO_H
#define GRPO_H

#include "09_grpo/advantage.h"
#include "09_grpo/loss/policy_loss.h"
#include "09_grpo/loss/token_logprobs.h"
#include "09_grpo/rewards/rewards.h"
#include "09_grpo/rollout/rollout.h"
#include "common/comm/ranks.h"

/* A question: its memory is malloc's, and GRPO's to free. */
typedef struct GrpoPrompt {
    int32_t *ids; /* [count] */
    int count;
    char *text, *answer; /* for the rewards; answer may be NULL */
} GrpoPrompt;

/* Where questions come from, and how answers read. */
typedef struct GrpoSource {
    void *self;
    /* Question `index`, any number: a function of it. -1 and a message. */
    int (*prompt)(void *self, uint64_t index, GrpoPrompt *prompt, Error *err);
    char *(*text)(void *self, const int32_t *ids, int count); /* malloc's */
} GrpoSource;

typedef struct GrpoConfig {
    RolloutConfig rollout; /* prompts of a step, num_generations, lengths, the end */
    Sampling sampling;     /* temperature 1, nothing cut off */
    PolicyLossConfig loss; /* its max_completion_length is the rollout's */
    ScaleRewards scale_rewards;
    WeightedReward rewards[REWARDS_MAX];
    int reward_count;
    int num_iterations;   /* passes over a rollout */
    int mini_batches;     /* updates in a pass */
    int micro_batch;      /* sequences in one piece; 0: all of an update */
    int dynamic_sampling; /* rollouts a step may take to find groups with a difference */
    bool mask_truncated_completions;
} GrpoConfig;

/* TRL's defaults where it has them: 8 generations, loss dapo, scale group, one update a rollout, of
 * 8 prompts; rewards, lengths and the end are the caller's. */
GrpoConfig grpo_defaults(void);
int grpo_check(const GrpoConfig *cfg, Error *err);

typedef struct GrpoReport {
    double loss, grad_norm, reward, reward_std, frac_reward_zero_std, entropy, kl;
    double mean_length, min_length, max_length,
        clipped_ratio;                           /* completions/...; share truncated */
    double clip_low, clip_high, ratio;           /* clip_ratio/...; mean of r */
    double logp_difference, logp_difference_max; /* sampler against trainer */
    double rewards[REWARDS_MAX], off_policy_dropped;
    double rollout_seconds, update_seconds;
    int64_t num_tokens;    /* actions drawn, also in rollouts that were thrown away */
    int64_t prompt_tokens; /* before these: a prompt counts with each of its answers */
    int abstained;         /* answers that no reward could judge */
    int rollouts;          /* that were drawn: more than 1 by dynamic sampling */
    int replaced_groups;   /* without a difference, which others took the place of */
    int updates;           /* steps of the optimizer; 0: no answer was better than another */
} GrpoReport;

/* Names and numbers of a report, as TRL logs them; rows end with a NULL name. */
typedef struct GrpoColumn {
    const char *name;
    size_t offset; /* of a double in GrpoReport */
} GrpoColumn;
extern const GrpoColumn grpo_columns[];

/* What a run that goes on must know, beside the weights and the optimizer. */
typedef struct GrpoState {
    int64_t steps;                          /* done; some of them may have had nothing to learn */
    uint64_t prompts_drawn, rollouts_drawn; /* which say what is drawn next */
    int64_t num_tokens;                     /* so far, prompts and answers */
} GrpoState;

typedef struct GrpoBatch GrpoBatch; /* a step's sequences, and what is known of them */

typedef struct Grpo {
    Context *ctx;
    const Decoder *policy, *reference; /* reference: frozen; NULL where beta is 0 */
    const Position *position;
    Params *params; /* the policy's */
    AdamW *adamw;
    GrpoConfig cfg;
    GrpoSource source;
    Rollouts rollouts;
    GrpoBatch *batch;
    Ranks *ranks;    /* NULL at first; where several ranks learn (share.h), theirs */
    GrpoState state; /* zeros at first; a run that goes on puts its own here */
} Grpo;

/* cfg must have passed grpo_check. All that is given must outlive it. -1 and a message. */
int grpo_init(Grpo *g, Context *ctx, const Decoder *policy, const Decoder *reference,
              const Position *position, Params *params, AdamW *adamw, const GrpoConfig *cfg,
              GrpoSource source, Error *err);
void grpo_free(Grpo *g); /* zeros: fine */

/* One step, at learning rate lr. -1 and a message when a number is no number any more: nothing was
 * learned from that. */
int grpo_step(Grpo *g, float lr, GrpoReport *report, Error *err);

/* What the last step drew, for tables of samples: completion i's prompt, text, reward, advantage;
 * they last until the next step. -1: there is no i-th. */
typedef struct GrpoSample {
    const char *prompt, *text;
    float reward, advantage;
} GrpoSample;
int grpo_sample(const Grpo *g, int i, GrpoSample *sample);

/* ---- judging ---- */

typedef struct GrpoScore {
    double reward; /* mean of the weighted sum */
    double pass_1; /* share of answers whose first reward is 1 */
    double pass_k; /* share of questions that one of their G answers got right */
    int questions;
} GrpoScore;

/* Questions first .. first + count - 1 (a multiple of the rollouts' P) of `source`. */
int grpo_score(Rollouts *r, const GrpoSource *source, const WeightedReward *rewards,
               int reward_count, uint64_t first, int count, const Sampling *sampling,
               GrpoScore *score, Error *err);

/* ---- the policy's log-probabilities, as both the loss and tests want them ---- */

/* ids, targets I32 [B, T] -> [B, T]. replay: as DecoderRun's; may be NULL. */
TokenLogprobs decoder_logprobs(Context *ctx, const Decoder *decoder, const Position *position,
                               Tensor *ids, Tensor *targets, float temperature,
                               const TokenSupport *support, const Tensor *const *replay);

#endif
