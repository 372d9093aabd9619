/*
 * The step. grpo_collect() has drawn and judged; here the answers become gradients.
 */
#include "09_grpo/grpo.h"

#include "09_grpo/grpo_batch.h"
#include "09_grpo/rollout/share.h"
#include "common/core/cpu_matmul.h"
#include "common/program/progress.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

#define COLUMN(name, field) \
    { name, offsetof(GrpoReport, field) }
const GrpoColumn grpo_columns[] = {
    COLUMN("loss", loss),
    COLUMN("grad_norm", grad_norm),
    COLUMN("reward", reward),
    COLUMN("reward_std", reward_std),
    COLUMN("frac_reward_zero_std", frac_reward_zero_std),
    COLUMN("entropy", entropy),
    COLUMN("kl", kl),
    COLUMN("completions/mean_length", mean_length),
    COLUMN("completions/min_length", min_length),
    COLUMN("completions/max_length", max_length),
    COLUMN("completions/clipped_ratio", clipped_ratio),
    COLUMN("clip_ratio/low_mean", clip_low),
    COLUMN("clip_ratio/high_mean", clip_high),
    COLUMN("sampling/sampling_logp_difference/mean", logp_difference),
    COLUMN("sampling/sampling_logp_difference/max", logp_difference_max),
    {0},
};

GrpoConfig grpo_defaults(void) {
    return (GrpoConfig){.rollout = {.prompts = 8, .group = 8},
                        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1},
                        .loss = policy_loss_defaults(LOSS_DAPO),
                        .num_iterations = 1,
                        .mini_batches = 1};
}

int grpo_check(const GrpoConfig *c, Error *err) {
    const RolloutConfig *r = &c->rollout;
    if (c->num_iterations < 1 || c->mini_batches < 1)
        return error_set(err, "num_iterations %d, mini_batches %d: each must be at least 1",
                         c->num_iterations, c->mini_batches);
    if (r->group < 2)
        return error_set(err,
                         "num_generations is %d: an answer is judged against its siblings, so "
                         "there must be at least 2",
                         r->group);
    if (r->prompts * r->group % c->mini_batches)
        return error_set(err, "%d prompts x %d generations do not divide into %d mini-batches",
                         r->prompts, r->group, c->mini_batches);
    if (c->reward_count < 1)
        return error_set(err, "there is no reward: without one nothing is better than another");
    if (!(c->sampling.temperature > 0))
        return error_set(err,
                         "temperature is %g: answers that are all alike teach nothing; it "
                         "must be more than 0",
                         c->sampling.temperature);
    PolicyLossConfig loss = c->loss;
    loss.max_completion_length = r->max_completion_length;
    return policy_loss_check(&loss, err);
}

int grpo_init(Grpo *g, Context *ctx, const Decoder *policy, const Decoder *reference,
              const Position *position, Params *params, AdamW *adamw, const GrpoConfig *cfg,
              GrpoSource source, Error *err) {
    *g = (Grpo){.ctx = ctx,
                .policy = policy,
                .reference = reference,
                .position = position,
                .params = params,
                .adamw = adamw,
                .cfg = *cfg,
                .source = source};
    const RolloutConfig *r = &cfg->rollout;
    int ranks = comm_size(ctx->comm), update = r->prompts * r->group / cfg->mini_batches;
    if (r->prompts % ranks || update % ranks)
        return error_set(err,
                         "%d ranks share the prompts of a step and the answers of an update: take "
                         "a multiple of %d of each, not %d and %d",
                         ranks, ranks, r->prompts, update);
    CHECK(reference || cfg->loss.beta == 0, "grpo_init: beta %g needs a reference", cfg->loss.beta);
    g->cfg.loss.max_completion_length = cfg->rollout.max_completion_length;
    RolloutConfig own = cfg->rollout; /* a rank's */
    own.prompts /= ranks;
    if (rollouts_init(&g->rollouts, ctx, policy, position, &own, err)) return -1;
    g->batch = grpo_batch_new(&cfg->rollout, policy);
    return 0;
}

void grpo_free(Grpo *g) {
    grpo_batch_free(g->batch, &g->cfg.rollout);
    rollouts_free(&g->rollouts);
    *g = (Grpo){0};
}

int grpo_sample(const Grpo *g, int i, GrpoSample *s) {
    const GrpoBatch *b = g->batch;
    if (i < 0 || i >= b->count) return -1;
    *s = (GrpoSample){b->prompts[i / b->group], b->texts[i], b->rewards[i], b->advantages[i]};
    return 0;
}

/* ---- log-probabilities ---- */

TokenLogprobs decoder_logprobs(Context *ctx, const Decoder *decoder, const Position *position,
                               Tensor *ids, Tensor *targets, float temperature,
                               const TokenSupport *support, const Tensor *const *replay) {
    const DecoderRun run = {.position = position, .replay = replay};
    int was = cpu_matmul_rows_alike(1); /* few of them: as in a rollout */
    Tensor *states = decoder_states(ctx, decoder, ids, &run);
    Tensor *logits = decoder_logits(ctx, decoder, states);
    cpu_matmul_rows_alike(was);
    return token_logprobs(ctx, logits, targets, temperature, support);
}

