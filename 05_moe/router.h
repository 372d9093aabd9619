/*
 * The router: which experts see a token, and how much each of them counts.
 *
 * All routers are one function with settings:
 *
 *     z = gate(x)                                 [N, E], F32: linear, noisy or centroid (gate.h)
 *     s = softmax(z) or sigmoid(z)                       the scores
 *     c = s + bias                                       for choosing only (V3); without bias c = s
 *     groups: a group's score is the sum of its best group_best values of c; the topk_group best
 *             groups stay, the experts of the others cannot be chosen
 *     chosen = the num_experts_per_tok experts with the largest c
 *     w_j = s_j of the chosen (never c), divided by their sum if norm_topk_prob, times
 *           routed_scaling_factor
 *
 *     Switch (Fedus et al. 2021)   softmax, greedy, k = 1
 *     noisy top-k (Shazeer 2017)   noisy gate, softmax, greedy, norm_topk_prob: a softmax over the
 *                                  chosen only is the softmax over all, divided by their sum
 *     DeepSeek-V2                  softmax, group_limited_greedy: a group's best counts
 *     DeepSeek-V3                  sigmoid, noaux_tc: bias; the two best of a group count together
 *     centroid (X-MoE)             cosine gate, softmax or sigmoid
 *
 * Of two equal values the one with the lower index wins. Gradients flow through the weights (and
 * through the scores, for the losses of balance.h); choosing has none, and neither has the bias.
 *
 * A token whose scores hold a NaN still gets k different experts, so that no index is ever out of
 * range, and its weights are NaN, so that the loss is. The lowest such token,
 * of all calls since it was last asked for, is kept in Router.status for router_healthy().
 */
#ifndef ROUTER_H
#define ROUTER_H

#include "common/core/context.h"
#include "common/core/params.h"

__BEGIN_DECLS

typedef enum GateKind { GATE_LINEAR, GATE_NOISY, GATE_CENTROID } GateKind;
typedef enum ScoringFunc { SCORING_SOFTMAX, SCORING_SIGMOID } ScoringFunc;
typedef enum TopkMethod { TOPK_GREEDY, TOPK_GROUP_LIMITED_GREEDY, TOPK_NOAUX_TC } TopkMethod;

/* The names of Hugging Face's config.json; `gate` and `temperature` are ours. */
typedef struct RouterConfig {
    int hidden_size;
    int n_routed_experts;    /* E */
    int num_experts_per_tok; /* K */
    ScoringFunc scoring_func;
    TopkMethod topk_method; /* greedy does not look at the groups */
    int n_group, topk_group;
    bool norm_topk_prob;
    float routed_scaling_factor;
    GateKind gate_kind;
    float temperature; /* of the centroid gate */
} RouterConfig;

enum { ROUTER_MAX_EXPERTS = 512 };

/* 0, or -1 and a message that names the number that is wrong, its value and what it may be. */
int router_check(const RouterConfig *cfg, Error *err);

/*
 * Can such a router learn? Not if it takes one expert and divides its score by the sum of the
 * chosen: then the weight is s / s = 1 whatever s is, and the language model's loss has no gradient
 * with respect to it (only a balance loss has, and that wants all experts alike). Shazeer et al.
 * 2017 ask for k > 1 for this reason; Switch keeps k = 1 and does not divide. To compute with such
 * a model is no mistake.
 */
int router_training_check(const RouterConfig *cfg, Error *err);

/* The names of the settings, in the order of their enums and ended by NULL: Hugging Face's
 * "softmax", "sigmoid"; "greedy", "group_limited_greedy", "noaux_tc"; ours "linear", "noisy",
 * "centroid". */
extern const char *const router_scoring_names[], *const router_method_names[],
                                                     *const router_gate_names[];

typedef struct Router {
    Tensor *weight;       /* [E, hidden_size]: rows of the gate, or the centroids */
    Tensor *noise_weight; /* [E, hidden_size]; noisy only */
    Tensor *bias;   /* F32 [E], "e_score_correction_bias"; noaux_tc only. A buffer: no gradient,
                             no optimizer, balance_update_bias() alone changes it */
    Tensor *status; /* I32 [1]: 0, or INT32_MAX - the first token with a NaN */
} Router;

