/*
 * The MoE layer: wiring. Every operation called here records its own backward function.
 */
#include "05_moe/moe.h"

#include "05_moe/experts.h"
#include "common/comm/comm.h"

#include <math.h>

MoeConfig moe_config(int hidden_size, int inner, int experts, int experts_per_tok) {
    bool norm = experts_per_tok > 1 || experts == 1; /* s / s teaches a router nothing */
    return (MoeConfig){.router = {.hidden_size = hidden_size,
                                  .n_routed_experts = experts,
                                  .num_experts_per_tok = experts_per_tok,
                                  .scoring_func = SCORING_SIGMOID,
                                  .topk_method = TOPK_NOAUX_TC,
                                  .n_group = 1,
                                  .topk_group = 1,
                                  .norm_topk_prob = norm,
                                  .routed_scaling_factor = 1,
                                  .gate_kind = GATE_LINEAR,
                                  .temperature = 1},
                       .moe_intermediate_size = inner};
}

static int check_coefficient(const char *name, float value, Error *err) {
    if (value >= 0 && isfinite(value)) return 0;
    return error_set(err, "%s is %g; it must be 0 (off) or positive, and finite", name, value);
}

int moe_check(const MoeConfig *cfg, Error *err) {
    if (router_check(&cfg->router, err)) return -1;
    if (cfg->moe_intermediate_size < 1)
        return error_set(err, "moe_intermediate_size is %d; it must be at least 1",
                         cfg->moe_intermediate_size);
    if (cfg->n_shared_experts < 0)
        return error_set(err, "n_shared_experts is %d; it must be 0 or more",
                         cfg->n_shared_experts);
    if ((int64_t)cfg->n_shared_experts * cfg->moe_intermediate_size > INT32_MAX)
        return error_set(err,
                         "n_shared_experts (%d) of moe_intermediate_size (%d) are wider together "
                         "than can be counted (%d)",
                         cfg->n_shared_experts, cfg->moe_intermediate_size, INT32_MAX);
    return check_coefficient("capacity_factor", cfg->capacity_factor, err);
}

int moe_losses_check(const MoeLosses *losses, const MoeConfig *cfg, Error *err) {
    if (check_coefficient("aux_loss_alpha", losses->aux_loss_alpha, err) ||
        check_coefficient("router_z_loss_coef", losses->router_z_loss_coef, err) ||
        check_coefficient("importance_loss_coef", losses->importance_loss_coef, err) ||
        check_coefficient("load_loss_coef", losses->load_loss_coef, err))
        return -1;
    if (losses->load_loss_coef > 0 && cfg->router.gate_kind != GATE_NOISY)
        return error_set(err,
                         "load_loss_coef is %g, but only the noisy gate has a load that can "
                         "be differentiated; use aux_loss_alpha, or gate noisy",
                         losses->load_loss_coef);
    return 0;
}

int moe_check_tokens(const MoeConfig *cfg, int64_t tokens, Error *err) {
    int k = cfg->router.num_experts_per_tok;
    if (tokens < 1) return error_set(err, "there are no tokens: a layer of experts needs one");
    if (tokens > (INT32_MAX - 1) / k)
        return error_set(err,
                         "%lld tokens with %d experts each are more than can be counted (%d); "
                         "use a smaller batch",
                         (long long)tokens, k, INT32_MAX - 1);
    return 0;
}

Moe moe_init(Params *params, const char *prefix, const MoeConfig *cfg) {
    Error err = {0};
    CHECK(moe_check(cfg, &err) == 0, "moe_init %s: %s", prefix, err.text);
    int hidden = cfg->router.hidden_size, inner = cfg->moe_intermediate_size;
    int experts = cfg->router.n_routed_experts;
    Moe w = {.router = router_init(params, params_name(prefix, "gate").text, &cfg->router)};
    int here = experts_here(params->ctx, experts);
    w.gate_proj =
        params_new(params, prefix, "experts.gate_proj.weight", SHAPE(here, inner, hidden));
    w.up_proj = params_new(params, prefix, "experts.up_proj.weight", SHAPE(here, inner, hidden));
    w.down_proj =
        params_new(params, prefix, "experts.down_proj.weight", SHAPE(here, hidden, inner));
    Tensor *const spread[] = {w.gate_proj, w.up_proj, w.down_proj};
    for (int i = 0; i < 3; i++) params_group(params, spread[i])->spread = here < experts;
    if (cfg->n_shared_experts)
        w.shared = mlp_init(params, params_name(prefix, "shared_experts").text, hidden,
                            cfg->n_shared_experts * inner);
    w.load = params_buffer(params, prefix, "load", I32, SHAPE(experts));
    return w;
}

void moe_randomize(Params *params, const Moe *w, float std, float out_std) {
    router_randomize(params, &w->router, std);
    params_normal(params, w->gate_proj, std);
    params_normal(params, w->up_proj, std);
    params_normal(params, w->down_proj, out_std);
    if (w->shared.gate_proj) mlp_randomize(params, &w->shared, std, out_std);
}

