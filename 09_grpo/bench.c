/*
 * Chapter 09's benchmark: what a rollout costs against plain generating of as many tokens, and what
 * the loss costs.
 *
 * Plain generating is chapter 05's decoder_generate() of all completions, each with its own prompt.
 * A rollout of the same ones lets every prompt through the model once. Weights are random and 1 of
 * 512 tokens ends an answer: nearly all go on to the last step, and both ways draw the same ones.
 */
#include "09_grpo/loss/policy_loss.h"
#include "09_grpo/loss/token_logprobs.h"
#include "09_grpo/rollout/rollout.h"

#include "common/core/ops_kernels.h"
#include "common/program/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 512, HIDDEN = 128, END = VOCAB - 1 };

typedef struct World {
    Params params;
    Decoder decoder;
    RolloutConfig cfg;
    int32_t **prompts;
    int *lengths;
    Rollouts rollouts, fast; /* fast: by the kernels that plain generating has */
    DecoderGenerator generator;
} World;

static const Sampling sampling = {.temperature = 1, .top_p = 1, .seed = 1};

static void world_init(World *w, Context *ctx, RolloutConfig c) {
    Error err;
    DecoderConfig cfg = {.vocab_size = VOCAB,
                         .num_hidden_layers = 4,
                         .places = c.max_prompt + c.max_completion_length};
    cfg.block = (BlockConfig){.hidden_size = HIDDEN,
                              .intermediate_size = 3 * HIDDEN,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {HIDDEN, 4, 0, 64, 32, 0, 32, false}};
    float std = 1 / sqrtf(HIDDEN);
    w->cfg = c;
    params_init(&w->params, ctx);
    decoder_register(&w->decoder, &w->params, &cfg);
    if (params_allocate(&w->params, false, &err)) fatal("%s", err.text);
    decoder_randomize(&w->params, &w->decoder, (DecoderStart){0.5f, std, std, std});
    w->prompts = must_alloc((size_t)c.prompts, sizeof *w->prompts);
    w->lengths = must_alloc((size_t)c.prompts, sizeof *w->lengths);
    for (int p = 0; p < c.prompts; p++) {
        w->lengths[p] = c.max_prompt;
        w->prompts[p] = must_alloc((size_t)c.max_prompt, sizeof(int32_t));
        for (int t = 0; t < c.max_prompt; t++)
            w->prompts[p][t] = (int32_t)(philox(4, (uint64_t)p, (uint64_t)t).word[0] % END);
    }
    RolloutConfig fast = c;
    fast.fast = true;
    if (rollouts_init(&w->rollouts, ctx, &w->decoder, NULL, &c, &err) ||
        rollouts_init(&w->fast, ctx, &w->decoder, NULL, &fast, &err) ||
        decoder_generator_init(&w->generator, ctx, &w->decoder, NULL, c.prompts * c.group,
                               cfg.places, &err))
        fatal("%s", err.text);
}

/* ---- the two ways ---- */

static void draw(World *w, Rollouts *r) {
    Error err;
    if (rollouts_draw(r, w->prompts, w->lengths, &sampling, 0, &err)) fatal("%s", err.text);
}

static void shared(Context *ctx, void *user) {
    World *w = user;
    (void)ctx;
    draw(w, &w->rollouts);
}

static void shared_fast(Context *ctx, void *user) {
    World *w = user;
    (void)ctx;
    draw(w, &w->fast);
}

static void apart(Context *ctx, void *user) {
    World *w = user;
    DecoderGenerator *g = &w->generator;
    DecoderGenerateResult result;
    (void)ctx;
    decoder_generator_truncate(g, -1, 0);
    for (int i = 0; i < g->batch; i++) {
        DecoderSequence *s = &g->sequences[i];
        int p = i / w->cfg.group;
        memcpy(s->ids, w->prompts[p], (size_t)w->lengths[p] * sizeof *s->ids);
        s->count = w->lengths[p];
    }
    decoder_generate(g,
                     &(DecoderGenerateOptions){.sampling = sampling,
                                               .max_new_tokens = w->cfg.max_completion_length,
                                               .end = END},
                     &result);
}

