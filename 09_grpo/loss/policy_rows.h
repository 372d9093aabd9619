/*
 * What both devices' kernels of the policy loss have in common: a token's weight, its term by the
 * type of the loss, and on which side it was clipped.
 */
#ifndef POLICY_ROWS_H
#define POLICY_ROWS_H

#include "09_grpo/loss/policy_loss.h"
#include "09_grpo/loss/policy_terms.h"

/* [policy_weight] */
/* What each action of a completion of `length` counts, in a micro-batch of `actions`. */
POLICY_FUNCTION float policy_weight(const PolicyShape *s, float length, float actions) {
    float some = actions > 1 ? actions : 1, completions = (float)s->completions;
    switch (s->cfg.loss_type) {
    case LOSS_GRPO:
    case LOSS_SAPO:
        return 1 / ((length > 1 ? length : 1) * completions);
    case LOSS_DR_GRPO:
        return 1 / (completions * (float)s->cfg.max_completion_length);
    case LOSS_DAPO:
    case LOSS_CISPO:
        return 1 / (float)(s->actions > 1 ? s->actions : 1);
    case LOSS_BNPO:
    case LOSS_PPO:
    case LOSS_REINFORCE:
        break;
    }
    return 1 / (some * (float)s->micro_batches);
}
/* [/policy_weight] */

POLICY_FUNCTION PolicyTerm policy_term(const PolicyLossConfig *c, float r, float a, float logp) {
    switch (c->loss_type) {
    case LOSS_CISPO:
        return policy_cispo(r, a, logp, c->epsilon_high);
    case LOSS_SAPO:
        return policy_sapo(r, a, a > 0 ? c->sapo_temperature_pos : c->sapo_temperature_neg);
    case LOSS_REINFORCE:
        return policy_reinforce(a, logp);
    case LOSS_PPO:
        return policy_clipped(r, a, c->epsilon, c->epsilon, c->delta);
    case LOSS_GRPO:
    case LOSS_DR_GRPO:
    case LOSS_BNPO:
    case LOSS_DAPO:
        break;
    }
    return policy_clipped(r, a, c->epsilon, c->epsilon_high, c->delta);
}

/* -1: clipped below, 1: above, 0: neither. */
POLICY_FUNCTION int policy_side(const PolicyLossConfig *c, float r, float a) {
    if (c->loss_type == LOSS_SAPO || c->loss_type == LOSS_REINFORCE) return 0;
    if (c->loss_type == LOSS_CISPO) return r > c->epsilon_high && a > 0 ? 1 : 0;
    float high = c->loss_type == LOSS_PPO ? c->epsilon : c->epsilon_high;
    return r < 1 - c->epsilon && a < 0 ? -1 : r > 1 + high && a > 0 ? 1 : 0;
}

/* V3.2's mask: has the policy left a completion behind that it should avoid? gap: the sum of
 * log pi_old - log pi over its actions. */
POLICY_FUNCTION bool policy_drops(const PolicyLossConfig *c, float a, float gap, float length) {
    return c->off_policy_mask_threshold > 0 && a < 0 &&
           gap > c->off_policy_mask_threshold * (length > 1 ? length : 1);
}

#endif
