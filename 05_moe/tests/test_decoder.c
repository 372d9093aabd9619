/*
 * The decoder, with learned places: its loss is what its parts add up to, it learns, and it cannot
 * see the future. With positions and caches it is tested by chapters 07 and 10. And ids drawn from
 * it.
 */
#include "05_moe/decoder/decoder_generate.h"

#include "common/program/testing.h"

#include <criterion/redirect.h>
#include <math.h>
#include <signal.h>
#include <string.h>

enum { VOCAB = 11, T = 16, B = 4, LAYERS = 2 };

typedef struct Module {
    Params params;
    Decoder model;
} Module;

static DecoderConfig config(void) {
    DecoderConfig cfg = {.vocab_size = VOCAB, .places = T, .num_hidden_layers = LAYERS};
    cfg.block = (BlockConfig){.hidden_size = 32,
                              .intermediate_size = 64,
                              .rms_norm_eps = 1e-6f,
                              .multihead = {32, 2, 2, 16, false},
                              .first_k_dense_replace = 1,
                              .moe = moe_config(32, 16, 4, 2)};
    return cfg;
}

static void module_init(Module *m, Context *ctx) {
    DecoderConfig cfg = config();
    params_init(&m->params, ctx);
    check_ok(decoder_check(&cfg, &err), &err);
    decoder_register(&m->model, &m->params, &cfg);
    check_ok(params_allocate(&m->params, true, &err), &err);
    decoder_randomize(&m->params, &m->model, (DecoderStart){0.5f, 0.18f, 0.18f, 0.18f});
}

/* ids[i] = i^2 mod 11: the next one follows from the last two */
static Tensor *squares(Context *ctx, int shift) {
    int32_t ids[B * T];
    for (int i = 0; i < B * T; i++) ids[i] = (i + shift) * (i + shift) % VOCAB;
    return tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, T));
}

CONTEXT_TEST(decoder, learns) {
    Module m;
    module_init(&m, &ctx);
    AdamW adamw = adamw_defaults();
    float first = 0, last = 0;
    for (int step = 0; step < 60; step++) {
        BlockTraining training = {.losses.aux_loss_alpha = 0.01f};
        Tensor *loss;
        params_zero_grad(&m.params);
        ctx.recording = true;
        Tensor *total = decoder_training_loss(&ctx, &m.model, squares(&ctx, 0), squares(&ctx, 1),
                                              &(DecoderRun){.training = &training}, &loss);
        const MoeRecord *records = m.model.records;
        tape_backward(&ctx, total);
        cr_assert(!records[0].loss && records[1].loss, "the first layer is dense");
        float value[3];
        tensor_download(&ctx, value, total), tensor_download(&ctx, value + 1, loss);
        tensor_download(&ctx, value + 2, records[1].loss);
        cr_assert_float_eq(value[0], value[1] + value[2], 1e-5);
        first = step ? first : value[1], last = value[1];
        adamw_step(&adamw, &m.params, 0.01f, 1);
        decoder_rebalance(&ctx, &m.model, 0.01f);
        context_reset(&ctx);
    }
    cr_assert(first > 2 && last < 0.7f, "from %g to %g", first, last);
}

/* Loads that can be worked out by hand, of two layers behind a dense one; and the first NaN. */
CPU_TEST(decoder, load_and_health_of_all_layers) {
    Params params;
    Decoder model;
    DecoderConfig cfg = config();
    cfg.num_hidden_layers = 3;
    params_init(&params, &ctx);
    decoder_register(&model, &params, &cfg);
    check_ok(params_allocate(&params, true, &err), &err);
    decoder_randomize(&params, &model, (DecoderStart){0.5f, 0.18f, 0.18f, 0.18f});
    memcpy(model.layers[1].moe.load->data, (int32_t[4]){4, 2, 2, 0}, 4 * sizeof(int32_t));
    memcpy(model.layers[2].moe.load->data, (int32_t[4]){8, 0, 0, 0}, 4 * sizeof(int32_t));
    ExpertLoad load = decoder_expert_load(&ctx, &model);
    cr_assert(load.max_vio == 3 && load.idle == 4, "%g, %d", load.max_vio, load.idle);
    memset(model.layers[2].moe.load->data, 0, 4 * sizeof(int32_t)); /* the worst is not the last */
    load = decoder_expert_load(&ctx, &model);
    cr_assert(load.max_vio == 1 && load.idle == 5, "%g, %d", load.max_vio, load.idle);
    check_ok(decoder_healthy(&ctx, &model, &err), &err);
    ((float *)model.embed_tokens->data)[0] = NAN;
    decoder_states(&ctx, &model, squares(&ctx, 0), &(DecoderRun){0});
    cr_assert(decoder_healthy(&ctx, &model, &err) == -1);
    cr_assert(strstr(err.text, "layers.1."), "%s", err.text);
    decoder_free(&model);
}

