/*
 * Chapter 06's benchmark: where guessing pays.
 *
 * A plain step is 1. Looking at k + 1 rows costs V, and each draft c. With a_j the share of drafts
 * j that are kept, once those before them were, speculative decoding is
 *
 *     (1 + a_1 + a_1 a_2 + ...) / (V + k c)
 *
 * times as fast. V and c are measured on drafts that are all wrong, planted for nothing (V) and
 * behind modules that do their work (V + k c); then the prediction is put beside a run whose drafts
 * are right as often as the flags say. Weights are random: what is said does not matter, that
 * tokens differ does, for each row of a step then chooses experts of its own.
 *
 * The 109m model's head is half of what a token is multiplied with, and a draft pays for it too: so
 * there the draft vocabulary decides.
 */
#include "06_mtp/speculate/speculate.h"
#include "06_mtp/speculate/verify.h"

#include "common/program/bench.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 64, NEW = 96, CAPACITY = 192, PERIOD = 997 };

/* A model with a module, and the text that plain decoding makes. */
typedef struct World {
    const char *name;
    Params params;
    Decoder decoder;
    Mtp mtp;
    int32_t text[CAPACITY];
} World;

static const DecoderConfig small_config = {.vocab_size = 256,
                                           .num_hidden_layers = 8,
                                           .block = {.hidden_size = 128,
                                                     .intermediate_size = 384,
                                                     .rms_norm_eps = 1e-6f,
                                                     .attention = ATTENTION_MLA,
                                                     .mla = {128, 4, 0, 64, 32, 16, 32, false}}};