/* The sum of two losses, of which either may be missing. */
static Tensor *join(Context *ctx, Tensor *a, Tensor *b) {
    if (!a || !b) return a ? a : b;
    return add(ctx, a, b);
}

/* All losses that the step asks for; NULL if it asks for none. B: sequences. */
static Tensor *auxiliary_losses(Context *ctx, const Routing *r, const MoeLosses *ask, int experts,
                                int64_t B) {
    Tensor *loss = NULL;
    if (ask->aux_loss_alpha > 0)
        loss = balance_loss(ctx, r->scores, r->indices, ask->seq_aux ? B : 1, ask->aux_loss_alpha);
    if (ask->router_z_loss_coef > 0)
        loss = join(ctx, loss, balance_z_loss(ctx, r->logits, ask->router_z_loss_coef));
    if (ask->importance_loss_coef > 0) {
        Tensor *importance = balance_importance(ctx, r->weights, r->indices, experts);
        loss = join(ctx, loss, balance_variation(ctx, importance, ask->importance_loss_coef));
    }
    if (ask->load_loss_coef > 0)
        loss = join(ctx, loss, balance_variation(ctx, r->load, ask->load_loss_coef));
    return loss;
}

/* [moe_forward] */
Tensor *moe_forward_replayed(Context *ctx, Tensor *x, const Moe *w, const MoeConfig *cfg,
                             const Tensor *replay, const MoeLosses *losses, MoeRecord *record,
                             Residual to) {
    if (to.dropout > 0) /* of the whole sum, which must be there first */
        return residual(
            ctx, moe_forward_replayed(ctx, x, w, cfg, replay, losses, record, (Residual){0}), to);
    Error err = {0};
    int64_t B = tensor_dim(x, 0), T = tensor_dim(x, 1), hidden = cfg->router.hidden_size;
    check_shape("moe_forward", x, ctx->dtype, SHAPE(B, T, hidden));
    CHECK(moe_check_tokens(cfg, B * T, &err) == 0, "moe_forward: %s", err.text);
    int experts = cfg->router.n_routed_experts, k = cfg->router.num_experts_per_tok;
    int64_t capacity = dispatch_capacity(cfg->capacity_factor, B * T, k, experts);

    x = reshape(ctx, x, SHAPE(B * T, hidden)); /* N = B T tokens */
    if (to.x) to.x = reshape(ctx, to.x, SHAPE(B * T, hidden));
    Routing routing = router_forward(ctx, x, &w->router, &cfg->router);
    if (replay) router_replay(ctx, &routing, replay, &cfg->router);
    Dispatch plan = dispatch_plan(ctx, routing.indices, experts, capacity);

    Tensor *rows = dispatch_permute(ctx, x, &plan); /* [N K, hidden]: expert 0's tokens, 1's, ... */
    rows = experts_forward(ctx, rows, w, &plan);
    if (w->shared.gate_proj) to.x = mlp_forward(ctx, x, &w->shared, to);
    Tensor *y = dispatch_combine(ctx, to.x, rows, routing.weights, &plan); /* + sum_j w_j E_j(x) */

    if (ctx->recording) balance_count(ctx, w->load, plan.counts);
    if (record) *record = (MoeRecord){.routing = routing, .dispatch = plan};
    if (record && losses && ctx->recording && !replay)
        record->loss = auxiliary_losses(ctx, &routing, losses, experts, B);
    return reshape(ctx, y, SHAPE(B, T, hidden));
}
/* [/moe_forward] */

Tensor *moe_forward(Context *ctx, Tensor *x, const Moe *w, const MoeConfig *cfg,
                    const MoeLosses *losses, MoeRecord *record, Residual to) {
    return moe_forward_replayed(ctx, x, w, cfg, NULL, losses, record, to);
}

void moe_share_load(Context *ctx, const Moe *w) {
    comm_all_reduce(ctx->comm, w->load->data, tensor_count(w->load), I32, COMM_SUM);
}

void moe_rebalance(Context *ctx, const Moe *w, float gamma) {
    balance_update_bias(ctx, w->router.bias, w->load, gamma);
}

/* Router, shared experts, and as many of the routed ones. */
static int64_t parameters(const MoeConfig *cfg, int64_t routed) {
    int64_t hidden = cfg->router.hidden_size, experts = cfg->router.n_routed_experts;
    int64_t expert = 3 * hidden * cfg->moe_intermediate_size; /* gate, up and down */
    int64_t gates = cfg->router.gate_kind == GATE_NOISY ? 2 : 1;
    return gates * experts * hidden + (cfg->n_shared_experts + routed) * expert;
}

int64_t moe_parameters(const MoeConfig *cfg) {
    return parameters(cfg, cfg->router.n_routed_experts);
}

int64_t moe_active_parameters(const MoeConfig *cfg) {
    return parameters(cfg, cfg->router.num_experts_per_tok);
}
