/*
 * Collecting: prompts are drawn, answered and judged, and groups are kept until there are P.
 *
 * A group whose answers are all alike in reward teaches nothing, for all its advantages are 0. With
 * dynamic sampling (DAPO, Yu et al. 2025, 3.2) others are drawn in its place; how many were is
 * reported, for it is work, and a sign that the questions have become too easy or are too hard.
 */
#include "09_grpo/grpo_batch.h"

#include "09_grpo/rollout/share.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory ---- */

static float **lines(int count, int width) {
    float **list = must_alloc((size_t)count, sizeof *list);
    for (int i = 0; i < count; i++) list[i] = must_alloc((size_t)width, sizeof **list);
    return list;
}

static void free_lines(void *list, int count) {
    for (int i = 0; list && i < count; i++) free(((void **)list)[i]);
    free(list);
}

GrpoBatch *grpo_batch_new(const RolloutConfig *c, const Decoder *policy) {
    int choices = rollouts_choices(policy), places = c->max_prompt + c->max_completion_length;
    int n = c->prompts * c->group;
    GrpoBatch *b = must_alloc(1, sizeof *b);
    b->group = c->group;
    b->sequences = must_alloc((size_t)n, sizeof *b->sequences);
    b->supports = must_alloc((size_t)n, sizeof *b->supports);
    for (int i = 0; i < n; i++) {
        b->sequences[i].ids =
            must_alloc((size_t)(c->max_prompt + c->max_completion_length), sizeof(int32_t));
        b->supports[i].starts = must_alloc((size_t)c->max_completion_length + 1, sizeof(int32_t));
    }
    if (c->keep_routing && choices) b->experts = must_alloc((size_t)n, sizeof *b->experts);
    for (int i = 0; b->experts && i < n; i++)
        b->experts[i] = must_alloc((size_t)places * (size_t)choices, sizeof **b->experts);
    b->sampler = lines(n, c->max_completion_length);
    b->old = lines(n, c->max_completion_length);
    b->reference = lines(n, c->max_completion_length);
    b->ended = must_alloc((size_t)n, sizeof *b->ended);
    b->prompts = must_alloc((size_t)c->prompts, sizeof *b->prompts);
    b->texts = must_alloc((size_t)n, sizeof *b->texts);
    b->rewards = must_alloc((size_t)n, sizeof *b->rewards);
    b->each = must_alloc((size_t)n * REWARDS_MAX, sizeof *b->each);
    b->advantages = must_alloc((size_t)n, sizeof *b->advantages);
    b->order = must_alloc((size_t)n, sizeof *b->order);
    return b;
}

void grpo_batch_free(GrpoBatch *b, const RolloutConfig *c) {
    if (!b) return;
    int n = c->prompts * c->group;
    for (int i = 0; i < n; i++)
        free(b->sequences[i].ids), free(b->supports[i].starts), free(b->supports[i].ids);
    free_lines(b->experts, n);
    free_lines(b->sampler, n), free_lines(b->old, n), free_lines(b->reference, n);
    free_lines(b->prompts, c->prompts), free_lines(b->texts, n);
    free(b->sequences), free(b->supports), free(b->ended), free(b->rewards), free(b->each);
    free(b->advantages), free(b->order);
    free(b);
}

/* ---- prompts ---- */

static void free_prompts(GrpoPrompt *prompts, int count) {
    for (int p = 0; p < count; p++)
        free(prompts[p].ids), free(prompts[p].text), free(prompts[p].answer);
    free(prompts);
}

static GrpoPrompt *draw_prompts(const GrpoSource *source, uint64_t first, int count, Error *err) {
    GrpoPrompt *prompts = must_alloc((size_t)count, sizeof *prompts);
    for (int p = 0; p < count; p++)
        if (source->prompt(source->self, first + (uint64_t)p, &prompts[p], err)) {
            free_prompts(prompts, count);
            return NULL;
        }
    return prompts;
}

static int answer(Rollouts *r, const GrpoPrompt *prompts, const Sampling *sampling, uint64_t stream,
                  Error *err) {
    int P = r->cfg.prompts, *lengths = must_alloc((size_t)P, sizeof *lengths);
    int32_t **ids = must_alloc((size_t)P, sizeof *ids);
    for (int p = 0; p < P; p++) ids[p] = prompts[p].ids, lengths[p] = prompts[p].count;
    int status = rollouts_draw(r, ids, lengths, sampling, stream, err);
    free(lengths);
    free(ids);
    return status;
}

/* The text, for the caller to free, and what it is worth. */
static char *judge(const Completion *c, const RolloutConfig *cfg, const GrpoSource *source,
                   const GrpoPrompt *prompt, const WeightedReward *list, int count, float *each,
                   float *total) {
    const Sequence *s = &c->sequence;
    char *text = source->text(source->self, s->ids + s->prompt_tokens, s->tokens - c->ended);
    Answer a = {prompt->text, text, prompt->answer, s->tokens, cfg->max_completion_length,
                c->ended};
    *total = rewards_total(list, count, &a, each);
    return text;
}

