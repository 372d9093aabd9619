/*
 * Rollouts: what the group shares is what each would have computed alone, ids and log-probabilities
 * are kept as they were drawn, and the trainer thinks the same of them as the sampler.
 */
#include "09_grpo/tests/test_grpo.h"

#include "09_grpo/rollout/fork.h"

#include <math.h>

enum { P = 3, G = 4, MAX_PROMPT = 9, MAX_NEW = 7, END = TASK_END };

/* Prompts of different lengths, one of them a single token. */
static int32_t prompt_0[] = {3, 1, 4, 1, 5, 9, 2, 6, 5}, prompt_1[] = {12},
               prompt_2[] = {2, 7, 1, 8};
static int32_t *const prompts[P] = {prompt_0, prompt_1, prompt_2};
static const int lengths[P] = {9, 1, 4};

static const RolloutConfig config = {P, G, MAX_PROMPT, MAX_NEW, END, false, false, false};
static const Sampling sampling = {.temperature = 1.2f, .top_p = 1, .seed = 3};

static void start(Rollouts *r, Context *ctx, Module *m, RolloutConfig cfg) {
    module_init(m, ctx);
    check_ok(rollouts_init(r, ctx, &m->decoder, NULL, &cfg, &err), &err);
}

/* Against a generator whose every sequence goes through its prompt itself, with the same random
 * numbers; twice, for a rollout leaves nothing behind. */
CONTEXT_TEST(rollout, shares_the_prompt) {
    Module m;
    Rollouts r;
    DecoderGenerator g;
    DecoderGenerateResult result;
    start(&r, &ctx, &m, config);
    check_ok(decoder_generator_init(&g, &ctx, &m.decoder, NULL, P * G, MAX_PROMPT + MAX_NEW, &err),
             &err);
    for (uint64_t stream = 0; stream <= 100; stream += 100) {
        check_ok(rollouts_draw(&r, prompts, lengths, &sampling, stream, &err), &err);
        decoder_generator_truncate(&g, -1, 0);
        for (int i = 0; i < P * G; i++) {
            DecoderSequence *s = &g.sequences[i];
            memcpy(s->ids, prompts[i / G], (size_t)lengths[i / G] * sizeof *s->ids);
            s->count = lengths[i / G], s->stream = stream + (uint64_t)i;
        }
        decoder_generate(&g,
                         &(DecoderGenerateOptions){.sampling = sampling,
                                                   .max_new_tokens = MAX_NEW,
                                                   .end = END,
                                                   .device_draws = true}, /* as rollouts do */
                         &result);
        int ended = 0;
        for (int i = 0; i < P * G; i++) {
            const DecoderSequence *s = &g.sequences[i];
            Completion c = rollouts_completion(&r, i);
            cr_assert_eq(c.sequence.prompt_tokens, lengths[i / G]);
            /* In BF16 the two ways round differently, and a token on the edge may tip over. */
            if (dtype == BF16) continue;
            cr_assert_eq(c.sequence.tokens, s->drawn, "%d: %d, not %d", i, c.sequence.tokens,
                         s->drawn);
            cr_assert_arr_eq(c.sequence.ids, s->ids, (size_t)s->count * sizeof *s->ids);
            check_close("logprobs", c.logprobs, s->logprobs + lengths[i / G], s->drawn, 1e-5);
            cr_assert_eq(c.ended, s->ids[s->count - 1] == END);
            cr_assert(c.ended || c.sequence.tokens == MAX_NEW);
            ended += c.ended;
        }
        cr_assert(dtype == BF16 || (ended > 0 && ended < P * G), "%d of %d end", ended, P * G);
    }
    decoder_generator_free(&g);
    rollouts_free(&r);
}