/* 10_full_model's preset 109m. */
static DecoderConfig config_109m(void) {
    DecoderConfig cfg = {.vocab_size = 50257, .num_hidden_layers = 8};
    cfg.block = (BlockConfig){.hidden_size = 512,
                              .intermediate_size = 1408,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {512, 8, 192, 128, 64, 32, 64, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(512, 512, 8, 2)};
    cfg.block.moe.n_shared_experts = 1;
    return cfg;
}

static void world_init(World *w, Context *ctx, const char *name, DecoderConfig cfg) {
    Error err = {0};
    w->name = name;
    params_init(&w->params, ctx);
    decoder_register(&w->decoder, &w->params, &cfg);
    mtp_register(&w->mtp, &w->params, &w->decoder, 1);
    if (params_allocate(&w->params, false, &err)) fatal("%s", err.text);
    /* large enough that states, and with them the likeliest token, differ from place to place */
    float std = 2.0f / sqrtf((float)cfg.block.hidden_size);
    DecoderStart start = {1, std, std, std};
    decoder_randomize(&w->params, &w->decoder, start);
    mtp_randomize(&w->params, &w->mtp, start);
}

/* ---- one way of decoding ---- */

typedef struct Way {
    DecoderGenerator g;
    Speculator s;  /* of a way that guesses */
    int drafts;    /* 0: plain */
    double best;   /* seconds for a step */
    double tokens; /* of a step */
    double acceptance[SPECULATE_MOST];
} Way;

static const DecoderGenerateOptions options = {
    .sampling = {.top_p = 1}, .max_new_tokens = NEW, .end = -1};

/* rates [drafts]: how often drafts are right; NULL: never. */
static void way_init(Way *way, World *w, Context *ctx, int drafts, const double *rates,
                     bool modules, int vocabulary) {
    Error err = {0};
    int32_t *right = must_alloc(SPECULATE_MOST * PERIOD, sizeof *right);
    *way = (Way){.drafts = drafts, .best = INFINITY};
    if (decoder_generator_init(&way->g, ctx, &w->decoder, NULL, 1, CAPACITY, &err))
        fatal("%s", err.text);
    for (int i = 0; i < PROMPT; i++)
        way->g.sequences[0].ids[i] =
            (int32_t)(philox(4, 0, (uint64_t)i).word[0] % (uint32_t)w->decoder.cfg.vocab_size);
    way->g.sequences[0].count = PROMPT;
    for (int j = 0; j < drafts && rates; j++)
        for (int p = 0; p < PERIOD; p++)
            right[j * PERIOD + p] = rng_uniform(9, (uint64_t)j, (uint64_t)p) < rates[j];
    if (drafts) {
        DraftVocabulary *v = NULL;
        if (vocabulary < w->decoder.cfg.vocab_size) {
            int32_t *ids = must_alloc((size_t)vocabulary, sizeof *ids);
            v = must_alloc(1, sizeof *v);
            if (draft_vocabulary_frequent(ids, vocabulary, w->text, CAPACITY,
                                          w->decoder.cfg.vocab_size, -1, &err) ||
                draft_vocabulary_init(v, ctx, &w->decoder, ids, vocabulary, -1, &err))
                fatal("%s", err.text);
            free(ids);
        }
        Drafter *costs = modules ? drafter_of_modules(ctx, &w->mtp, &way->g.cache, &err) : NULL;
        if (modules && !costs) fatal("%s", err.text);
        Drafter *planted = drafter_planted(ctx, &way->g.cache, w->text, CAPACITY, right, PERIOD,
                                           w->decoder.cfg.vocab_size, costs, &err);
        if (!planted || speculator_init(&way->s, &way->g, planted, v, drafts, &err))
            fatal("%s", err.text);
    }
    free(right);
}

static void way_free(Way *way) {
    speculator_free(&way->s);
    decoder_generator_free(&way->g);
}

/* The text once more; the fastest time of a step is kept. */
static void way_run(Way *way) {
    DecoderGenerateResult result;
    decoder_generator_truncate(&way->g, -1, PROMPT);
    way->s.counts = (SpeculateCounts){0};
    if (way->drafts)
        speculate_generate(&way->s, &options, &result);
    else
        decoder_generate(&way->g, &options, &result);
    const SpeculateCounts *c = &way->s.counts;
    double steps = way->drafts ? (double)c->steps : result.new_tokens;
    way->best = fmin(way->best, result.seconds / steps);
    way->tokens = result.new_tokens / steps;
    for (int j = 0; j < way->drafts; j++)
        way->acceptance[j] = c->seen[j] ? (double)c->kept[j] / (double)c->seen[j] : 0;
}

/* ---- the table ---- */

static void compare(Bench *bench, World *w, int drafts, const double *rates, int vocabulary) {
    Context *ctx = bench->ctx;
    enum { PLAIN, LOOK, PAY, GUESS, WAYS };
    Way ways[WAYS];
    way_init(&ways[PLAIN], w, ctx, 0, NULL, false, 0);
    way_init(&ways[LOOK], w, ctx, drafts, NULL, false, vocabulary);
    way_init(&ways[PAY], w, ctx, drafts, NULL, true, vocabulary);
    way_init(&ways[GUESS], w, ctx, drafts, rates, true, vocabulary);
    double until = seconds_now() + 4 * bench->seconds;
    for (int turn = 0; turn < 2 || seconds_now() < until;
         turn++) /* in turns: all share the noise */
        for (int i = 0; i < WAYS; i++) way_run(&ways[i]);
    for (int i = LOOK; i < WAYS; i++)
        CHECK(!memcmp(ways[i].g.sequences[0].ids, w->text, (PROMPT + NEW) * sizeof *w->text),
              "the text is another one");
    double plain = ways[PLAIN].best, V = ways[LOOK].best / plain;
    double c = (ways[PAY].best - ways[LOOK].best) / plain / drafts;
    double predicted = speculate_speedup(ways[GUESS].acceptance, drafts, V, c);
    double measured = plain / (ways[GUESS].best / ways[GUESS].tokens);
    printf("  %-6s %6d %2d   %5.2f %5.2f   %5.2f %5.2f   %6.2f   %6.2fx %8.2fx %+6.1f %%\n",
           w->name, vocabulary, drafts, V, c, ways[GUESS].acceptance[0],
           drafts > 1 ? ways[GUESS].acceptance[1] : NAN, ways[GUESS].tokens, predicted, measured,
           100 * (measured / predicted - 1));
    bench->row = (BenchRow){
        .time = {ways[GUESS].best / ways[GUESS].tokens, plain, 1}, .of_peak = NAN, .of_copy = NAN};
    bench_save(bench, "%s,%d,%d,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f", w->name, vocabulary, drafts, V,
               c, ways[GUESS].acceptance[0], drafts > 1 ? ways[GUESS].acceptance[1] : 0,
               ways[GUESS].tokens, predicted, measured);
    for (int i = 0; i < WAYS; i++) way_free(&ways[i]);
}

static void print_columns(void) {
    printf("\n  model   vocab  k       V     c     a_1   a_2   tokens  predicted  measured\n");
}

/* The text that all ways make; says how varied it is. */
static void make_text(World *w, Context *ctx) {
    Way plain;
    way_init(&plain, w, ctx, 0, NULL, false, 0);
    way_run(&plain);
    memcpy(w->text, plain.g.sequences[0].ids, (PROMPT + NEW) * sizeof *w->text);
    int different = 0;
    for (int i = PROMPT; i < PROMPT + NEW; i++) {
        bool first = true;
        for (int j = PROMPT; j < i && first; j++) first = w->text[j] != w->text[i];
        different += first;
    }
    printf("  %s: %.0f tokens/s plainly, %d different tokens of %d\n", w->name, 1 / plain.best,
           different, NEW);
    way_free(&plain);
}

int main(int argc, char **argv) {
    Bench bench = {0};
    double rates[SPECULATE_MOST] = {0};
    const char *only = NULL;
    float first = 0.8f, others = 0.7f;
    const Option flags[] = {
        OPT_FLOAT("first", 0, "A", &first, 0, 1, "How often the first draft is right"),
        OPT_FLOAT("others", 0, "A", &others, 0, 1, "How often each of the others is"),
        OPT_STRING("model", 0, "NAME", &only, "small or 109m (default: both)"), OPT_END};
    bench_open(&bench, argc, argv, "Where guessing pays: V, c, and the speed that follows.", flags,
               "06_mtp/figures/out/pays.csv",
               "model,vocabulary,drafts,V,c,a1,a2,tokens,predicted,measured");
    for (int j = 0; j < SPECULATE_MOST; j++) rates[j] = j ? others : first;
    bench_head("tokens a step and speed-up against plain decoding: one text, %s",
               dtype_name(bench.ctx->dtype));
    static World small, large;
    bool both = !only;
    if (both || !strcmp(only, "small")) {
        world_init(&small, bench.ctx, "small", small_config);
        make_text(&small, bench.ctx);
        print_columns();
        for (int k = 1; k <= 4; k++) compare(&bench, &small, k, rates, 256);
    }
    if (both || !strcmp(only, "109m")) {
        static const int vocabularies[] = {8192, 4096, 50257};
        world_init(&large, bench.ctx, "109m", config_109m());
        make_text(&large, bench.ctx);
        print_columns();
        for (int i = 0; i < 3; i++)
            for (int k = 1; k <= 2; k++) compare(&bench, &large, k, rates, vocabularies[i]);
    }
    bench_close(&bench);
    return 0;
}
