/*
 * The router on the tape, and what its settings may be. Scores and weights are two nodes, because
 * both have readers: the losses of balance.h and combine. Choosing has no gradient, so it stands
 * between them and leaves only indices.
 */
#include "05_moe/router.h"

#include "05_moe/gate.h"

#include <math.h>

/* ---- settings ---- */

const char *const router_scoring_names[] = {"softmax", "sigmoid", NULL};
const char *const router_method_names[] = {"greedy", "group_limited_greedy", "noaux_tc", NULL};
const char *const router_gate_names[] = {"linear", "noisy", "centroid", NULL};

static int check_groups(const RouterConfig *cfg, Error *err) {
    int experts = cfg->n_routed_experts, groups = cfg->n_group, kept = cfg->topk_group;
    if (groups < 1) return error_set(err, "n_group is %d; it must be at least 1", groups);
    if (experts % groups != 0)
        return error_set(err,
                         "n_group (%d) does not divide n_routed_experts (%d): all groups have the "
                         "same number of experts",
                         groups, experts);
    if (kept < 1 || kept > groups)
        return error_set(err, "topk_group is %d; it must be between 1 and n_group (%d)", kept,
                         groups);
    if (kept * (experts / groups) < cfg->num_experts_per_tok)
        return error_set(err,
                         "topk_group (%d) groups of %d experts hold %d, fewer than "
                         "num_experts_per_tok (%d)",
                         kept, experts / groups, kept * (experts / groups),
                         cfg->num_experts_per_tok);
    return 0;
}

int router_check(const RouterConfig *cfg, Error *err) {
    int experts = cfg->n_routed_experts, k = cfg->num_experts_per_tok;
    if (cfg->hidden_size < 1)
        return error_set(err, "hidden_size is %d; it must be at least 1", cfg->hidden_size);
    if (experts < 1 || experts > ROUTER_MAX_EXPERTS)
        return error_set(err, "n_routed_experts is %d; it must be between 1 and %d", experts,
                         ROUTER_MAX_EXPERTS);
    if (k < 1 || k > experts)
        return error_set(err,
                         "num_experts_per_tok is %d; it must be between 1 and n_routed_experts "
                         "(%d): a token takes an expert once",
                         k, experts);
    if (cfg->topk_method != TOPK_GREEDY && check_groups(cfg, err)) return -1;
    if (!(cfg->routed_scaling_factor > 0 && isfinite(cfg->routed_scaling_factor)))
        return error_set(err, "routed_scaling_factor is %g; it must be positive and finite",
                         cfg->routed_scaling_factor);
    if (cfg->gate_kind == GATE_CENTROID && !(cfg->temperature > 0 && isfinite(cfg->temperature)))
        return error_set(err, "temperature is %g; it must be positive and finite",
                         cfg->temperature);
    return 0;
}

int router_training_check(const RouterConfig *cfg, Error *err) {
    if (!cfg->norm_topk_prob || cfg->num_experts_per_tok != 1 || cfg->n_routed_experts == 1)
        return 0;
    return error_set(err,
                     "num_experts_per_tok is 1 and norm_topk_prob is true: the one weight is s / s "
                     "= 1 whatever the score, so the router cannot learn; set norm_topk_prob to "
                     "false, or take more experts");
}

/* ---- weights ---- */

Router router_init(Params *params, const char *prefix, const RouterConfig *cfg) {
    Error err = {0};
    CHECK(router_check(cfg, &err) == 0, "router_init %s: %s", prefix, err.text);
    int64_t experts = cfg->n_routed_experts, hidden = cfg->hidden_size;
    Router w = {0};
    w.weight = params_new(params, prefix, "weight", SHAPE(experts, hidden));
    if (cfg->gate_kind == GATE_NOISY)
        w.noise_weight = params_new(params, prefix, "noise_weight", SHAPE(experts, hidden));
    if (cfg->topk_method == TOPK_NOAUX_TC)
        w.bias = params_buffer(params, prefix, "e_score_correction_bias", F32, SHAPE(experts));
    w.status = params_buffer(params, prefix, "status", I32, SHAPE(1));
    return w;
}

void router_randomize(Params *params, const Router *w, float std) {
    params_normal(params, w->weight, std);
    if (w->noise_weight) params_fill(params, w->noise_weight, 0);
    if (w->bias) params_fill(params, w->bias, 0);
}

int router_healthy(Context *ctx, const Router *w, Error *err) {
    int32_t status, fine = 0;
    tensor_download_ints(ctx, &status, w->status);
    device_put(ctx->gpu, w->status->data, &fine, sizeof fine);
    if (!status) return 0;
    return error_set(err,
                     "%s: token %d has a NaN among its scores; a weight or an activation before "
                     "the router is not finite (is the learning rate too high?)",
                     w->weight->name, INT32_MAX - status);
}

