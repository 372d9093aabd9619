/*
 * A rollout is chapter 05's decoder_generate() over caches that hold the prompts already: all but
 * their last tokens, with which its first step begins.
 */
#include "09_grpo/rollout/rollout.h"

#include "09_grpo/loss/token_logprobs.h"
#include "09_grpo/rollout/fork.h"
#include "common/core/cpu_matmul.h"
#include "common/program/progress.h"

#include <stdlib.h>
#include <string.h>

static int check_config(const Decoder *d, const RolloutConfig *c, Error *err) {
    const struct {
        const char *name;
        int value;
    } rows[] = {{"prompts", c->prompts},
                {"num_generations", c->group},
                {"max_prompt", c->max_prompt},
                {"max_completion_length", c->max_completion_length}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < 1)
            return error_set(err, "%s is %d; it must be at least 1", rows[i].name, rows[i].value);
    int most = c->max_prompt + c->max_completion_length;
    if (d->cfg.places && most > d->cfg.places)
        return error_set(err,
                         "prompts of %d tokens and completions of %d: the model has places for %d",
                         c->max_prompt, c->max_completion_length, d->cfg.places);
    if (c->end < 0 || c->end >= d->cfg.vocab_size)
        return error_set(err,
                         "the model has no token that ends an answer (%d of %d): every answer "
                         "would be truncated",
                         c->end, d->cfg.vocab_size);
    return 0;
}

int rollouts_choices(const Decoder *d) {
    int each =
        d->cfg.block.moe.router.n_routed_experts ? d->cfg.block.moe.router.num_experts_per_tok : 0;
    return d->cfg.num_hidden_layers * each;
}

/* Memory for what is kept of each completion beside its ids. */
static void make_kept(Rollouts *r, int batch, int places) {
    int choices = rollouts_choices(r->decoder);
    if (r->cfg.keep_support) {
        r->supports = must_alloc((size_t)batch, sizeof *r->supports);
        for (int i = 0; i < batch; i++)
            r->supports[i].starts =
                must_alloc((size_t)r->cfg.max_completion_length + 1, sizeof(int32_t));
    }
    if (!r->cfg.keep_routing || !choices) return;
    r->experts = must_alloc((size_t)batch, sizeof *r->experts);
    for (int i = 0; i < batch; i++)
        r->experts[i] = must_alloc((size_t)places * (size_t)choices, sizeof **r->experts);
    r->generator.decode.routing =
        must_alloc((size_t)batch * (size_t)choices, sizeof *r->generator.decode.routing);
}

int rollouts_init(Rollouts *r, Context *ctx, const Decoder *decoder, const Position *position,
                  const RolloutConfig *cfg, Error *err) {
    *r = (Rollouts){.ctx = ctx, .decoder = decoder, .position = position, .cfg = *cfg};
    if (check_config(decoder, cfg, err)) return -1;
    int batch = cfg->prompts * cfg->group, most = cfg->max_prompt + cfg->max_completion_length;
    r->prompt_tokens = must_alloc((size_t)cfg->prompts, sizeof *r->prompt_tokens);
    if (decoder_cache_init(&r->prompts, ctx, &decoder->cfg.block, decoder->cfg.num_hidden_layers,
                           cfg->prompts, cfg->max_prompt, err) ||
        decoder_generator_init(&r->generator, ctx, decoder, position, batch, most, err)) {
        rollouts_free(r);
        return -1;
    }
    r->generator.decode.as_trained = ctx->device == CPU && !cfg->fast;
    make_kept(r, batch, most);
    return 0;
}

void rollouts_free(Rollouts *r) {
    for (int i = 0; r->supports && i < r->cfg.prompts * r->cfg.group; i++)
        free(r->supports[i].starts), free(r->supports[i].ids);
    for (int i = 0; r->experts && i < r->cfg.prompts * r->cfg.group; i++) free(r->experts[i]);
    free(r->experts);
    free(r->generator.decode.routing);
    free(r->supports);
    free(r->prompt_tokens);
    decoder_cache_free(&r->prompts);
    decoder_generator_free(&r->generator);
    *r = (Rollouts){0};
}

/* ---- a rollout ---- */

