/*
 * Chapter 06's benchmark: where guessing pays (speculate/pays.h), for a small model and at the
 * sizes of 109m, whose head is half of what a token is multiplied with: there the draft vocabulary
 * decides.
 *
 * Weights are random. What is said does not matter; that tokens differ does, for then each row of a
 * step chooses experts of its own. Drafts are planted and right as often as the flags say.
 */
#include "06_mtp/speculate/pays.h"

#include "common/program/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT = 64, NEW = 96 };

/* A model with a module, and the text that it makes. */
typedef struct World {
    const char *name;
    Params params;
    Decoder decoder;
    Mtp mtp;
    int32_t text[PROMPT + NEW];
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

/* ---- the table ---- */

/* vocabulary: how many tokens are guessed, among them all that the text has. */
static void compare(Bench *bench, World *w, int drafts, const double *rates, int vocabulary) {
    Error err;
    int vocab = w->decoder.cfg.vocab_size;
    int32_t prompt[PROMPT], *ids = must_alloc((size_t)vocabulary, sizeof *ids);
    for (int i = 0; i < PROMPT; i++)
        prompt[i] = (int32_t)(philox(4, 0, (uint64_t)i).word[0] % (uint32_t)vocab);
    if (draft_vocabulary_frequent(ids, vocabulary, w->text, PROMPT + NEW, vocab, -1, &err))
        fatal("%s", err.text);
    PaysTask task = {.ctx = bench->ctx,
                     .mtp = &w->mtp,
                     .prompt = prompt,
                     .prompt_tokens = PROMPT,
                     .new_tokens = NEW,
                     .drafts = drafts,
                     .vocabulary = vocabulary < vocab ? ids : NULL,
                     .vocabulary_size = vocabulary,
                     .rates = rates,
                     .seconds = 4 * bench->seconds};
    Pays p = pays_measure(&task, w->text, NULL);
    double second = drafts > 1 ? p.a[1] : NAN;
    printf("  %-6s %6d %2d   %5.2f %5.2f   %5.2f %5.2f   %6.2f   %6.2fx %8.2fx %+6.1f %%\n",
           w->name, vocabulary, drafts, p.V, p.c, p.a[0], second, p.tokens, p.predicted, p.measured,
           100 * (p.measured / p.predicted - 1));
    fflush(stdout);
    bench->row =
        (BenchRow){.time = {p.plain / p.measured, p.plain, 2}, .of_peak = NAN, .of_copy = NAN};
    bench_save(bench, "%s,%d,%d,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f,%.3f", w->name, vocabulary, drafts,
               p.V, p.c, p.a[0], drafts > 1 ? p.a[1] : 0, p.tokens, p.predicted, p.measured);
    free(ids);
}

static void print_columns(void) {
    printf("\n  model   vocab  k       V     c     a_1   a_2   tokens  predicted  measured\n");
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
        print_columns();
        for (int k = 1; k <= 4; k++) compare(&bench, &small, k, rates, 256);
    }
    if (both || !strcmp(only, "109m")) {
        static const int vocabularies[] = {8192, 4096, 50257};
        world_init(&large, bench.ctx, "109m", config_109m());
        print_columns();
        for (int i = 0; i < 3; i++)
            for (int k = 1; k <= 2; k++) compare(&bench, &large, k, rates, vocabularies[i]);
    }
    bench_close(&bench);
    return 0;
}