/* ---- choosing ---- */

RouteShape route_shape(const RouterConfig *cfg, int64_t tokens) {
    bool grouped = cfg->topk_method != TOPK_GREEDY;
    return (RouteShape){.tokens = tokens,
                        .experts = cfg->n_routed_experts,
                        .top_k = cfg->num_experts_per_tok,
                        .groups = grouped ? cfg->n_group : 1,
                        .topk_groups = grouped ? cfg->topk_group : 1,
                        .group_best = cfg->topk_method == TOPK_NOAUX_TC ? 2 : 1,
                        .sigmoid = cfg->scoring_func == SCORING_SIGMOID,
                        .norm = cfg->norm_topk_prob,
                        .scale = cfg->routed_scaling_factor};
}

/* The scores and the weights are two nodes, because both have readers: the losses of balance.h read
 * the scores. Backward runs the weights' first, then everything has reached the scores. */
typedef struct RouteSaved {
    Tensor *logits, *scores, *indices, *weights;
    RouteShape shape;
} RouteSaved;

static void route_weights_backward(Context *ctx, void *saved) {
    RouteSaved *s = saved;
    int add;
    float *dscores = grad_slot(ctx, s->scores, &add);
    if (dscores)
        ON(ctx, route_weights_backward, dscores, add, s->weights->grad->data, s->weights->data,
           s->scores->data, s->indices->data, s->shape);
}

static void route_scores_backward(Context *ctx, void *saved) {
    RouteSaved *s = saved;
    int add;
    float *dlogits = grad_slot(ctx, s->logits, &add);
    if (dlogits)
        ON(ctx, route_scores_backward, dlogits, add, s->scores->grad->data, s->scores->data,
           s->shape);
}

Routing router_choose(Context *ctx, Tensor *logits, const Tensor *bias, const Tensor *status,
                      const RouterConfig *cfg) {
    int64_t tokens = logits->shape[0], experts = cfg->n_routed_experts;
    int64_t top_k = cfg->num_experts_per_tok;
    check_shape("router", logits, F32, SHAPE(-1, experts));
    if (bias) check_shape("router", bias, F32, SHAPE(experts));
    RouteShape shape = route_shape(cfg, tokens);
    Routing r = {.logits = logits,
                 .scores = tensor_new(ctx, "scores", F32, SHAPE(tokens, experts)),
                 .indices = tensor_new(ctx, "expert indices", I32, SHAPE(tokens, top_k)),
                 .weights = tensor_new(ctx, "expert weights", F32, SHAPE(tokens, top_k))};
    ON(ctx, route_forward, r.scores->data, r.indices->data, r.weights->data,
       status ? status->data : NULL, logits->data, bias ? bias->data : NULL, shape);
    RECORD(ctx, r.scores, route_scores_backward, RouteSaved, logits, r.scores, r.indices, r.weights,
           shape);
    RECORD(ctx, r.weights, route_weights_backward, RouteSaved, logits, r.scores, r.indices,
           r.weights, shape);
    return r;
}

void router_replay(Context *ctx, const Routing *r, const Tensor *replay, const RouterConfig *cfg) {
    int64_t tokens = r->logits->shape[0];
    check_shape("router_replay", replay, I32, SHAPE(tokens, cfg->num_experts_per_tok));
    ON(ctx, route_replay, r->indices->data, r->weights->data, replay->data, r->scores->data,
       route_shape(cfg, tokens));
}

Routing router_forward(Context *ctx, Tensor *x, const Router *w, const RouterConfig *cfg) {
    check_shape("router_forward", x, ctx->dtype, SHAPE(-1, cfg->hidden_size));
    CHECK(x->shape[0] > 0, "router_forward: there are no tokens");
    Tensor *logits, *clean = NULL, *raw = NULL; /* F32 [N, E] */
    if (cfg->gate_kind == GATE_CENTROID) {
        logits = gate_cosine(ctx, x, w->weight, cfg->temperature);
    } else {
        logits = gate_linear(ctx, x, w->weight);
        if (cfg->gate_kind == GATE_NOISY && ctx->recording) {
            clean = logits;
            raw = gate_linear(ctx, x, w->noise_weight);
            logits = gate_noise(ctx, clean, raw);
        }
    }
    Routing r = router_choose(ctx, logits, w->bias, w->status, cfg);
    if (raw) r.load = gate_noisy_load(ctx, clean, raw, logits, cfg->num_experts_per_tok);
    return r;
}