/* A layer's choices I32 [K] for the token at `place` of completion i. */
static void keep_experts(Rollouts *r, int i, int place, int layer, const int32_t *chosen) {
    int choices = rollouts_choices(r->decoder), K = choices / r->decoder->cfg.num_hidden_layers;
    int16_t *to = r->experts[i] + (place * choices + layer * K);
    for (int j = 0; j < K; j++) to[j] = (int16_t)chosen[j];
}

/* The prompts' choices, as the recorded run left them, to all of their completions. */
static void keep_prompts_routing(Rollouts *r, int longest) {
    const Decoder *d = r->decoder;
    int K = d->cfg.block.moe.router.num_experts_per_tok, P = r->cfg.prompts, G = r->cfg.group;
    int32_t *chosen = must_alloc((size_t)P * (size_t)longest * (size_t)K, sizeof *chosen);
    for (int layer = 0; layer < d->cfg.num_hidden_layers; layer++) {
        if (d->layers[layer].dense) continue;
        tensor_download_ints(r->ctx, chosen, d->records[layer].routing.indices);
        for (int i = 0; i < P * G; i++)
            for (int t = 0; t < r->prompt_tokens[i / G] - 1; t++)
                keep_experts(r, i, t, layer, chosen + (i / G * longest + t) * K);
    }
    free(chosen);
}

/* The prompts, but for their last tokens, padded on the right and cut to size afterwards. */
static void read_prompts(Rollouts *r, int32_t *const *prompts) {
    Context *ctx = r->ctx;
    int P = r->cfg.prompts, longest = 0;
    decoder_cache_truncate(&r->prompts, -1, 0);
    for (int p = 0; p < P; p++)
        if (r->prompt_tokens[p] - 1 > longest) longest = r->prompt_tokens[p] - 1;
    if (longest == 0) return;
    int32_t *ids = must_alloc((size_t)P * (size_t)longest, sizeof *ids);
    for (int p = 0; p < P; p++)
        memcpy(ids + p * longest, prompts[p], (size_t)(r->prompt_tokens[p] - 1) * sizeof *ids);
    const DecoderRun run = {.position = r->position,
                            .mode = r->generator.decode.as_trained ? MLA_AS_TRAINED : MLA_AUTO,
                            .cache = &r->prompts,
                            .record = r->experts != NULL};
    decoder_states(ctx, r->decoder, tensor_copy_in(ctx, "prompts", I32, ids, SHAPE(P, longest)),
                   &run);
    if (r->experts) keep_prompts_routing(r, longest);
    context_reset(ctx);
    for (int p = 0; p < P; p++) decoder_cache_truncate(&r->prompts, p, r->prompt_tokens[p] - 1);
    free(ids);
}

/* Each completion begins as its prompt, the latents of which it gets from there. */
static int begin_groups(Rollouts *r, int32_t *const *prompts, uint64_t stream, Error *err) {
    DecoderGenerator *g = &r->generator;
    decoder_generator_truncate(g, -1, 0);
    for (int i = 0; i < g->batch; i++) {
        int p = i / r->cfg.group;
        DecoderSequence *s = &g->sequences[i];
        memcpy(s->ids, prompts[p], (size_t)r->prompt_tokens[p] * sizeof *s->ids);
        s->count = r->prompt_tokens[p];
        s->stream = stream + (uint64_t)i;
    }
    return cache_fork(r->ctx, &g->cache, &r->prompts, r->cfg.group, err);
}

/* What token k of completion b was drawn from; greedy ones are drawn from nothing. */
static void keep_support(Rollouts *r, int b, int k) {
    ActionSupport *s = &r->supports[b];
    int vocab = r->decoder->cfg.vocab_size;
    const DecoderSequence *q = &r->generator.sequences[b];
    int32_t count = s->starts[k], id = q->ids[q->count - 1];
    if (r->sampling->temperature > 0) {
        float *p = must_alloc((size_t)vocab, sizeof *p);
        sample_probabilities(p, r->generator.logits + (size_t)b * (size_t)vocab, vocab,
                             r->sampling);
        for (int32_t j = 0; j < vocab; j++) {
            if (p[j] == 0 && j != id) continue;
            s->ids = grow(s->ids, &s->capacity, (size_t)count + 1, sizeof *s->ids);
            s->ids[count++] = j;
        }
        free(p);
    }
    s->starts[k + 1] = count;
}