static void compare(Bench *bench, const RolloutConfig *c) {
    static const struct {
        const char *name;
        BenchFunction run;
    } ways[] = {{"plain generate", apart}, {"rollout", shared}, {"rollout fast", shared_fast}};
    World w = {0};
    double tokens = (double)c->prompts * c->group * c->max_completion_length, plain = 0;
    world_init(&w, bench->ctx, *c);
    for (int i = 0; i < 3; i++) {
        BenchTime time = bench_row(bench, 0, 0, ways[i].run, &w, "%s, prompts of %d", ways[i].name,
                                   c->max_prompt);
        if (i == 0) plain = time.min;
        printf("  %34s %10.0f tokens/s, %.2f of plain\n", "", tokens / time.min, plain / time.min);
        bench_save(bench, "%s,%d,%d,%d,%d,%.0f,%.3f", ways[i].name, c->prompts, c->group,
                   c->max_prompt, c->max_completion_length, tokens / time.min, plain / time.min);
    }
    rollouts_free(&w.rollouts), rollouts_free(&w.fast);
    decoder_generator_free(&w.generator);
    decoder_free(&w.decoder);
    params_free(&w.params);
    for (int p = 0; p < c->prompts; p++) free(w.prompts[p]);
    free(w.prompts), free(w.lengths);
    context_reset(bench->ctx);
}

/* ---- the loss ---- */

typedef struct Head {
    Tensor *logits, *targets;
    float *logp, *entropy, *lse;
} Head;

static void logprobs(Context *ctx, void *user) {
    Head *h = user;
    ON(ctx, token_logprobs_forward, h->logp, h->entropy, h->lse, h->logits->data, h->targets->data,
       NULL, NULL, tensor_rows(h->logits), tensor_dim(h->logits, -1), 1);
}

static void gradient(Context *ctx, void *user) {
    Head *h = user;
    ON(ctx, token_logprobs_backward, h->logits->data, h->logp, h->lse, h->targets->data, NULL, NULL,
       tensor_rows(h->logits), tensor_dim(h->logits, -1), 1);
}

static void measure_loss(Bench *bench, int rows, int vocab) {
    static const struct {
        const char *name;
        BenchFunction run;
        int moved; /* how often the logits are */
    } passes[] = {{"log-probabilities", logprobs, 1}, {"their gradient", gradient, 2}};
    Context *ctx = bench->ctx;
    int32_t *targets = must_alloc((size_t)rows, sizeof *targets);
    for (int i = 0; i < rows; i++) targets[i] = i % vocab;
    Head h = {.logits = bench_tensor(ctx, "logits", ctx->dtype, 7, SHAPE(rows, vocab)),
              .targets = tensor_copy_in(ctx, "targets", I32, targets, SHAPE(rows))};
    h.logp = arena_alloc(&ctx->data, (size_t)rows * sizeof(float));
    h.entropy = arena_alloc(&ctx->data, (size_t)rows * sizeof(float));
    h.lse = arena_alloc(&ctx->data, (size_t)rows * sizeof(float));
    for (int i = 0; i < 2; i++) {
        bench_row(bench, 0, (double)tensor_bytes(h.logits) * passes[i].moved, passes[i].run, &h,
                  "%s, %d x %d", passes[i].name, rows, vocab);
        bench_save(bench, "%s,%d,,,,,", passes[i].name, rows);
    }
    free(targets);
    context_reset(ctx);
}

int main(int argc, char **argv) {
    Bench bench = {0};
    int prompts = 16, group = 8, tokens = 32;
    const Option flags[] = {OPT_INT("prompts", 0, "N", &prompts, 1, 4096, "Questions"),
                            OPT_INT("generations", 0, "N", &group, 1, 4096, "Answers to each"),
                            OPT_INT("tokens", 0, "N", &tokens, 1, 4096, "Of each answer"), OPT_END};
    bench_open(&bench, argc, argv, "Rollouts against plain generating, and what the loss costs.",
               flags, "09_grpo/figures/out/rollout.csv",
               "what,prompts,generations,prompt_tokens,new_tokens,tokens_per_second,of_plain");
    bench_ceilings(&bench);
    bench_head("%d prompts x %d answers of %d tokens", prompts, group, tokens);
    static const int lengths[] = {8, 32, 128};
    for (int i = 0; i < 3; i++)
        compare(&bench,
                &(RolloutConfig){prompts, group, lengths[i], tokens, END, false, false, false});
    bench_head("log-probabilities of drawn tokens");
    measure_loss(&bench, 1024, 512);
    measure_loss(&bench, 1024, 32768);
    bench_close(&bench);
    return 0;
}
