/*
 * The policy loss on the tape: shapes are checked, and the kernel makes the gradient together with
 * the value, for both need the same few numbers of every token; backward multiplies it by what
 * comes from above.
 */
#include "09_grpo/loss/policy_loss.h"

#include "common/core/ops_kernels.h"

#include <math.h>

const char *const policy_loss_names[] = {"grpo", "dr_grpo", "bnpo",      "dapo", "cispo",
                                         "sapo", "ppo",     "reinforce", NULL};

PolicyLossConfig policy_loss_defaults(LossType type) {
    return (PolicyLossConfig){.loss_type = type,
                              .epsilon = 0.2f,
                              .epsilon_high = type == LOSS_CISPO ? 5.0f : 0.2f,
                              .use_bias_correction_kl = true,
                              .sapo_temperature_pos = 1,
                              .sapo_temperature_neg = 1.05f};
}

int policy_loss_check(const PolicyLossConfig *c, Error *err) {
    const struct {
        const char *name;
        float value;
        bool fine;
        const char *may_be;
    } rows[] = {
        {"epsilon", c->epsilon, c->epsilon >= 0, "0 or more"},
        {"epsilon_high", c->epsilon_high, c->epsilon_high >= 0, "0 or more"},
        {"delta", c->delta, c->delta == 0 || c->delta > 1 + c->epsilon_high,
         "0 (none) or more than 1 + epsilon_high"},
        {"beta", c->beta, c->beta >= 0, "0 (no reference) or more"},
        {"off_policy_mask_threshold", c->off_policy_mask_threshold,
         c->off_policy_mask_threshold >= 0, "0 (none) or more"},
        {"sapo_temperature_pos", c->sapo_temperature_pos, c->sapo_temperature_pos > 0,
         "more than 0"},
        {"sapo_temperature_neg", c->sapo_temperature_neg, c->sapo_temperature_neg > 0,
         "more than 0"},
        {"max_completion_length", (float)c->max_completion_length,
         c->loss_type != LOSS_DR_GRPO || c->max_completion_length > 0,
         "at least 1: dr_grpo divides by it"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!rows[i].fine || !isfinite(rows[i].value))
            return error_set(err, "%s is %g; it must be %s", rows[i].name, rows[i].value,
                             rows[i].may_be);
    return 0;
}

/* ---- the op ---- */

typedef struct PolicySaved {
    Tensor *loss, *logprobs;
    const float *dlogp;
} PolicySaved;

/* The gradient is there; spread() of a sum multiplies it by dloss. */
static void policy_loss_backward(Context *ctx, void *saved) {
    PolicySaved *s = saved;
    int add;
    void *dx = grad_slot(ctx, s->logprobs, &add);
    if (dx)
        ON_AS(ctx, F32, sum_backward, dx, add, s->loss->grad->data, s->dlogp,
              tensor_count(s->logprobs), 1);
}

static const float *optional(const Tensor *t, const Tensor *like) {
    if (!t) return NULL;
    check_shape("policy_loss", t, F32, like->shape, like->ndim);
    return t->data;
}

Tensor *policy_loss(Context *ctx, Tensor *logprobs, const PolicyBatch *b,
                    const PolicyLossConfig *cfg, Tensor **stats) {
    int64_t B = tensor_dim(logprobs, 0), T = tensor_dim(logprobs, 1);
    check_shape("policy_loss", logprobs, F32, SHAPE(-1, -1));
    check_shape("policy_loss", b->targets, I32, SHAPE(B, T));
    check_shape("policy_loss", b->advantages, F32, SHAPE(B));
    CHECK(b->reference || cfg->beta == 0, "policy_loss: beta %g needs a reference", cfg->beta);
    CHECK(b->micro_batches >= 1 && b->completions >= B,
          "policy_loss: %d micro-batches of %d completions, this one has %lld", b->micro_batches,
          b->completions, (long long)B);
    Tensor *loss = tensor_new(ctx, "policy loss", F32, SHAPE(1));
    *stats = tensor_new(ctx, "policy stats", F32, SHAPE(POLICY_STATS));
    float *dlogp = arena_alloc(&ctx->data, (size_t)(B * T) * sizeof *dlogp);
    float *scratch =
        arena_alloc(&ctx->data, (size_t)(1 + B * (1 + POLICY_STATS)) * sizeof *scratch);
    PolicyShape shape = {*cfg, B, T, b->micro_batches, b->completions, b->actions};
    ON_AS(ctx, F32, policy_loss, loss->data, (*stats)->data, dlogp, scratch, logprobs->data,
          optional(b->old, logprobs), optional(b->reference, logprobs),
          optional(b->sampler, logprobs), b->advantages->data, b->targets->data, shape);
    RECORD(ctx, loss, policy_loss_backward, PolicySaved, .loss = loss, .logprobs = logprobs,
           .dlogp = dlogp);
    return loss;
}