static Tensor *logits_of(Context *ctx, const Decoder *d, Tensor *ids) {
    return decoder_logits(ctx, d, decoder_states(ctx, d, ids, &(DecoderRun){0}));
}

CPU_TEST(decoder, the_future_changes_nothing) {
    Module m;
    module_init(&m, &ctx);
    int32_t ids[T] = {0};
    float before[T * VOCAB], after[T * VOCAB];
    Tensor *t = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, T));
    tensor_download(&ctx, before, logits_of(&ctx, &m.model, t));
    for (int i = 9; i < T; i++) ids[i] = 5;
    t = tensor_copy_in(&ctx, "ids", I32, ids, SHAPE(1, T));
    tensor_download(&ctx, after, logits_of(&ctx, &m.model, t));
    /* Experts get other tokens beside the old ones; only the order of sums may change. */
    check_close("the past", after, before, 9 * VOCAB, 1e-5);
    cr_assert(fabsf(after[9 * VOCAB] - before[9 * VOCAB]) > 1e-3f);
}

/* With learned places, which are counted on behind what a cache holds. */
DEVICE_TEST(decoder, cached_is_uncached) {
    enum { FIRST = 9 };
    for (int latent = 0; latent < 2; latent++) {
        Context ctx = test_context(device, dtype);
        Module m;
        DecoderCache cache;
        Error err = {0};
        DecoderConfig cfg = config();
        if (latent) {
            cfg.block.attention = ATTENTION_MLA;
            cfg.block.mla = (MlaConfig){32, 2, 0, 16, 16, 0, 16, false};
        }
        cfg.block.moe.router.n_routed_experts = 0; /* no choice that rounding could turn */
        params_init(&m.params, &ctx);
        decoder_register(&m.model, &m.params, &cfg);
        check_ok(params_allocate(&m.params, false, &err), &err);
        decoder_randomize(&m.params, &m.model, (DecoderStart){0.5f, 0.18f, 0.18f, 0.18f});
        int32_t *ids = test_ints(&ctx, squares(&ctx, 3));
        float *want = test_values(&ctx, logits_of(&ctx, &m.model, squares(&ctx, 3)));
        check_ok(decoder_cache_init(&cache, &ctx, &cfg.block, LAYERS, B, T, &err), &err);
        const DecoderRun run = {.cache = &cache};
        for (int at = 0; at < T; at += at ? 1 : FIRST) {
            int count = at ? 1 : FIRST;
            int32_t part[B * FIRST];
            float right[B * FIRST * VOCAB];
            for (int b = 0; b < B; b++) {
                memcpy(part + b * count, ids + b * T + at, (size_t)count * sizeof *part);
                memcpy(right + b * count * VOCAB, want + (b * T + at) * VOCAB,
                       (size_t)(count * VOCAB) * sizeof *right);
            }
            Tensor *step = tensor_copy_in(&ctx, "ids", I32, part, SHAPE(B, count));
            Tensor *x = at ? decoder_decode(&ctx, &m.model, step, &run)
                           : decoder_states(&ctx, &m.model, step, &run);
            /* Other kernels: the order of sums differs, and in BF16 what is rounded on the way. */
            check_tensor(&ctx, "logits", decoder_logits(&ctx, &m.model, x), right,
                         dtype == BF16 ? 3e-2 : 1e-5);
        }
        decoder_cache_free(&cache);
        context_free(&ctx);
    }
}

