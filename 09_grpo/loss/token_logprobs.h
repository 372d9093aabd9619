/*
 * How likely the policy holds the tokens that were drawn.
 *
 *     logp_i = log softmax(logits_i / temperature)[target_i]
 *     H_i    = - sum_j p_j log p_j                                  the entropy, for logs
 *
 * The temperature is the one that the tokens were drawn with: another would say how likely they
 * would have been under a policy that nobody asked. For the same reason the softmax may run over a
 * part of the vocabulary: where top-k or top-p cut tokens off, both policies have to renormalise
 * over what was left ("keep sampling mask", DeepSeek-V3.2, 3.1).
 *
 * As in cross_entropy(), the probabilities are never stored: backward turns the logits, in place,
 * into their own gradient,
 *     d logp / d z_j = ([j = target] - p_j) / temperature
 */
#ifndef TOKEN_LOGPROBS_H
#define TOKEN_LOGPROBS_H

#include "common/core/ops.h"

__BEGIN_DECLS

/* Row i's tokens are ids[starts[i]] .. ids[starts[i + 1] - 1], ascending, the target among them;
 * none: all of the vocabulary. */
typedef struct TokenSupport {
    const Tensor *starts; /* I32 [rows + 1] */
    const Tensor *ids;    /* I32 [starts[rows]], or more */
} TokenSupport;

typedef struct TokenLogprobs {
    Tensor *logprobs; /* F32, shape of targets, on the tape; 0 where the target is IGNORE_TARGET */
    Tensor *entropy;  /* F32, the same shape, not on the tape */
} TokenLogprobs;

/* logits [..., V] of ctx's dtype, targets I32 [...]. support may be NULL. The logits may have no
 * other reader whose gradient is wanted. */
TokenLogprobs token_logprobs(Context *ctx, Tensor *logits, Tensor *targets, float temperature,
                             const TokenSupport *support);

/* ---- kernels ---- */

/* lse [rows]: of logits / temperature over the row's support. starts and ids may be NULL. */
KERNEL(token_logprobs_forward, float *logp, float *entropy, float *lse, const Real *logits,
       const int32_t *targets, const int32_t *starts, const int32_t *ids, int64_t rows,
       int64_t vocab, float temperature);
/* logits -> their gradient */
KERNEL(token_logprobs_backward, Real *logits, const float *dlogp, const float *lse,
       const int32_t *targets, const int32_t *starts, const int32_t *ids, int64_t rows,
       int64_t vocab, float temperature);

__END_DECLS
#endif
