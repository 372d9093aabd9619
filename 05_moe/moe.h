/*
 * Mixture of experts, MoE: many feed-forward layers, of which each token uses a few.
 *
 *     s   = router(x)                                     which experts, and their weights w_j
 *     y   = sum over the chosen experts of w_j E_j(x)  +  shared(x)
 *     E_e = W_down,e (silu(W_gate,e x) * W_up,e x)       (DeepSeekMoE: Dai et al. 2024, eq. 3-11)
 *
 * Experts are fine-grained: many and narrow, rather than few and wide; a token chooses more of
 * them, and can combine them in more ways, for the same work. The shared experts see every token;
 * they are one SwiGLU of n_shared_experts times the width.
 *
 * All of it is matrices: the tokens are sorted by expert (dispatch.h), every expert multiplies its
 * own, here or on another rank (experts.h, grouped.h), and the results come back weighted. The work
 * is that of num_experts_per_tok experts a token, however many there are.
 */
#ifndef MOE_H
#define MOE_H

#include "05_moe/balance.h"
#include "05_moe/dispatch.h"
#include "05_moe/mlp.h"
#include "05_moe/router.h"

__BEGIN_DECLS

/* Names of Hugging Face's config.json where they exist. */
typedef struct MoeConfig {
    /* hidden_size, n_routed_experts, num_experts_per_tok and how they are chosen */
    RouterConfig router;
    int moe_intermediate_size; /* inner width of one expert */
    int n_shared_experts;      /* 0: none */
    float capacity_factor;     /* 0: no token is ever dropped */
} MoeConfig;

/*
 * What a step of training adds to its loss: not the layer's business, but that of who trains it.
 * Coefficients; 0 leaves a loss out.
 */
typedef struct MoeLosses {
    float aux_loss_alpha; /* of balance_loss() ... */
    bool seq_aux;         /* ... for each sequence (DeepSeek), or over the batch (Switch) */
    float router_z_loss_coef;
    float importance_loss_coef, load_loss_coef; /* Shazeer's two; load needs the noisy gate */
} MoeLosses;

/* DeepSeek-V3's way in every switch (sigmoid, noaux_tc, norm_topk_prob), one group, scaling 1, no
 * shared experts; sizes as given. If a token takes one expert of several, its weight is not divided
 * by itself: router_training_check() says why. */
MoeConfig moe_config(int hidden_size, int inner, int experts, int experts_per_tok);

/* 0, or -1 and a message that names the setting that is wrong, its value and what it may be. */
int moe_check(const MoeConfig *cfg, Error *err);
int moe_losses_check(const MoeLosses *losses, const MoeConfig *cfg, Error *err);

/* Can this layer take `tokens` tokens? -1 and a message for none, or for more than indices
 * count. */
int moe_check_tokens(const MoeConfig *cfg, int64_t tokens, Error *err);

typedef struct Moe {
    Router router;
    /* [E, inner, hidden]: all experts in one tensor; of experts that are spread (experts.h), those
     * that are here */
    Tensor *gate_proj, *up_proj;
    Tensor *down_proj; /* [E, hidden, inner] */
    Mlp shared;        /* inner width n_shared * inner; NULLs when there are none */
    /* I32 [E]: choices counted since the last moe_rebalance(), while recording. A buffer */
    Tensor *load;
} Moe;

/*
 * Registers PREFIX.gate.weight, PREFIX.gate.e_score_correction_bias,
 * PREFIX.experts.gate_proj.weight, PREFIX.shared_experts.gate_proj.weight and so on; Hugging Face's
 * prefix of layer 3 is "model.layers.3.mlp". (Files name each expert apart,
 * PREFIX.experts.17.gate_proj.weight, or keep gate and up as one; that is the business of the code
 * that reads and writes them.) cfg must have passed moe_check.
 */
Moe moe_init(Params *params, const char *prefix, const MoeConfig *cfg);

/* Normal(0, std); down_proj Normal(0, out_std), for it writes into the residual stream. */
void moe_randomize(Params *params, const Moe *w, float std, float out_std);

/* What one forward pass decided, for measures and logs. It lives until context_reset(). */
typedef struct MoeRecord {
    Routing routing;
    Dispatch dispatch;
    /* F32 [1]: all auxiliary losses of this layer, to be added to the main loss; NULL if there are
     * none, or not recording */
    Tensor *loss;
} MoeRecord;

/*
 * x [B, T, hidden_size] -> the same shape, B T >= 1, added to `to` (ops.h); {0}: to nothing.
 * losses may be NULL: none. record may be NULL; then the losses are not computed.
 */
Tensor *moe_forward(Context *ctx, Tensor *x, const Moe *w, const MoeConfig *cfg,
                    const MoeLosses *losses, MoeRecord *record, Residual to);

/* The same with another choice in the place of the router's (router_replay); NULL: its own. With
 * one there are no losses, for those are about what the router chose. */
Tensor *moe_forward_replayed(Context *ctx, Tensor *x, const Moe *w, const MoeConfig *cfg,
                             const Tensor *replay, const MoeLosses *losses, MoeRecord *record,
                             Residual to);

/* Where several ranks have counted, before moe_rebalance(): the load becomes that of all. */
void moe_share_load(Context *ctx, const Moe *w);

/*
 * After the optimizer's step: bias += gamma * sign(mean load - load), and counting begins anew. A
 * router without bias only begins anew.
 */
void moe_rebalance(Context *ctx, const Moe *w, float gamma);

/* What a layer holds, and what one token multiplies with: the weights of the router, the shared
 * experts, and num_experts_per_tok (active) or all (total) routed experts. */
int64_t moe_parameters(const MoeConfig *cfg);
int64_t moe_active_parameters(const MoeConfig *cfg);

__END_DECLS
#endif