/* As the trainer will say it of the same logits. */
static void say_as_trained(Rollouts *r, int b, int32_t id) {
    int vocab = r->decoder->cfg.vocab_size;
    DecoderSequence *q = &r->generator.sequences[b];
    const float *logits = r->generator.logits + (size_t)b * (size_t)vocab;
    const ActionSupport *s = r->supports ? &r->supports[b] : NULL;
    float entropy, lse;
    token_logprobs_forward_cpu(&q->logprobs[q->count - 1], &entropy, &lse, logits, &id,
                               s ? &s->starts[q->drawn - 1] : NULL, s ? s->ids : NULL, 1, vocab,
                               r->sampling->temperature);
}

/* What the step before the newest token of sequence b, which went through it, was sent to. */
static void keep_routing(Rollouts *r, int b) {
    const Decoder *d = r->decoder;
    int K = d->cfg.block.moe.router.num_experts_per_tok, batch = r->generator.batch;
    for (int layer = 0; layer < d->cfg.num_hidden_layers; layer++)
        keep_experts(r, b, r->generator.sequences[b].count - 2, layer,
                     r->generator.decode.routing + (layer * batch + b) * K);
}

/* Hears of every token: the logits that it was drawn from are still there. */
static bool drawn(void *user, int b, int32_t id) {
    Rollouts *r = user;
    if (r->supports) keep_support(r, b, r->generator.sequences[b].drawn - 1);
    if (r->experts) keep_routing(r, b);
    if (r->generator.decode.as_trained && r->sampling->temperature > 0) say_as_trained(r, b, id);
    return id == r->cfg.end;
}

static int check_prompts(Rollouts *r, const int *lengths, const Sampling *s, Error *err) {
    for (int p = 0; p < r->cfg.prompts; p++) {
        if (lengths[p] < 1 || lengths[p] > r->cfg.max_prompt)
            return error_set(err, "prompt %d has %d tokens; it must have 1 to %d", p, lengths[p],
                             r->cfg.max_prompt);
        r->prompt_tokens[p] = lengths[p];
    }
    if (s->repetition_penalty != 0 && s->repetition_penalty != 1)
        return error_set(err, "a repetition penalty of %g: log-probabilities would depend on it",
                         s->repetition_penalty);
    return 0;
}

/* Prompts, then tokens; -1 and a message when there is no room. */
static int draw(Rollouts *r, int32_t *const *prompts, uint64_t stream,
                DecoderGenerateResult *result, Error *err) {
    double started = seconds_now();
    read_prompts(r, prompts);
    if (begin_groups(r, prompts, stream, err)) return -1;
    r->prompt_seconds = seconds_now() - started;
    decoder_generate(&r->generator,
                     &(DecoderGenerateOptions){.sampling = *r->sampling,
                                               .max_new_tokens = r->cfg.max_completion_length,
                                               .end = -1, /* `drawn` hears of it, too */
                                               .ends = drawn,
                                               .user = r,
                                               .device_draws = !r->supports},
                     result);
    r->seconds = result->seconds;
    return 0;
}

int rollouts_draw(Rollouts *r, int32_t *const *prompts, const int *lengths,
                  const Sampling *sampling, uint64_t stream, Error *err) {
    DecoderGenerateResult result;
    if (check_prompts(r, lengths, sampling, err)) return -1;
    r->sampling = sampling;
    int was = cpu_matmul_rows_alike(r->generator.decode.as_trained);
    int status = draw(r, prompts, stream, &result, err);
    cpu_matmul_rows_alike(was);
    if (status) return -1;
    if (!result.broken) return 0;
    int broken = result.broken - 1;
    decoder_generator_truncate(&r->generator, -1, 0);
    return error_set(err,
                     "the model's logits are not finite behind prompt %d: it is broken; take an "
                     "earlier state and a smaller learning rate",
                     broken / r->cfg.group);
}

Completion rollouts_completion(const Rollouts *r, int i) {
    const DecoderSequence *s = &r->generator.sequences[i];
    int prompt_tokens = r->prompt_tokens[i / r->cfg.group], tokens = s->count - prompt_tokens;
    return (Completion){.sequence = {s->ids, prompt_tokens, tokens, false},
                        .logprobs = s->logprobs + prompt_tokens,
                        .support = r->supports ? &r->supports[i] : NULL,
                        .experts = r->experts ? r->experts[i] : NULL,
                        .ended = tokens > 0 && s->ids[s->count - 1] == r->cfg.end};
}
