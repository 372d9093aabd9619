/*
 * The policy loss on the CPU, which is also its definition: a completion at a time, in two walks
 * along its actions. The first finds what belongs to the completion as a whole, its length and how
 * far the policy has moved from the one that drew it; the second makes the tokens' terms. With one
 * ratio for all tokens, each token's gradient has the share that came through it from all of them.
 */
#include "09_grpo/loss/policy_rows.h"

/* A completion's numbers: one line of each array [tokens]. */
typedef struct Line {
    const float *logp, *old, *reference, *sampler;
    const int32_t *targets;
    float advantage, weight;
} Line;

static bool is_action(const Line *l, int64_t t) { return l->targets[t] != IGNORE_TARGET; }

/* log pi - log pi_old; 0 without an old policy */
static float log_ratio(const Line *l, int64_t t) { return l->old ? l->logp[t] - l->old[t] : 0; }

static float gap(const Line *l, int64_t t) {
    return (l->sampler ? l->sampler : l->old ? l->old : l->logp)[t] - l->logp[t];
}

static double one_completion(const PolicyShape *s, const Line *l, float *dlogp, double *stats) {
    const PolicyLossConfig *c = &s->cfg;
    double length = 0, moved = 0, left_behind = 0, loss = 0, through = 0;
    for (int64_t t = 0; t < s->tokens; t++) {
        if (!is_action(l, t)) continue;
        length++, moved += log_ratio(l, t), left_behind += gap(l, t);
    }
    if (length == 0) return 0;
    bool dropped = policy_drops(c, l->advantage, (float)left_behind, (float)length);
    double unit = c->sequence_level ? 1 / length : 1; /* of a clipped token, in the statistics */
    stats[POLICY_DROPPED] += dropped;
    stats[POLICY_ACTIONS] += length, stats[POLICY_CLIP_UNITS] += unit * length;
    for (int64_t t = 0; t < s->tokens; t++) {
        if (!is_action(l, t)) continue;
        float r = policy_ratio(c->sequence_level ? (float)(moved / length) : log_ratio(l, t));
        PolicyTerm term = policy_term(c, r, l->advantage, l->logp[t]);
        if (dropped) term = (PolicyTerm){0, 0, 0};
        if (c->beta != 0) {
            PolicyTerm kl = policy_kl(l->reference[t] - l->logp[t], r, c->use_bias_correction_kl);
            term.value += c->beta * kl.value;
            term.direct += c->beta * kl.direct, term.through += c->beta * kl.through;
            stats[POLICY_KL] += kl.value;
        }
        loss += l->weight * term.value;
        through += l->weight * term.through;
        dlogp[t] = l->weight * (term.direct + (c->sequence_level ? 0 : term.through));

        int side = policy_side(c, r, l->advantage);
        stats[POLICY_LOW] += side < 0 ? unit : 0, stats[POLICY_HIGH] += side > 0 ? unit : 0;
        stats[POLICY_RATIO] += r;
        float off = l->sampler ? fabsf(l->sampler[t] - (l->old ? l->old : l->logp)[t]) : 0;
        stats[POLICY_GAP] += off;
        if (!(off <= stats[POLICY_GAP_LARGEST])) stats[POLICY_GAP_LARGEST] = off;
    }
    for (int64_t t = 0; c->sequence_level && t < s->tokens; t++)
        if (is_action(l, t)) dlogp[t] += (float)(through / length);
    return loss;
}

void policy_loss_cpu(float *loss, float *stats, float *dlogp, float *scratch, const float *logp,
                     const float *old, const float *reference, const float *sampler,
                     const float *advantages, const int32_t *targets, PolicyShape s) {
    (void)scratch;
    int64_t actions = 0;
    double total = 0, sums[POLICY_STATS] = {0};
    for (int64_t i = 0; i < s.batch * s.tokens; i++) {
        actions += targets[i] != IGNORE_TARGET;
        dlogp[i] = 0;
    }
    for (int64_t b = 0; b < s.batch; b++) {
        int64_t at = b * s.tokens, length = 0;
        for (int64_t t = 0; t < s.tokens; t++) length += targets[at + t] != IGNORE_TARGET;
        Line line = {logp + at,
                     old ? old + at : NULL,
                     reference ? reference + at : NULL,
                     sampler ? sampler + at : NULL,
                     targets + at,
                     advantages[b],
                     policy_weight(&s, (float)length, (float)actions)};
        total += one_completion(&s, &line, dlogp + at, sums);
    }
    *loss = (float)total;
    for (int i = 0; i < POLICY_STATS; i++) stats[i] = (float)sums[i];
}