Test(decoder, a_wrong_config_is_named) {
    DecoderConfig cfg = config();
    cfg.num_hidden_layers = 0;
    cr_assert(decoder_check(&cfg, &err) == -1);
    cr_assert(strstr(err.text, "num_hidden_layers is 0"), "%s", err.text);
    cfg = config(), cfg.vocab_size = 1;
    cr_assert(decoder_check(&cfg, &err) == -1);
    cr_assert(strstr(err.text, "vocab_size is 1"), "%s", err.text);
    cfg = config(), cfg.block.moe.router.num_experts_per_tok = 5;
    cr_assert(decoder_check(&cfg, &err) == -1);
    cr_assert(strstr(err.text, "num_experts_per_tok is 5"), "%s", err.text);
}

/* ---- behind a cache ---- */

/* Latent attention, all layers dense, no positions. */
static void latent_init(Module *m, Context *ctx) {
    DecoderConfig cfg = {.vocab_size = VOCAB, .num_hidden_layers = LAYERS};
    cfg.block = (BlockConfig){.hidden_size = 32,
                              .intermediate_size = 64,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {32, 2, 0, 16, 16, 0, 16, false}};
    params_init(&m->params, ctx);
    check_ok(decoder_check(&cfg, &err), &err);
    decoder_register(&m->model, &m->params, &cfg);
    check_ok(params_allocate(&m->params, false, &err), &err);
    decoder_randomize(&m->params, &m->model, (DecoderStart){0.5f, 0.18f, 0.18f, 0.18f});
}

/* The logits behind `count` ids of every sequence of B, from ids[b][first] on. */
static float *logits_from(Context *ctx, const Module *m, const int32_t ids[B][T], int first,
                          int count, const DecoderRun *run) {
    int32_t some[B * T];
    for (int b = 0; b < B; b++)
        memcpy(some + b * count, ids[b] + first, (size_t)count * sizeof **ids);
    Tensor *t = tensor_copy_in(ctx, "ids", I32, some, SHAPE(B, count));
    Tensor *x = (count == 1 ? decoder_decode : decoder_states)(ctx, &m->model, t, run);
    float *logits = test_values(ctx, decoder_logits(ctx, &m->model, x));
    context_reset(ctx);
    return logits;
}

/* Tokens that were taken back leave no trace: what follows sees those that stayed, in each sequence
 * as many as it kept. */
CONTEXT_TEST(decoder_cache, what_is_rewound_was_never_there) {
    enum { TEXT = 8 };
    static const int32_t back[B] = {3, 0, TEXT, 1};
    Module m;
    DecoderCache cache;
    int32_t ids[B][T], kept[B][T];
    latent_init(&m, &ctx);
    check_ok(decoder_cache_init(&cache, &ctx, &m.model.cfg.block, LAYERS, B, T, &err), &err);
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) ids[b][t] = (5 * t + t * t + b) % VOCAB;
    memcpy(kept, ids, sizeof kept);
    const DecoderRun run = {.cache = &cache};
    logits_from(&ctx, &m, ids, 0, TEXT, &run);
    decoder_cache_rewind(&ctx, &cache, tensor_copy_in(&ctx, "back", I32, back, SHAPE(B)));
    decoder_cache_follow(&cache, 0, back);
    for (int b = 0; b < B; b++) {
        cr_assert_eq(decoder_cache_length(&cache, b), TEXT - back[b]);
        kept[b][TEXT - back[b]] = ids[b][TEXT];
    }
    float *got = logits_from(&ctx, &m, ids, TEXT, 1, &run);
    float *whole = logits_from(&ctx, &m, kept, 0, T, &(DecoderRun){0});
    for (int b = 0; b < B; b++) /* two layers; BF16 rounds what it keeps of each token */
        check_close("the next token", got + b * VOCAB, whole + (b * T + TEXT - back[b]) * VOCAB,
                    VOCAB, dtype == BF16 ? 16 * 0x1p-9 : 64 * tolerance_of(F32, 32));
}

/* A query's own token and the WINDOW - 1 before it; `all`: every token there is. */
enum { WINDOW = 3 };
typedef struct Window {
    Selection selection;
    bool all;
} Window;