/* ---- a step's groups ---- */

/* Sequence `at` of the batch becomes the completion. */
static void keep(Grpo *g, int at, Completion c) {
    GrpoBatch *b = g->batch;
    Sequence *s = &b->sequences[at];
    int32_t *ids = s->ids;
    *s = c.sequence;
    s->ids = memcpy(ids, c.sequence.ids, (size_t)(s->prompt_tokens + s->tokens) * sizeof *ids);
    s->masked = g->cfg.mask_truncated_completions && !c.ended;
    b->ended[at] = c.ended;
    memcpy(b->sampler[at], c.logprobs, (size_t)s->tokens * sizeof(float));
    if (c.experts)
        memcpy(b->experts[at], c.experts,
               (size_t)(s->prompt_tokens + s->tokens - 1) * (size_t)rollouts_choices(g->policy) *
                   sizeof **b->experts);
    if (!c.support) return;
    ActionSupport *to = &b->supports[at];
    int32_t count = c.support->starts[s->tokens];
    to->ids = grow(to->ids, &to->capacity, (size_t)count, sizeof *to->ids);
    memcpy(to->ids, c.support->ids, (size_t)count * sizeof *to->ids);
    memcpy(to->starts, c.support->starts, (size_t)(s->tokens + 1) * sizeof *to->starts);
}

static void keep_group(Grpo *g, const Completion *drawn, GrpoPrompt *prompt, char **texts,
                       const float *rewards, const float *each) {
    GrpoBatch *b = g->batch;
    int G = b->group;
    free(b->prompts[b->groups]);
    b->prompts[b->groups] = prompt->text, prompt->text = NULL;
    for (int k = 0; k < G; k++) {
        int at = b->groups * G + k;
        keep(g, at, drawn[k]);
        free(b->texts[at]);
        b->texts[at] = texts[k], texts[k] = NULL;
        b->rewards[at] = rewards[k];
        memcpy(b->each + at * REWARDS_MAX, each + k * REWARDS_MAX, REWARDS_MAX * sizeof *each);
    }
    b->groups++, b->count += G;
}

/* One rollout, judged; groups are kept while there is room, flat ones only in the last, behind the
 * others. */
static int collect_once(Grpo *g, bool last, GrpoReport *report, Error *err) {
    const GrpoConfig *c = &g->cfg;
    Comm *comm = g->ctx->comm;
    int P = c->rollout.prompts, G = c->rollout.group, n = P * G;
    int first = P / comm_size(comm) * comm_rank(comm); /* this rank's prompts, and its answers */
    uint64_t stream = g->state.rollouts_drawn * (uint64_t)n + (uint64_t)(first * G);
    GrpoPrompt *prompts = draw_prompts(&g->source, g->state.prompts_drawn, P, err);
    int status = prompts ? answer(&g->rollouts, prompts + first, &c->sampling, stream, err) : -1;
    if (comm_agree(comm, status, err)) {
        if (prompts) free_prompts(prompts, P);
        return -1;
    }
    SharedAnswers drawn = share_answers(comm, &g->rollouts);
    g->state.prompts_drawn += (uint64_t)P, g->state.rollouts_drawn++, report->rollouts++;
    char **texts = must_alloc((size_t)n, sizeof *texts);
    float *each = must_alloc((size_t)n * REWARDS_MAX, sizeof *each);
    float *totals = must_alloc((size_t)n, sizeof *totals);
    for (int i = 0; i < n; i++) {
        texts[i] = judge(&drawn.list[i], &c->rollout, &g->source, &prompts[i / G], c->rewards,
                         c->reward_count, each + i * REWARDS_MAX, &totals[i]);
        const Sequence *s = &drawn.list[i].sequence;
        report->num_tokens += s->tokens, report->prompt_tokens += s->prompt_tokens;
    }
    for (int flat = 0; flat <= 1; flat++)
        for (int p = 0; p < P; p++) {
            if (advantage_group_is_flat(totals + p * G, G) != flat) continue;
            if (flat && !last)
                report->replaced_groups++;
            else if (g->batch->groups < P)
                keep_group(g, drawn.list + p * G, &prompts[p], texts + p * G, totals + p * G,
                           each + p * G * REWARDS_MAX);
        }
    free_lines(texts, n);
    free(each), free(totals);
    free_prompts(prompts, P);
    share_free(&drawn);
    return 0;
}

int grpo_collect(Grpo *g, GrpoReport *report, Error *err) {
    GrpoBatch *b = g->batch;
    int rounds = g->cfg.dynamic_sampling > 1 ? g->cfg.dynamic_sampling : 1;
    b->groups = b->count = 0;
    for (int i = 1; i <= rounds && b->groups < g->cfg.rollout.prompts; i++) {
        if (collect_once(g, i == rounds, report, err)) return -1;
        report->rollout_seconds += g->rollouts.prompt_seconds + g->rollouts.seconds;
    }
    return 0;
}