/* The latents of the group's sequences are the prompt's, bit for bit, over more than one page. */
CONTEXT_TEST(rollout, fork_copies) {
    enum { LONG = 70, SHORT = 3, WIDTH = 16, COPIES = 3 };
    BlockConfig cfg = {.hidden_size = HIDDEN,
                       .attention = ATTENTION_MLA,
                       .mla = {HIDDEN, 2, 0, WIDTH, 16, 0, 16, false}};
    DecoderCache from, to;
    check_ok(decoder_cache_init(&from, &ctx, &cfg, LAYERS, 2, LONG, &err), &err);
    check_ok(decoder_cache_init(&to, &ctx, &cfg, LAYERS, 2 * COPIES, LONG + 10, &err), &err);
    decoder_cache_begin(&from, LONG);
    Tensor *rows[LAYERS];
    for (int i = 0; i < LAYERS; i++) {
        rows[i] = test_normal(&ctx, "latents", 70 + (uint64_t)i, SHAPE(2, LONG, WIDTH));
        latent_cache_append(&ctx, &from.layers[i].latent, rows[i], NULL);
    }
    decoder_cache_truncate(&from, 1, SHORT);
    check_ok(cache_fork(&ctx, &to, &from, COPIES, &err), &err);
    for (int i = 0; i < LAYERS; i++) {
        const LatentCache *c = &to.layers[i].latent;
        Tensor *back = test_normal(&ctx, "back", 80, SHAPE(2 * COPIES, LONG, WIDTH));
        float *want = test_values(&ctx, rows[i]);
        ON(&ctx, latent_gather, back->data, NULL, c->latent.data, to.pages.block_table.data,
           to.pages.lengths.data, 2 * COPIES, LONG, WIDTH, 0, to.pages.max_pages);
        float *got = test_values(&ctx, back);
        for (int b = 0; b < 2 * COPIES; b++) {
            int tokens = b < COPIES ? LONG : SHORT, p = b / COPIES;
            cr_assert_eq(decoder_cache_length(&to, b), tokens);
            check_close("copy", got + b * LONG * WIDTH, want + p * LONG * WIDTH, tokens * WIDTH, 0);
        }
    }
    decoder_cache_free(&from), decoder_cache_free(&to);
}

/*
 * What the sampler saw is what the trainer computes: to the last bit on the CPU. On a GPU other
 * kernels decode, whose sums have another order; in BF16 each of some twenty roundings, of 2^-9,
 * has its part in a logit of about 2.
 */
CONTEXT_TEST(rollout, the_trainer_agrees) {
    Module m;
    Rollouts r;
    start(&r, &ctx, &m, config);
    check_ok(rollouts_draw(&r, prompts, lengths, &sampling, 0, &err), &err);
    Sequence list[P * G];
    int32_t order[P * G];
    float numbers[P * G][MAX_NEW], *trainer[P * G];
    for (int i = 0; i < P * G; i++) {
        list[i] = rollouts_completion(&r, i).sequence;
        order[i] = i, trainer[i] = numbers[i];
    }
    SequenceRows rows = {list, order, P * G};
    Tensor *ids, *targets;
    sequences_batch(&ctx, &rows, &ids, &targets);
    TokenLogprobs y = decoder_logprobs(&ctx, &m.decoder, NULL, ids, targets, 1.2f, NULL, NULL);
    sequences_gather(&ctx, &rows, y.logprobs, trainer);
    for (int i = 0; i < P * G; i++)
        for (int k = 0; k < list[i].tokens; k++)
            cr_assert_float_eq(numbers[i][k], rollouts_completion(&r, i).logprobs[k],
                               dtype == BF16    ? 6e-2
                               : device == CUDA ? 1e-5
                                                : 0,
                               "%d, %d: %g and %g", i, k, numbers[i][k],
                               rollouts_completion(&r, i).logprobs[k]);
    rollouts_free(&r);
}

/* With top-k 3 the sampler's log-probabilities are of three tokens; so are the trainer's, given the
 * support, and without it they are not. */