static Tensor *select_window(Context *ctx, const Selection *self, Tensor *x, Tensor *c_q,
                             LatentCache *cache) {
    (void)c_q;
    int rows = (int)tensor_dim(x, 0), tokens = (int)tensor_dim(x, 1);
    int count = ((const Window *)self)->all ? T : WINDOW;
    int32_t chosen[B * T * T];
    for (int i = 0; i < rows * tokens; i++) {
        int query = i % tokens + (cache ? cache->pages->length[i / tokens] - tokens : 0);
        for (int k = 0; k < count; k++) chosen[i * count + k] = query - k;
    }
    return tensor_copy_in(ctx, "chosen", I32, chosen, SHAPE(rows, tokens, count));
}

/* Every layer of the decoder sees what its selection says: all of it is as none was given, and a
 * part is the same part token by token from the cache as in the whole text. */
CONTEXT_TEST(decoder, selections_reach_every_layer) {
    Module m;
    DecoderCache cache;
    int32_t ids[B][T];
    latent_init(&m, &ctx);
    check_ok(decoder_cache_init(&cache, &ctx, &m.model.cfg.block, LAYERS, B, T, &err), &err);
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) ids[b][t] = (5 * t + t * t + b) % VOCAB;
    double close = dtype == BF16 ? 16 * 0x1p-9 : 64 * tolerance_of(F32, 32);
    Window windows[LAYERS] = {{{.select = select_window}, true}, {{.select = select_window}, true}};
    const Selection *each[LAYERS] = {&windows[0].selection, &windows[1].selection};
    const DecoderRun selected = {.selections = each};
    float *before = logits_from(&ctx, &m, ids, 0, T, &(DecoderRun){0});
    float *part = logits_from(&ctx, &m, ids, 0, T, &selected);
    check_close("all", part, before, B * T * VOCAB, close);
    for (int layer = 0; layer < LAYERS; layer++, before = part) {
        float farthest = 0;
        windows[layer].all = false;
        part = logits_from(&ctx, &m, ids, 0, T, &selected);
        for (int i = 0; i < B * T * VOCAB; i++)
            farthest = fmaxf(farthest, fabsf(part[i] - before[i]));
        cr_assert(farthest > 0.1f, "a window in layer %d changes nothing: %g", layer, farthest);
    }
    for (int t = 0; t < T; t++) {
        const DecoderRun run = {.cache = &cache, .selections = each};
        float *got = logits_from(&ctx, &m, ids, t, 1, &run);
        for (int b = 0; b < B; b++)
            check_close("from the cache", got + b * VOCAB, part + (b * T + t) * VOCAB, VOCAB,
                        close);
    }
}

/* ---- drawn ids ---- */

enum { SEQUENCES = 3, NEW = 9 };

/* Log-probabilities are those of the whole text at once; `end` is kept, and nothing behind it. */
CONTEXT_TEST(decoder_generate, ids_and_their_logprobs) {
    Module m;
    latent_init(&m, &ctx);
    DecoderGenerator g;
    if (decoder_generator_init(&g, &ctx, &m.model, NULL, SEQUENCES, T, &err))
        cr_assert_fail("%s", err.text);
    DecoderGenerateOptions options = {
        .sampling = {.temperature = 0.7f, .top_p = 1, .seed = 3}, .max_new_tokens = NEW, .end = -1};
    DecoderGenerateResult result;
    for (int b = 0; b < SEQUENCES; b++) {
        g.sequences[b].count = b + 1;
        for (int i = 0; i <= b; i++) g.sequences[b].ids[i] = (3 * i + b) % VOCAB;
    }
    decoder_generate(&g, &options, &result);
    cr_assert(result.new_tokens == SEQUENCES * NEW && result.prompt_tokens == 0 + 1 + 2);
    int32_t first[SEQUENCES][T];
    for (int b = 0; b < SEQUENCES; b++) {
        const DecoderSequence *s = &g.sequences[b];
        float logits[T * VOCAB];
        Tensor *text = tensor_copy_in(&ctx, "ids", I32, s->ids, SHAPE(1, s->count));
        tensor_download(&ctx, logits, logits_of(&ctx, &m.model, text));
        context_reset(&ctx);
        cr_assert(s->count == b + 1 + NEW && s->drawn == NEW);
        for (int i = b + 1; i < s->count; i++) {
            const float *row = logits + (i - 1) * VOCAB;
            double sum = 0;
            for (int j = 0; j < VOCAB; j++) sum += exp(row[j] / 0.7);
            /* logits of order 1, in BF16 with steps of 2^-7, after a few layers */
            cr_assert(fabs(s->logprobs[i] - (row[s->ids[i]] / 0.7 - log(sum))) <
                          (dtype == BF16 ? 0.15 : 1e-4),
                      "sequence %d, token %d: %g", b, i, s->logprobs[i]);
        }
        memcpy(first[b], s->ids, sizeof first[b]);
        decoder_generator_truncate(&g, b, b + 1);
    }
    options.end = first[1][6];
    decoder_generate(&g, &options, &result);
    for (int b = 0; b < SEQUENCES; b++) {
        const DecoderSequence *s = &g.sequences[b];
        int count = b + 1;
        while (count < b + 1 + NEW && first[b][count++] != options.end) {}
        cr_assert(s->count == count, "sequence %d has %d ids, not %d", b, s->count, count);
        cr_assert(!memcmp(s->ids, first[b], (size_t)count * sizeof *s->ids));
    }
    options = (DecoderGenerateOptions){.max_new_tokens = 100, .end = -1}; /* the likeliest */
    decoder_generate(&g, &options, &result);
    for (int b = 0; b < SEQUENCES; b++)
        for (int i = 1; i <= g.sequences[b].drawn; i++)
            cr_assert(g.sequences[b].logprobs[g.sequences[b].count - i] == 0);
    cr_assert(result.full, "the longest ends at the capacity");
}