static TokenLogprobs logprobs_of(Grpo *g, const Decoder *decoder, const SequenceRows *rows,
                                 Tensor **targets) {
    TokenSupport support, *kept = NULL;
    Tensor *ids;
    sequences_batch(g->ctx, rows, &ids, targets);
    if (g->cfg.rollout.keep_support) kept = grpo_batch_support(g->ctx, g->batch, rows, &support);
    bool routed = g->batch->experts && decoder == g->policy; /* the reference chooses by itself */
    return decoder_logprobs(g->ctx, decoder, g->position, ids, *targets,
                            g->cfg.sampling.temperature, kept,
                            grpo_batch_replay(g->ctx, g->batch, rows, decoder, routed));
}

/* Those of a fixed policy, off the tape: what the updates compare with. Each rank has a part. */
static void remember(Grpo *g, const Decoder *decoder, float **numbers, int micro) {
    GrpoBatch *b = g->batch;
    Comm *comm = g->ctx->comm;
    int part = b->count / comm_size(comm), first = comm_rank(comm) * part, end = first + part;
    for (int at = first; at < end; at += micro) {
        SequenceRows rows = {b->sequences, b->order + at, end - at < micro ? end - at : micro};
        Tensor *targets;
        sequences_gather(g->ctx, &rows, logprobs_of(g, decoder, &rows, &targets).logprobs, numbers);
        context_reset(g->ctx);
    }
    share_numbers(comm, numbers, b->order, b->count, g->cfg.rollout.max_completion_length);
}

/* ---- updates ---- */

typedef struct Update {
    SequenceRows rows; /* all of it */
    int micro;         /* sequences in one piece */
    bool has_old;
    float lr;
    double stats[POLICY_STATS], entropy, loss; /* of this rank's pieces */
} Update;

/* The loss of this rank's micro-batch `piece` of as many as each has, and its gradient, added to
 * those before it. */
static void learn_from(Grpo *g, Update *u, const SequenceRows *rows, int piece, int pieces) {
    Context *ctx = g->ctx;
    const GrpoBatch *b = g->batch;
    Tensor *targets, *stats;
    float *advantages = must_alloc((size_t)rows->count, sizeof *advantages);
    for (int i = 0; i < rows->count; i++) advantages[i] = b->advantages[rows->order[i]];
    ctx->recording = true;
    TokenLogprobs y = logprobs_of(g, g->policy, rows, &targets);
    PolicyBatch batch = {
        .targets = targets,
        .advantages = tensor_copy_in(ctx, "advantages", F32, advantages, SHAPE(rows->count)),
        .old = u->has_old ? sequences_numbers(ctx, rows, b->old) : NULL,
        .reference = g->cfg.loss.beta != 0 ? sequences_numbers(ctx, rows, b->reference) : NULL,
        .sampler = sequences_numbers(ctx, rows, b->sampler),
        .micro_batches = pieces * comm_size(ctx->comm),
        .completions = u->rows.count,
        .actions = sequences_actions(&u->rows)};
    Tensor *loss = policy_loss(ctx, y.logprobs, &batch, &g->cfg.loss, &stats);
    Tensor *entropy = sum(ctx, y.entropy);
    ranks_before_backward(g->ranks, piece, pieces, false);
    tape_backward(ctx, loss);
    ranks_after_backward(g->ranks, piece, pieces);
    float value, of_tokens, numbers[POLICY_STATS];
    tensor_download(ctx, &value, loss);
    tensor_download(ctx, &of_tokens, entropy);
    tensor_download(ctx, numbers, stats);
    for (int i = 0; i < POLICY_STATS; i++)
        if (i == POLICY_GAP_LARGEST)
            u->stats[i] = fmax(u->stats[i], numbers[i]);
        else
            u->stats[i] += numbers[i];
    u->loss += value, u->entropy += of_tokens;
    context_reset(ctx);
    free(advantages);
}

static int update(Grpo *g, Update *u, GrpoReport *report, Error *err) {
    Comm *comm = g->ctx->comm;
    int part = u->rows.count / comm_size(comm), first = comm_rank(comm) * part;
    int pieces = (part + u->micro - 1) / u->micro;
    u->loss = 0;
    params_zero_grad(g->params);
    for (int piece = 0; piece < pieces; piece++) {
        SequenceRows rows = u->rows;
        int at = piece * u->micro;
        rows.order += first + at;
        rows.count = part - at < u->micro ? part - at : u->micro;
        learn_from(g, u, &rows, piece, pieces);
    }
    float norm = ranks_adamw_step(g->ranks, g->adamw, g->params, u->lr, 1);
    u->loss = comm_sum_host(comm, u->loss);
    if (!isfinite(norm))
        return error_set(err,
                         "the gradient is not finite (loss %g): nothing was changed. Take a "
                         "smaller learning rate, or an earlier state of the model",
                         u->loss);
    report->loss += u->loss, report->grad_norm += norm, report->updates++;
    return 0;
}