CPU_TEST(rollout, keeps_the_support) {
    Module m;
    Rollouts r;
    RolloutConfig cfg = config;
    cfg.keep_support = true;
    start(&r, &ctx, &m, cfg);
    Sampling three = sampling;
    three.top_k = 3;
    check_ok(rollouts_draw(&r, prompts, lengths, &three, 0, &err), &err);
    double with = 0, without = 0;
    for (int i = 0; i < P * G; i++) {
        Completion c = rollouts_completion(&r, i);
        const ActionSupport *s = c.support;
        int32_t order = 0;
        SequenceRows row = {&c.sequence, &order, 1};
        int T = sequences_width(&row), first = c.sequence.prompt_tokens - 1;
        int32_t starts[PLACES + 1] = {0};
        for (int t = 0; t < T; t++) starts[t + 1] = t < first ? 0 : s->starts[t - first + 1];
        for (int k = 0; k < c.sequence.tokens; k++) {
            int found = 0;
            cr_assert_eq(s->starts[k + 1] - s->starts[k], 3);
            for (int j = s->starts[k]; j < s->starts[k + 1]; j++)
                found += s->ids[j] == c.sequence.ids[first + 1 + k];
            cr_assert_eq(found, 1, "the drawn token is among them");
        }
        Tensor *ids, *targets;
        sequences_batch(&ctx, &row, &ids, &targets);
        TokenSupport support = {
            tensor_copy_in(&ctx, "starts", I32, starts, SHAPE(T + 1)),
            tensor_copy_in(&ctx, "ids", I32, s->ids, SHAPE(s->starts[c.sequence.tokens]))};
        for (int kept = 0; kept < 2; kept++) {
            float *logp = test_values(&ctx, decoder_logprobs(&ctx, &m.decoder, NULL, ids, targets,
                                                             1.2f, kept ? &support : NULL, NULL)
                                                .logprobs);
            for (int k = 0; k < c.sequence.tokens; k++) {
                double off = fabs(logp[first + k] - c.logprobs[k]);
                *(kept ? &with : &without) = fmax(kept ? with : without, off);
            }
        }
        context_reset(&ctx);
    }
    cr_assert(with < 1e-5 && without > 0.1, "with the support %g, without it %g", with, without);
    rollouts_free(&r);
}

CPU_TEST(rollout, refusals) {
    Module m;
    Rollouts r;
    start(&r, &ctx, &m, config);
    const struct {
        RolloutConfig cfg;
        const char *part;
    } rows[] = {
        {{0, G, 4, 4, END, false, false, false}, "prompts is 0"},
        {{P, G, 4, 0, END, false, false, false}, "max_completion_length is 0"},
        {{P, G, 20, 8, END, false, false, false}, "the model has places for 24"},
        {{P, G, 4, 4, -1, false, false, false}, "no token that ends an answer"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        Rollouts none;
        cr_assert_eq(rollouts_init(&none, &ctx, &m.decoder, NULL, &rows[i].cfg, &err), -1);
        cr_assert(strstr(err.text, rows[i].part), "%s", err.text);
    }
    cr_assert_eq(rollouts_draw(&r, prompts, (int[P]){9, 0, 4}, &sampling, 0, &err), -1);
    cr_assert(strstr(err.text, "prompt 1 has 0 tokens; it must have 1 to 9"), "%s", err.text);
    cr_assert_eq(rollouts_draw(&r, prompts, (int[P]){9, 1, 10}, &sampling, 0, &err), -1);
    Sampling penalised = sampling;
    penalised.repetition_penalty = 1.3f;
    cr_assert_eq(rollouts_draw(&r, prompts, lengths, &penalised, 0, &err), -1);
    /* the first that is broken is named, not the last */
    float *table = test_weight(&m.params, m.decoder.embed_tokens);
    table[12 * HIDDEN] = table[8 * HIDDEN] = NAN;
    params_set(&m.params, m.decoder.embed_tokens, table);
    cr_assert_eq(rollouts_draw(&r, prompts, lengths, &sampling, 0, &err), -1);
    cr_assert(strstr(err.text, "not finite behind prompt 1:"), "%s", err.text);
    params_fill(&m.params, m.decoder.norm, NAN);
    cr_assert_eq(rollouts_draw(&r, prompts, lengths, &sampling, 0, &err), -1);
    cr_assert(strstr(err.text, "logits are not finite behind prompt 0:"), "%s", err.text);
}
