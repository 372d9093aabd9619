/*
 * Chapter 09's other benchmark: a step of GRPO, drawing and learning apart, at the sizes of
 * 10_full_model's 109m.
 *
 * Weights and prompts are random and no answer ends, so all have the same length and the work is
 * known. A reward that depends on the answer alone makes groups with a difference.
 */
#include "07_rope/rope.h"
#include "09_grpo/grpo.h"

#include "common/program/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct StepBench {
    int prompts, group, prompt_tokens, new_tokens, micro_batch, steps, vocab;
    bool small, keep_routing;
} StepBench;

/* 10_full_model's preset 109m; or a quarter of its width and layers, for a CPU. */
static DecoderConfig step_config(const StepBench *b) {
    int by = b->small ? 4 : 1, hidden = 512 / by;
    DecoderConfig cfg = {.vocab_size = b->vocab, .num_hidden_layers = 8 / by};
    cfg.block = (BlockConfig){.hidden_size = hidden,
                              .intermediate_size = 1408 / by,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {hidden, 8 / by, 192 / by, 128 / by, 64, 32, 64, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(hidden, hidden, 8, 2)};
    cfg.block.moe.n_shared_experts = 1;
    return cfg;
}

static int step_prompt(void *self, uint64_t index, GrpoPrompt *prompt, Error *err) {
    const StepBench *b = self;
    (void)err;
    *prompt = (GrpoPrompt){must_alloc((size_t)b->prompt_tokens, sizeof(int32_t)), b->prompt_tokens,
                           must_strdup(""), NULL};
    for (int t = 0; t < b->prompt_tokens; t++) /* never 0, the end */
        prompt->ids[t] =
            1 + (int32_t)(philox(4, index, (uint64_t)t).word[0] % (uint32_t)(b->vocab - 1));
    return 0;
}

static char *step_text(void *self, const int32_t *ids, int count) {
    (void)self;
    char *text = must_alloc(2, 1);
    text[0] = count && ids[0] % 2 ? '1' : '0';
    return text;
}

static float first_is_odd(const Answer *a) { return a->text[0] == '1'; }

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void row_of(Bench *bench, const StepBench *b, const char *what, double *times,
                   double tokens) {
    char least[32], middle[32];
    qsort(times, (size_t)b->steps, sizeof *times, by_size);
    bench->row = (BenchRow){.time = {times[0], times[b->steps / 2], b->steps}};
    printf("  %-34s %9s %9s %20.0f tokens/s\n", what,
           format_duration(least, sizeof least, times[0]),
           format_duration(middle, sizeof middle, times[b->steps / 2]), tokens / times[0]);
    bench_save(bench, "%s,%d,%d,%d,%d", what, b->prompts, b->group, b->prompt_tokens,
               b->new_tokens);
}

static void measure(Bench *bench, StepBench *b) {
    static const Reward odd = {"odd", first_is_odd, ""};
    Context *ctx = bench->ctx;
    Params params;
    Decoder decoder;
    Rope rope;
    Grpo g;
    Error err;
    AdamW adamw = adamw_defaults();
    GrpoConfig cfg = grpo_defaults();
    DecoderConfig model = step_config(b);
    RopeConfig positions = rope_config(32, b->prompt_tokens + b->new_tokens);
    float std = 1 / sqrtf((float)model.block.hidden_size);
    cfg.rollout = (RolloutConfig){.prompts = b->prompts,
                                  .group = b->group,
                                  .max_prompt = b->prompt_tokens,
                                  .max_completion_length = b->new_tokens,
                                  .keep_routing = b->keep_routing};
    cfg.rewards[0] = (WeightedReward){&odd, 1}, cfg.reward_count = 1;
    cfg.micro_batch = b->micro_batch;
    params_init(&params, ctx);
    decoder_register(&decoder, &params, &model);
    if (params_allocate(&params, true, &err) || rope_init(&rope, ctx, &positions, &err) ||
        grpo_check(&cfg, &err) ||
        grpo_init(&g, ctx, &decoder, NULL, &rope.position, &params, &adamw, &cfg,
                  (GrpoSource){b, step_prompt, step_text}, &err))
        fatal("%s", err.text);
    decoder_randomize(&params, &decoder, (DecoderStart){1, std, std, std});
    printf("\n%lld numbers, %d questions of %d tokens x %d answers of %d\n",
           (long long)params_count(&params), b->prompts, b->prompt_tokens, b->group, b->new_tokens);
    double *rollout = must_alloc((size_t)b->steps, sizeof *rollout),
           *update = must_alloc((size_t)b->steps, sizeof *update), apart = 0, tokens = 0;
    for (int i = -1; i < b->steps; i++) { /* the first one captures, and finds its plans */
        GrpoReport r;
        if (grpo_step(&g, 1e-6f, &r, &err)) fatal("%s", err.text);
        if (i < 0) continue;
        rollout[i] = r.rollout_seconds, update[i] = r.update_seconds;
        tokens = (double)r.num_tokens, apart = fmax(apart, r.logp_difference_max);
    }
    printf("  %-34s %9s %9s\n", "", "min", "median");
    row_of(bench, b, "rollout", rollout, tokens);
    row_of(bench, b, "update", update, tokens);
    printf("  sampler and trainer apart by %.2g at most\n", apart);
    free(rollout), free(update);
    grpo_free(&g);
    rope_free(&rope);
    decoder_free(&decoder);
    params_free(&params);
}

int main(int argc, char **argv) {
    StepBench b = {64, 16, 64, 128, 64, 3, 50257, false, false};
    Bench bench = {0};
    const Option flags[] = {
        OPT_INT("prompts", 0, "N", &b.prompts, 1, 4096, "Questions"),
        OPT_INT("generations", 0, "N", &b.group, 2, 4096, "Answers to each"),
        OPT_INT("prompt-tokens", 0, "N", &b.prompt_tokens, 1, 4096, "Of each question"),
        OPT_INT("tokens", 0, "N", &b.new_tokens, 1, 4096, "Of each answer"),
        OPT_INT("micro-batch", 0, "N", &b.micro_batch, 0, 4096, "Sequences in one piece; 0: all"),
        OPT_INT("steps", 0, "N", &b.steps, 1, 1000, "Steps that count"),
        OPT_INT("vocab", 0, "N", &b.vocab, 16, 1 << 20, "Vocabulary"),
        OPT_FLAG("small", 0, &b.small, "A quarter of the width and of the layers"),
        OPT_FLAG("keep-routing", 0, &b.keep_routing, "Experts of the rollout are used again"),
        OPT_END};
    bench_open(&bench, argc, argv, "A step of GRPO: seconds of drawing and of learning.", flags,
               "09_grpo/figures/out/step.csv", "what,prompts,generations,prompt_tokens,new_tokens");
    measure(&bench, &b);
    bench_close(&bench);
    return 0;
}