/* ---- several rows at once ---- */

enum { FEW_VOCAB = 96, FEW_LAYERS = 3, FEW_T = 144, FEW_BATCH = 4 };

typedef struct FewModel {
    Params params;
    Decoder model;
} FewModel;

static void few_model_init(FewModel *m, Context *ctx, MlaConfig mla) {
    DecoderConfig cfg = {.vocab_size = FEW_VOCAB, .num_hidden_layers = FEW_LAYERS};
    Error err = {0};
    cfg.block = (BlockConfig){.hidden_size = 64,
                              .intermediate_size = 160,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = mla,
                              .first_k_dense_replace = 1,
                              .moe = moe_config(64, 64, 8, 2)};
    cfg.block.moe.n_shared_experts = 1;
    params_init(&m->params, ctx);
    check_ok(decoder_check(&cfg, &err), &err);
    decoder_register(&m->model, &m->params, &cfg);
    check_ok(params_allocate(&m->params, false, &err), &err);
    decoder_randomize(&m->params, &m->model, (DecoderStart){0.5f, 0.18f, 0.18f, 0.18f});
}

/* The logits [B, FEW_T, FEW_VOCAB] of B texts that go through the decoder `each` tokens at a
 * time. */
static void in_steps(Context *ctx, const Decoder *d, int B, int each, float *logits) {
    DecoderCache cache;
    Error err = {0};
    check_ok(decoder_cache_init(&cache, ctx, &d->cfg.block, FEW_LAYERS, B, FEW_T, &err), &err);
    for (int at = 0; at < FEW_T; at += each) {
        int32_t ids[FEW_BATCH * FEW_T];
        for (int b = 0; b < B; b++)
            for (int t = 0; t < each; t++) ids[b * each + t] = (7 * (at + t) + 31 * b) % FEW_VOCAB;
        Tensor *x = decoder_decode(ctx, d, tensor_copy_in(ctx, "ids", I32, ids, SHAPE(B, each)),
                                   &(DecoderRun){.cache = &cache});
        float *step = test_floats(B * each * FEW_VOCAB);
        tensor_download(ctx, step, decoder_logits(ctx, d, x));
        for (int b = 0; b < B; b++)
            memcpy(logits + (b * FEW_T + at) * FEW_VOCAB, step + b * each * FEW_VOCAB,
                   (size_t)(each * FEW_VOCAB) * sizeof *step);
        free(step);
        context_reset(ctx);
    }
    decoder_cache_free(&cache);
}

/* Chapter 06 rests on this: guesses that are looked at together get the logits, to the last bit,
 * that plain decoding would get for them. Texts that begin, and fill one page and the next. */
