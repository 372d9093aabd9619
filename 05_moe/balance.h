/*
 * Balance: keeping every expert at work.
 *
 * An expert that is chosen more learns more, and is then chosen more. Left alone a router ends with
 * a few experts for everything. Two kinds of cure:
 *
 * a loss that is smaller when the load is even. With f_e = E / (K T) * how often e was chosen in a
 * sequence of T tokens, and P_e = its mean score there (scores divided by their sum, which changes
 * nothing for a softmax):
 *     L = alpha * mean over sequences of sum_e f_e P_e                 (f has no gradient, P has)
 *   one sequence = the whole batch: Switch's auxiliary loss (Fedus et al. 2021, eq. 4-6);
 *   a sequence = a sequence: DeepSeek's sequence-wise loss (V3, eq. 17-20).
 * An even load gives L = alpha, one expert for everything gives alpha * E / K at most.
 *
 * a bias that is no part of the loss (V3, "auxiliary-loss-free"): after each step
 *     b_e += gamma * sign(mean load - load_e)
 * so that an expert with too little is chosen for slightly worse scores.
 *
 * Beside them: Shazeer's squared coefficient of variation of importance and of load (2017, eq. 7,
 * 11), and the z-loss, which keeps logits small: beta * mean over tokens of logsumexp(z)^2 (Zoph et
 * al. 2022, eq. 5).
 *
 * All losses are F32 scalars on the tape; add() joins them to the main loss.
 */
#ifndef BALANCE_H
#define BALANCE_H

#include "common/core/context.h"

__BEGIN_DECLS

/* scores F32 [N, E], indices I32 [N, K]; N is a multiple of sequences -> F32 [1] */
Tensor *balance_loss(Context *ctx, Tensor *scores, const Tensor *indices, int64_t sequences,
                     float alpha);

/* logits F32 [N, E] -> F32 [1] */
Tensor *balance_z_loss(Context *ctx, Tensor *logits, float beta);

/* Importance of an expert: the sum of its weights. weights F32 [N, K], indices I32 [N, K] -> F32
 * [E] */
Tensor *balance_importance(Context *ctx, Tensor *weights, const Tensor *indices, int experts);

/* alpha * variance / mean^2 of v F32 [E] -> F32 [1]: 0 when all are equal. An all-zero v gives
 * 0. */
Tensor *balance_variation(Context *ctx, Tensor *v, float alpha);

/* load I32 [E] += counts I32 [E]: the load of a whole batch, over its micro-batches */
void balance_count(Context *ctx, const Tensor *load, const Tensor *counts);

/* bias F32 [E] += gamma * sign(mean(load) - load), unless bias is NULL; then load = 0. Where the
 * load is the mean, the bias stays. */
void balance_update_bias(Context *ctx, const Tensor *bias, const Tensor *load, float gamma);

/* What a load is worth, in numbers. */
typedef struct BalanceMeasures {
    double tokens;   /* chosen slots: the sum of counts */
    double mean;     /* per expert */
    double max, min; /* the largest and the smallest load */
    double max_vio;  /* (max - mean) / mean: 0 even, E - 1 one expert for all (Wang et al. 2024) */
    double entropy;  /* of the load as a distribution, over log E: 1 even, 0 one for all */
    double dropped;  /* slots that no expert took */
    int unused;      /* experts without a token */
} BalanceMeasures;

/* counts [E] on the host; kept: how many slots were kept (offsets[E]), or -1 for all. */
BalanceMeasures balance_measure(const int32_t *counts, int experts, int64_t kept);

/* ---- kernels: F32 and I32 throughout ---- */

/*
 * f, p [S, E] (f times 1 / S alpha, ready for backward), sums [N]: each token's sum of scores plus
 * BALANCE_SUM_EPS, as a token whose scores all underflow has shares of 0, not NaN. Tokens of a
 * sequence are summed in order.
 */
#define BALANCE_SUM_EPS 1e-20f
KERNEL(balance_loss_forward, float *loss, float *f, float *p, float *sums, const float *scores,
       const int32_t *indices, int64_t sequences, int64_t length, int experts, int top_k,
       float alpha);
/* ds_e = (f_e - sum_i f_i s_i / S) / (S T) * dloss     with S = sums[n], f of its sequence */
KERNEL(balance_loss_backward, float *dscores, int add, const float *dloss, const float *f,
       const float *sums, const float *scores, int64_t sequences, int64_t length, int experts);
/* lse [N]: logsumexp of each row; loss = beta mean(lse^2) */
KERNEL(balance_z_forward, float *loss, float *lse, const float *logits, int64_t tokens, int experts,
       float beta);
/* dz_e = 2 beta / N lse softmax(z)_e dloss */
KERNEL(balance_z_backward, float *dlogits, int add, const float *dloss, const float *lse,
       const float *logits, int64_t tokens, int experts, float beta);
/* importance [E]: sums over slots in order */
KERNEL(balance_importance_forward, float *importance, const float *weights, const int32_t *indices,
       int64_t slots, int experts);
KERNEL(balance_importance_backward, float *dweights, int add, const float *dimportance,
       const int32_t *indices, int64_t slots);
KERNEL(balance_variation_forward, float *loss, const float *v, int experts, float alpha);
/* With m = mean, q = mean of squares, L = alpha (q / m^2 - 1):
 *     dL/dv_e = alpha 2 / (E m^2) (v_e - q / m) */
KERNEL(balance_variation_backward, float *dv, int add, const float *dloss, const float *v,
       int experts, float alpha);
KERNEL(balance_count, int32_t *load, const int32_t *counts, int experts);
KERNEL(balance_update_bias, float *bias, int32_t *load, int experts, float gamma);

__END_DECLS
#endif
