/*
 * Rollouts: the policy answers questions, several times each, and what it did is kept.
 *
 * P prompts become P groups of G completions, drawn side by side in one batch. A prompt goes
 * through the model once and its cache is copied to its group (fork.h). Kept are ids, never text:
 * text that is encoded again may be other tokens than those that were drawn. The token that ends an
 * answer is drawn like any other, so it is an action and has a log-probability; a completion
 * without it is truncated.
 *
 * On the CPU a rollout computes as the trainer does, to the last bit: the same kernels, keys and
 * values of every head (04_mla/mla_kept.h), sums in the same order, and the log-probability by the
 * same function. So the policy that is asked about a token is the one that drew it. With `fast`,
 * and on a GPU, decoding's own kernels draw, which round elsewhere.
 *
 * With `keep_support` it is kept which tokens top-k, top-p and min-p had left to draw from: the
 * policy that learns has to be asked about the same ones (token_logprobs.h). With `keep_routing` it
 * is kept which experts each token went to: the policy that learns is to use the same ones
 * (DeepSeek-V3.2, 3.1), for a token that an expert more or less decides otherwise has another
 * probability without having learned anything.
 */
#ifndef ROLLOUT_H
#define ROLLOUT_H

#include "05_moe/decoder/decoder_generate.h"
#include "09_grpo/rollout/sequences.h"

typedef struct RolloutConfig {
    int prompts, group;                    /* P, G */
    int max_prompt, max_completion_length; /* tokens */
    int32_t end;
    bool keep_support;
    bool keep_routing;
    bool fast; /* on the CPU draw by the kernels for decoding, whose sums have another order */
} RolloutConfig;

/* The tokens that each action of a completion was drawn from: action k's are ids[starts[k]] ..
 * ids[starts[k + 1] - 1], ascending. */
typedef struct ActionSupport {
    int32_t *starts, *ids; /* NULL without keep_support */
    size_t capacity;       /* of ids */
} ActionSupport;

/* Completion g of prompt p is number p G + g. Valid until the next rollout. */
typedef struct Completion {
    Sequence sequence;
    const float *logprobs; /* [tokens]: as the sampler saw them */
    const ActionSupport *support;
    const int16_t *experts; /* [prompt_tokens + tokens - 1, layers, K], or NULL */
    bool ended;             /* else it was truncated */
} Completion;

typedef struct Rollouts {
    Context *ctx;
    const Decoder *decoder;
    const Position *position;
    RolloutConfig cfg;
    DecoderCache prompts; /* of P sequences */
    DecoderGenerator generator;
    ActionSupport *supports;        /* [P G], or NULL */
    int16_t **experts;              /* [P G][places, layers, K], or NULL */
    const Sampling *sampling;       /* of the rollout in progress */
    int *prompt_tokens;             /* [P] */
    double prompt_seconds, seconds; /* of the last rollout */
} Rollouts;

/* Experts that one token goes to, in all layers together; 0: the model has none. */
int rollouts_choices(const Decoder *decoder);

/* -1 and a message when a number makes no sense, the model has too few places, or memory runs out.
 * Its address must not change. */
int rollouts_init(Rollouts *r, Context *ctx, const Decoder *decoder, const Position *position,
                  const RolloutConfig *cfg, Error *err);
void rollouts_free(Rollouts *r); /* zeros: fine */

/*
 * Answers prompts[p] [lengths[p]], p < P. The random numbers of completion i are those of stream
 * `stream` + i under sampling's seed. -1 and a message for an empty prompt, one that is too long,
 * or logits that are not finite; then there are no completions.
 */
int rollouts_draw(Rollouts *r, int32_t *const *prompts, const int *lengths,
                  const Sampling *sampling, uint64_t stream, Error *err);

Completion rollouts_completion(const Rollouts *r, int i);

#endif