DEVICE_TEST(decoder_decode, a_row_of_a_few_has_the_bits_of_one_alone) {
    static const MlaConfig attentions[] = {{64, 2, 0, 32, 16, 16, 16, false},
                                           {64, 4, 32, 64, 32, 16, 32, false},
                                           {64, 8, 32, 64, 16, 16, 16, false}};
    static const int batches[] = {1, 2, FEW_BATCH}, steps[] = {2, 3, 4, 8, 16};
    for (int a = 0; a < 3; a++) {
        Context ctx = test_context(device, dtype);
        FewModel m;
        few_model_init(&m, &ctx, attentions[a]);
        for (int i = 0; i < 3; i++) {
            int B = batches[i];
            size_t count = (size_t)(B * FEW_T * FEW_VOCAB);
            float *one = test_floats((int64_t)count), *few = test_floats((int64_t)count);
            in_steps(&ctx, &m.model, B, 1, one);
            for (int s = 0; s < 5 && B * steps[s] <= 16; s++) {
                in_steps(&ctx, &m.model, B, steps[s], few);
                for (size_t at = 0; at < count; at++)
                    cr_assert(few[at] == one[at],
                              "attention %d, %d texts, %d at a time: token %d has logit %.9g, "
                              "alone %.9g",
                              a, B, steps[s], (int)(at / FEW_VOCAB % FEW_T), few[at], one[at]);
            }
            free(one), free(few);
        }
        params_free(&m.params);
        decoder_free(&m.model);
        context_free(&ctx);
    }
}

/* Keys and values have one length for all: several sequences cannot be cut one by one. */
CPU_TEST(decoder_generate, several_need_latents, .signal = SIGABRT) {
    Module m;
    DecoderGenerator g;
    module_init(&m, &ctx);
    cr_redirect_stderr();
    decoder_generator_init(&g, &ctx, &m.model, NULL, 2, T, &err);
}

/* The token is the one in whose share of the sum the random number falls, up to the rounding of
 * sums in F32; and no token where a logit is no number. */
CONTEXT_TEST(decode_draw, by_the_random_number) {
    enum { ROWS = 6 };
    static const int sizes[] = {2, 31, 33, 1024, 5003};
    static const float randoms[ROWS] = {0, 0.25f, 0.5f, 0.75f, 0.9999999f, 0.5f};
    for (int k = 0; k < 5; k++) {
        int vocab = sizes[k];
        Tensor *logits = test_normal(&ctx, "logits", 95, SHAPE(ROWS, vocab));
        float *z = test_values(&ctx, logits), logprobs[ROWS];
        int32_t tokens[ROWS];
        z[(ROWS - 1) * vocab + vocab / 2] = NAN;
        tensor_upload(&ctx, logits, z);
        Tensor *t = tensor_new(&ctx, "tokens", I32, SHAPE(ROWS)),
               *l = tensor_new(&ctx, "logprobs", F32, SHAPE(ROWS));
        ON(&ctx, decode_draw, t->data, l->data,
           tensor_copy_in(&ctx, "randoms", F32, randoms, SHAPE(ROWS))->data, logits->data, ROWS,
           vocab, 0.7f);
        tensor_download_ints(&ctx, tokens, t);
        tensor_download(&ctx, logprobs, l);
        for (int b = 0; b < ROWS - 1; b++) {
            double sum = 0, before = 0;
            cr_assert(tokens[b] >= 0 && tokens[b] < vocab, "%d: %d", b, tokens[b]);
            for (int j = 0; j < vocab; j++) {
                before += j < tokens[b] ? exp(z[b * vocab + j] / 0.7) : 0;
                sum += exp(z[b * vocab + j] / 0.7);
            }
            double p = exp(z[b * vocab + tokens[b]] / 0.7) / sum;
            before /= sum;
            cr_assert(before <= randoms[b] + 1e-5 && randoms[b] <= before + p + 1e-5,
                      "%d tokens, %g: %d, from %g to %g", vocab, randoms[b], tokens[b], before,
                      before + p);
            cr_assert(fabs(logprobs[b] - log(p)) < 1e-4, "%g, not %g", logprobs[b], log(p));
        }
        cr_assert(tokens[ROWS - 1] == -1 && logprobs[ROWS - 1] == 0);
        context_reset(&ctx);
    }
}
