/*
 * What a step learns from: P G sequences, with all that is known of each of them. Filled group by
 * group from rollouts (grpo_batch.c), read by the updates (grpo.c).
 */
#ifndef GRPO_BATCH_H
#define GRPO_BATCH_H

#include "09_grpo/grpo.h"

struct GrpoBatch {
    int groups, group, count;            /* groups there are; G; sequences: groups G */
    Sequence *sequences;                 /* [P G]; ids [max_prompt + max_completion_length] */
    float **sampler, **old, **reference; /* [P G][max_completion_length] */
    ActionSupport *supports;             /* [P G] */
    int16_t **experts;                   /* [P G][places, layers, K]: NULL without keep_routing */
    bool *ended;
    char **prompts, **texts; /* [P], [P G] */
    float *rewards, *each;   /* [P G]; [P G, REWARDS_MAX] */
    float *advantages;       /* [P G] */
    int32_t *order;          /* [P G]: in which they are learned from */
};

GrpoBatch *grpo_batch_new(const RolloutConfig *cfg, const Decoder *policy);
void grpo_batch_free(GrpoBatch *b, const RolloutConfig *cfg);

/* P groups: those of one rollout, or, with dynamic sampling, those with a difference of as many
 * rollouts as it takes and may take; the last one fills what is left with whatever it has. */
int grpo_collect(Grpo *g, GrpoReport *report, Error *err);

/* F32 numbers of the rows' actions, and what they were drawn from (NULL: everything). */
TokenSupport *grpo_batch_support(Context *ctx, const GrpoBatch *b, const SequenceRows *rows,
                                 TokenSupport *support);

/* For each layer of experts which of them the rows' tokens shall use: as they were drawn, if
 * `kept`, else whom the router chooses; padding goes to nobody. NULL for a model without experts.
 * */
const Tensor *const *grpo_batch_replay(Context *ctx, const GrpoBatch *b, const SequenceRows *rows,
                                       const Decoder *decoder, bool kept);

#endif
