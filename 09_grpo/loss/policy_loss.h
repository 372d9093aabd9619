/*
 * The policy loss: what GRPO and its relatives make smaller.
 *
 *     loss = sum over completions i, tokens t of  w_{i,t} (term(r_{i,t}, A_i) + beta k3_{i,t})
 *
 * A term says how much a token shall be more or less likely (policy_terms.h); the weight w says how
 * much the token counts, and there the names differ most:
 *
 *     grpo        1 / (B len_i)        a completion counts 1, however long (Shao et al. 2024)
 *     sapo        the same             with its own term
 *     dr_grpo     1 / (B max length)   a token counts the same in all steps (Liu et al. 2025)
 *     bnpo        1 / tokens           ... of the micro-batch
 *     dapo, cispo 1 / tokens           ... of the whole step, in whatever micro-batches it comes
 *                                      (Yu et al. 2025)
 *     ppo         1 / tokens           as bnpo, but with one epsilon for both sides
 *     reinforce   1 / tokens           as bnpo, without ratio or clip
 *
 * B completions of the step, len_i actions each: the tokens that were drawn, the end among them. A
 * token is an action where targets says so (IGNORE_TARGET: prompt, padding, or masked). So mask
 * and target are one tensor: row t of a completion holds what is said of the token behind token t.
 *
 * The loss is of no use as a measure: as long as r = 1 it is minus a mean of advantages, about 0.
 */
#ifndef POLICY_LOSS_H
#define POLICY_LOSS_H

#include "common/core/ops.h"

__BEGIN_DECLS

typedef enum LossType {
    LOSS_GRPO,
    LOSS_DR_GRPO,
    LOSS_BNPO,
    LOSS_DAPO,
    LOSS_CISPO,
    LOSS_SAPO,
    LOSS_PPO,
    LOSS_REINFORCE,
} LossType;

/* TRL's names (ppo and reinforce are ours), in the order of the enum, ended by NULL. */
extern const char *const policy_loss_names[];

/* Names and defaults are TRL's; what it calls None is 0. */
typedef struct PolicyLossConfig {
    LossType loss_type;
    bool sequence_level; /* importance_sampling_level: one r for a completion, the geometric mean */
    float epsilon, epsilon_high;     /* of the clip; cispo: epsilon_high is the cap itself */
    float delta;                     /* largest r in the product that is not clipped; 0: none */
    float beta;                      /* of the KL to the reference; 0: there is none */
    bool use_bias_correction_kl;     /* k3 times r */
    float off_policy_mask_threshold; /* 0: none. V3.2, eq. 9: a completion with A < 0 whose tokens
                                      * have become less likely by more than this in the mean (of
                                      * log pi_old - log pi) has no term; its KL stays */
    float sapo_temperature_pos, sapo_temperature_neg;
    int max_completion_length; /* dr_grpo divides by it */
} PolicyLossConfig;

/* epsilon 0.2 on both sides (cispo: 5), beta 0, the KL unbiased, SAPO's 1 and 1.05. */
PolicyLossConfig policy_loss_defaults(LossType type);

/* 0, or -1 and a message that names the setting that is wrong, its value and what it may be. */
int policy_loss_check(const PolicyLossConfig *cfg, Error *err);

/* What one micro-batch is beside the policy's own log-probabilities; [B, T] F32 on ctx's device, of
 * which only the places of actions are read. */
typedef struct PolicyBatch {
    const Tensor *targets;    /* I32 [B, T] */
    const Tensor *advantages; /* F32 [B] */
    const Tensor *old;        /* of the policy that drew; NULL: the one that learns, r = 1 */
    const Tensor *reference;  /* needed where beta is not 0 */
    const Tensor *sampler; /* as the sampler said; or NULL: then `old` is the off-policy mask's */
    int micro_batches;     /* of this step, that this is one of */
    int completions, actions; /* of all of them together */
} PolicyBatch;

/* Sums over the actions of a micro-batch, for logs (F32). Those of micro-batches are added. */
enum {
    POLICY_ACTIONS,
    POLICY_KL,         /* as it is in the loss, before beta */
    POLICY_CLIP_UNITS, /* what the next three are a share of: actions; sequence_level: sequences */
    POLICY_LOW,        /* clipped below: r < 1 - epsilon, A < 0 */
    POLICY_HIGH,       /* clipped above: r > 1 + epsilon_high, A > 0 (cispo: r > epsilon_high) */
    POLICY_RATIO,
    POLICY_DROPPED,     /* sequences, by the off-policy mask */
    POLICY_GAP,         /* |log pi_old - sampler|, 0 without a sampler */
    POLICY_GAP_LARGEST, /* its maximum */
    POLICY_STATS
};

/*
 * logprobs F32 [B, T] (token_logprobs.h) -> F32 [1], on the tape; *stats: F32 [POLICY_STATS].
 * The sum over a step's micro-batches is the step's loss: nothing is left to be divided.
 */
Tensor *policy_loss(Context *ctx, Tensor *logprobs, const PolicyBatch *batch,
                    const PolicyLossConfig *cfg, Tensor **stats);

/* ---- kernel ---- */

/* What the kernels need beside the config. */
typedef struct PolicyShape {
    PolicyLossConfig cfg;
    int64_t batch, tokens;                   /* B, T */
    int micro_batches, completions, actions; /* of the step */
} PolicyShape;

/*
 * loss [1], stats [POLICY_STATS], and dlogp [B, T], the loss' gradient by logp, zero where there is
 * no action. old, reference, sampler may be NULL. scratch: F32 [1 + B (1 + POLICY_STATS)].
 */
KERNEL(policy_loss, float *loss, float *stats, float *dlogp, float *scratch, const float *logp,
       const float *old, const float *reference, const float *sampler, const float *advantages,
       const int32_t *targets, PolicyShape shape);

__END_DECLS
#endif