/* A pass in another order, drawn anew, where it is cut into several updates: so that none of them
 * has all answers to one question. */
static void shuffle(Grpo *g, int32_t *order, int count) {
    uint64_t stream = rng_next_stream(&g->ctx->rng);
    for (int i = count - 1; i > 0; i--) {
        int j = (int)(rng_uniform(g->ctx->rng.seed, stream, (uint64_t)i) * (float)(i + 1));
        int32_t other = order[j];
        order[j] = order[i], order[i] = other;
    }
}

/* ---- the report ---- */

static void report_rollout(const Grpo *g, GrpoReport *r, const AdvantageReport *a) {
    const GrpoBatch *b = g->batch;
    r->reward = a->mean, r->reward_std = a->std, r->abstained = a->abstained;
    r->frac_reward_zero_std = (double)a->without_difference / b->groups;
    r->min_length = g->cfg.rollout.max_completion_length;
    for (int i = 0; i < b->count; i++) {
        int tokens = b->sequences[i].tokens;
        r->mean_length += (double)tokens / b->count;
        r->min_length = fmin(r->min_length, tokens), r->max_length = fmax(r->max_length, tokens);
        r->clipped_ratio += (double)!b->ended[i] / b->count;
    }
    for (int k = 0; k < g->cfg.reward_count; k++) {
        int spoke = 0;
        for (int i = 0; i < b->count; i++)
            if (!isnan(b->each[i * REWARDS_MAX + k]))
                r->rewards[k] += b->each[i * REWARDS_MAX + k], spoke++;
        r->rewards[k] = spoke ? r->rewards[k] / spoke : NAN;
    }
}

/* What the ranks have counted, together: sums, and the largest gap. */
static void share_stats(Comm *comm, Update *u) {
    double largest = 0, *gaps = must_alloc((size_t)comm_size(comm), sizeof *gaps);
    comm_gather_host(comm, gaps, &u->stats[POLICY_GAP_LARGEST], sizeof *gaps);
    for (int r = 0; r < comm_size(comm); r++) largest = fmax(largest, gaps[r]);
    share_sums(comm, u->stats, POLICY_STATS);
    share_sums(comm, &u->entropy, 1);
    u->stats[POLICY_GAP_LARGEST] = largest;
    free(gaps);
}

static void report_updates(GrpoReport *r, const Update *u) {
    const double *s = u->stats, actions = fmax(1, s[POLICY_ACTIONS]);
    double units = fmax(1, s[POLICY_CLIP_UNITS]);
    r->loss /= r->updates, r->grad_norm /= r->updates;
    r->entropy = u->entropy / actions, r->kl = s[POLICY_KL] / actions;
    r->ratio = s[POLICY_RATIO] / actions;
    r->clip_low = s[POLICY_LOW] / units, r->clip_high = s[POLICY_HIGH] / units;
    r->logp_difference = s[POLICY_GAP] / actions, r->logp_difference_max = s[POLICY_GAP_LARGEST];
    r->off_policy_dropped = s[POLICY_DROPPED];
}

/* ---- the step ---- */

/* [grpo_step] */
int grpo_step(Grpo *g, float lr, GrpoReport *report, Error *err) {
    const GrpoConfig *c = &g->cfg;
    GrpoBatch *b = g->batch;
    AdvantageReport judged;
    *report = (GrpoReport){0};
    if (grpo_collect(g, report, err)) return -1;
    if (advantages_of(b->advantages, b->rewards, b->groups, b->group, c->scale_rewards, &judged,
                      err))
        return -1;
    report_rollout(g, report, &judged);
    g->state.steps++, g->state.num_tokens += report->num_tokens + report->prompt_tokens;
    if (judged.without_difference == b->groups && c->loss.beta == 0) return 0;

    double started = seconds_now();
    int each = b->count / c->mini_batches, most = each / comm_size(g->ctx->comm);
    Update u = {.micro = c->micro_batch > 0 && c->micro_batch < most ? c->micro_batch : most,
                .has_old = c->num_iterations * c->mini_batches > 1,
                .lr = lr};
    for (int i = 0; i < b->count; i++) b->order[i] = i;
    if (u.has_old) remember(g, g->policy, b->old, u.micro);
    if (c->loss.beta != 0) remember(g, g->reference, b->reference, u.micro);
    for (int pass = 0; pass < c->num_iterations; pass++) {
        if (c->mini_batches > 1) shuffle(g, b->order, b->count);
        for (int part = 0; part < c->mini_batches; part++) {
            u.rows = (SequenceRows){b->sequences, b->order + part * each, each};
            if (update(g, &u, report, err)) return -1;
        }
    }
    share_stats(g->ctx->comm, &u);
    report_updates(report, &u);
    report->update_seconds = seconds_now() - started;
    return 0;
}
/* [/grpo_step] */