TokenSupport *grpo_batch_support(Context *ctx, const GrpoBatch *b, const SequenceRows *rows,
                                 TokenSupport *support) {
    int T = sequences_width(rows), count = 0;
    int32_t *starts = must_alloc((size_t)rows->count * (size_t)T + 1, sizeof *starts), *ids = NULL;
    size_t capacity = 0;
    for (int i = 0; i < rows->count; i++) {
        const Sequence *s = &b->sequences[rows->order[i]];
        const ActionSupport *from = &b->supports[rows->order[i]];
        for (int t = 0; t < T; t++) {
            int k = t - (s->prompt_tokens - 1);
            bool action = k >= 0 && k < s->tokens;
            int32_t n = action ? from->starts[k + 1] - from->starts[k] : 0;
            ids = grow(ids, &capacity, (size_t)(count + n) + 1, sizeof *ids);
            if (n) memcpy(ids + count, from->ids + from->starts[k], (size_t)n * sizeof *ids);
            count += n;
            starts[i * T + t + 1] = count;
        }
    }
    support->starts =
        tensor_copy_in(ctx, "starts", I32, starts, SHAPE((int64_t)rows->count * T + 1));
    support->ids = tensor_copy_in(ctx, "support", I32, ids, SHAPE(count > 0 ? count : 1));
    free(starts);
    free(ids);
    return support;
}

/* One layer's list, [B T, K]. */
static const Tensor *replay_of(Context *ctx, const GrpoBatch *b, const SequenceRows *rows,
                               const Decoder *d, int layer, bool kept) {
    int T = sequences_width(rows), choices = rollouts_choices(d);
    int K = choices / d->cfg.num_hidden_layers;
    int64_t places = (int64_t)rows->count * T;
    int32_t *list = must_alloc((size_t)places * (size_t)K, sizeof *list);
    for (int64_t at = 0; at < places; at++) {
        int i = rows->order[at / T], t = (int)(at % T);
        const Sequence *s = &b->sequences[i];
        bool padding = t >= s->prompt_tokens + s->tokens - 1;
        for (int j = 0; j < K; j++)
            list[at * K + j] = padding ? ROUTE_NOBODY
                               : kept  ? b->experts[i][t * choices + layer * K + j]
                                       : ROUTE_FREE;
    }
    Tensor *replay = tensor_copy_in(ctx, "replay", I32, list, SHAPE(places, K));
    free(list);
    return replay;
}

const Tensor *const *grpo_batch_replay(Context *ctx, const GrpoBatch *b, const SequenceRows *rows,
                                       const Decoder *d, bool kept) {
    int layers = d->cfg.num_hidden_layers;
    if (!rollouts_choices(d)) return NULL;
    const Tensor **list = arena_alloc(&ctx->host, (size_t)layers * sizeof *list), *same = NULL;
    for (int i = 0; i < layers; i++) {
        list[i] = d->layers[i].dense ? NULL
                  : same && !kept    ? same
                                     : replay_of(ctx, b, rows, d, i, kept);
        same = list[i];
    }
    return list;
}

/* ---- judging ---- */

int grpo_score(Rollouts *r, const GrpoSource *source, const WeightedReward *list, int reward_count,
               uint64_t first, int count, const Sampling *sampling, GrpoScore *score, Error *err) {
    Comm *comm = r->ctx->comm;
    int P = r->cfg.prompts, G = r->cfg.group, ranks = comm_size(comm), status = 0;
    double sums[3] = {0}; /* of rewards, of answers that are right, of questions answered right */
    if (count < P || count % P)
        return error_set(err, "%d questions, %d at once: take a multiple of that", count, P);
    for (int done = comm_rank(comm) * P; done < count && !status; done += ranks * P) {
        GrpoPrompt *prompts = draw_prompts(source, first + (uint64_t)done, P, err);
        status = prompts ? answer(r, prompts, sampling, (first + (uint64_t)done) * (uint64_t)G, err)
                         : -1;
        for (int p = 0; p < P && !status; p++) {
            int hits = 0;
            for (int k = 0; k < G; k++) {
                float each[REWARDS_MAX], total;
                Completion c = rollouts_completion(r, p * G + k);
                free(judge(&c, &r->cfg, source, &prompts[p], list, reward_count, each, &total));
                hits += each[0] >= 1;
                sums[0] += isnan(total) ? 0 : total;
            }
            sums[1] += hits, sums[2] += hits > 0;
        }
        if (prompts) free_prompts(prompts, P);
    }
    if (comm_agree(comm, status, err)) return -1;
    share_sums(comm, sums, 3);
    *score = (GrpoScore){sums[0] / (count * G), sums[1] / (count * G), sums[2] / count, count};
    return 0;
}