/* Registers PREFIX.weight and so on; Hugging Face's prefix is "model.layers.3.mlp.gate". */
Router router_init(Params *params, const char *prefix, const RouterConfig *cfg);

/* weight Normal(0, std); noise_weight zero, which is noise of softplus(0) = 0.69; bias zero */
void router_randomize(Params *params, const Router *w, float std);

/* What the router said of N tokens. */
typedef struct Routing {
    Tensor *logits;  /* F32 [N, E], on the tape */
    Tensor *scores;  /* F32 [N, E], on the tape */
    Tensor *indices; /* I32 [N, K], the best first */
    Tensor *weights; /* F32 [N, K], on the tape */
    Tensor *load;    /* F32 [E], on the tape: gate_noisy_load(); NULL unless noisy and recording */
} Routing;

/*
 * x [N, hidden_size], N >= 1. Noise is drawn only while ctx records, in training.
 */
Routing router_forward(Context *ctx, Tensor *x, const Router *w, const RouterConfig *cfg);

/* The same from logits F32 [N, E] that are there already: scores, choice, weights. bias may be
 * NULL. */
Routing router_choose(Context *ctx, Tensor *logits, const Tensor *bias, const Tensor *status,
                      const RouterConfig *cfg);

/*
 * Another choice in the place of the router's: replay I32 [N, K]. A token's experts become those of
 * its row, with the weights that its scores give them; with ROUTE_FREE there they stay as they are,
 * and with ROUTE_NOBODY it goes to no expert, weighs 0 and is counted nowhere (padding). Gradients
 * flow as before, to the scores of the experts that have come in.
 */
enum { ROUTE_NOBODY = -1, ROUTE_FREE = -2 }; /* in all K places */
void router_replay(Context *ctx, const Routing *routing, const Tensor *replay,
                   const RouterConfig *cfg);

/* 0, or -1 and which token of which layer had a NaN among its scores since the last call. Waits for
 * the device: ask when the loss is not finite, not in every step. */
int router_healthy(Context *ctx, const Router *w, Error *err);

/* ---- kernels ---- */

/* What a kernel needs of the config. */
typedef struct RouteShape {
    int64_t tokens;
    int experts, top_k;
    int groups, topk_groups; /* 1, 1: no groups */
    int group_best; /* how many of a group's values its score is the sum of: 1 (V2), 2 (V3) */
    int sigmoid;    /* else softmax */
    int norm;       /* norm_topk_prob: divide by (sum + 1e-20) */
    float scale;    /* routed_scaling_factor */
} RouteShape;

RouteShape route_shape(const RouterConfig *cfg, int64_t tokens);

/*
 * logits [N, E] -> scores [N, E], indices [N, K], weights [N, K], one token at a time and all in
 * one kernel. bias [E] or NULL. *status = max(*status, INT32_MAX - n) for each token n with a NaN
 * logit (or logits that make NaN scores: +inf, or all -inf); status may be NULL.
 */
KERNEL(route_forward, float *scores, int32_t *indices, float *weights, int32_t *status,
       const float *logits, const float *bias, RouteShape shape);
/* indices, weights [N, K] by replay [N, K]; a choice that is the same already stays to the bit. */
KERNEL(route_replay, int32_t *indices, float *weights, const int32_t *replay, const float *scores,
       RouteShape shape);
/*
 * The weights' derivative. dscores [N, E] = or += dweights [N, K] through gather, division and
 * scaling; overwriting also clears those not chosen. A token that goes to nobody has none.
 *     norm:  w_j = c s_j / S,  S = sum_i s_i:   ds_j = (c dw_j - sum_i dw_i w_i) / S
 *     else:  ds_j = c dw_j
 */
KERNEL(route_weights_backward, float *dscores, int add, const float *dweights, const float *weights,
       const float *scores, const int32_t *indices, RouteShape shape);
/* The scores' derivative: softmax dz = s (ds - sum_i ds_i s_i), sigmoid dz = ds s (1 - s). */
KERNEL(route_scores_backward, float *dlogits, int add, const float *dscores, const float *scores,
       RouteShape shape);

__END_DECLS
#endif
