/*
 * The driver over whole decoders: what is watched is what the layers are given, folds change
 * nothing by themselves, the weights are worth what the codes say, and each method loses less than
 * rounding to nearest.
 */
#include "08_quant/methods/quantise_decoder.h"

#include "07_rope/rope.h"
#include "08_quant/methods/inputs.h"
#include "08_quant/methods/layer.h"
#include "common/program/testing.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { VOCAB = 29, HIDDEN = 64, B = 6, T = 40 };

/* Decoders of each kind of block. The hidden size, inner sizes and ranks are multiples of 32. */
typedef enum Kind {
    LATENT_MOE,
    LATENT_NO_Q,
    MULTIHEAD_DENSE,
    GROUPED_QUERIES,
    CENTROIDS,
    KINDS
} Kind;

typedef struct Module {
    Params params;
    Decoder model;
    Rope rope;
    const Position *position;
    Calibration text;
} Module;

static DecoderConfig config(Kind kind) {
    DecoderConfig cfg = {.vocab_size = VOCAB, .num_hidden_layers = 2};
    cfg.block = (BlockConfig){.hidden_size = HIDDEN,
                              .intermediate_size = 96,
                              .rms_norm_eps = 1e-6f,
                              .attention = ATTENTION_MLA,
                              .mla = {HIDDEN, 2, kind == LATENT_NO_Q ? 0 : 32, 32, 16, 8, 32, true},
                              .multihead = {HIDDEN, 2, kind == GROUPED_QUERIES ? 1 : 2, 32, true},
                              .first_k_dense_replace = 1};
    if (kind == MULTIHEAD_DENSE || kind == GROUPED_QUERIES) {
        cfg.block.attention = ATTENTION_MULTIHEAD;
        cfg.places = T;
        return cfg;
    }
    cfg.block.moe = moe_config(HIDDEN, 32, 4, 2);
    cfg.block.moe.n_shared_experts = kind == LATENT_NO_Q ? 0 : 1;
    if (kind == CENTROIDS) {
        cfg.block.moe.router.gate_kind = GATE_CENTROID;
        cfg.block.moe.router.temperature = 0.3f;
    }
    return cfg;
}

/* A text with some order in it; channels 3 and 40 of what both norms make are large. */
static void module_init(Module *m, Context *ctx, Kind kind) {
    DecoderConfig cfg = config(kind);
    *m = (Module){0};
    params_init(&m->params, ctx);
    check_ok(decoder_check(&cfg, &err), &err);
    decoder_register(&m->model, &m->params, &cfg);
    test_params(&m->params, 0);
    for (int i = 0; i < cfg.num_hidden_layers; i++) {
        Tensor *norms[] = {m->model.layers[i].input_layernorm,
                           m->model.layers[i].post_attention_layernorm};
        for (int n = 0; n < 2; n++)
            ((float *)norms[n]->data)[3] = 12, ((float *)norms[n]->data)[40] = -20;
    }
    if (cfg.block.attention == ATTENTION_MLA) {
        RopeConfig rope = {.dim = 8, .max_position_embeddings = T, .rope_theta = 10000};
        check_ok(rope_init(&m->rope, ctx, &rope, &err), &err);
        m->position = &m->rope.position;
    }
    int32_t ids[2000];
    for (int i = 0; i < 2000; i++) ids[i] = (i * i + i / 7) % VOCAB;
    check_ok(calibration_init(&m->text, ids, 2000, B, T, &err), &err);
    m->text.position = m->position;
}

static float *logits_of(Context *ctx, const Module *m) {
    Tensor *ids = tensor_copy_in(ctx, "ids", I32, m->text.ids, SHAPE(B, T));
    Tensor *x = decoder_states(ctx, &m->model, ids, &(DecoderRun){.position = m->position});
    return test_values(ctx, decoder_logits(ctx, &m->model, x));
}

static double difference(const float *a, const float *b) {
    return quant_error(a, b, B * T * VOCAB);
}

static const QuantFormat int4 = {I4, 1, 32, false}, int8 = {U8, 1, 0, false};

static QuantReport quantise_module(Context *ctx, Module *m, QuantMethod method, QuantFormat f,
                                   bool with_text) {
    QuantReport report = {0};
    QuantRecipe recipe = quant_recipe(method, f);
    check_ok(quantise_decoder(ctx, &m->model, &recipe, with_text ? &m->text : NULL, &report, &err),
             &err);
    return report;
}

/* ---- taps ---- */

typedef struct Seen {
    int64_t rows, calls;
    double sum;
} Seen;

static void see(void *user, float *x, int64_t rows, int64_t in, int expert) {
    Seen *seen = user;
    (void)expert;
    seen->rows += rows;
    seen->calls++;
    for (int64_t i = 0; i < rows * in; i++) seen->sum += x[i];
}

CPU_TEST(taps, watch_and_change_nothing) {
    Module m;
    module_init(&m, &ctx, LATENT_MOE);
    float *before = logits_of(&ctx, &m);
    Tap taps[64];
    Seen seen[64] = {0};
    int count = 0;
    for (int i = 0; i < 2; i++) {
        Tensor **places[BLOCK_LINEARS];
        Block block = m.model.layers[i];
        for (int n = 0, all = block_linears(&block, places); n < all; n++, count++)
            tap_open(&taps[count], *places[n], see, &seen[count]);
    }
    cr_assert(count == 5 + 3 + 5 + 6, "%d linear layers", count);
    check_close("logits", logits_of(&ctx, &m), before, B * T * VOCAB, 1e-5); /* other products */
    for (int n = 0; n < count; n++) {
        bool experts = taps[n].weight->ndim == 3; /* two of four for each token */
        cr_expect(seen[n].rows == B * T * (experts ? 2 : 1) && isfinite(seen[n].sum),
                  "%s: %lld rows", taps[n].weight->name, (long long)seen[n].rows);
        tap_close(&taps[n]);
    }
    check_close("logits", logits_of(&ctx, &m), before, B * T * VOCAB, 0);
}

/* ---- all methods ---- */

/* Every linear layer once; the numbers in the model are what its codes are worth. */
static void check_report(const Module *m, const QuantReport *report) {
    int count = 0;
    for (int i = 0; i < 2; i++) {
        Tensor **places[BLOCK_LINEARS];
        Block block = m->model.layers[i];
        for (int n = 0, all = block_linears(&block, places); n < all; n++, count++)
            cr_assert(quant_report_find(report, *places[n]), "%s is missing", (*places[n])->name);
    }
    cr_assert(report->count == count);
    for (int i = 0; i < count; i++) {
        const QuantisedWeight *q = &report->list[i];
        int64_t out = tensor_dim(q->weight, -2), in = tensor_dim(q->weight, -1);
        int64_t experts = q->weight->ndim == 3 ? q->weight->shape[0] : 1;
        cr_assert(q->codes && q->scales, "%s stays: %s", q->weight->name, q->note);
        float *back = test_floats(experts * out * in);
        for (int64_t e = 0; e < experts; e++)
            dequantise(back + e * out * in,
                       q->codes + e * (int64_t)quant_code_bytes(&q->format, out, in),
                       q->scales + e * quant_scale_count(&q->format, out, in), out, in, &q->format);
        check_close(q->weight->name, q->weight->data, back, experts * out * in, 0);
    }
}

/*
 * A fold into the wrong norm, row or channel changes logits by about their own size; INT8 changes
 * them by a few per cent (and now and then a router chooses otherwise).
 */
CPU_TEST(quantise_decoder, all_methods_keep_what_the_model_computes) {
    for (Kind kind = 0; kind < KINDS; kind++)
        for (QuantMethod method = 0; method < QUANT_METHODS; method++) {
            Module m;
            module_init(&m, &ctx, kind);
            float *before = logits_of(&ctx, &m);
            QuantReport report = quantise_module(&ctx, &m, method, int8, true);
            check_report(&m, &report);
            double change = difference(logits_of(&ctx, &m), before);
            cr_expect(change > 0 && change < 0.12, "kind %d, %s: %g", kind,
                      quant_method_names[method], change);
            quant_report_free(&report);
        }
}

CPU_TEST(quantise_decoder, outputs_lose_less_than_rounded_to_nearest) {
    const struct {
        QuantMethod method;
        QuantFormat format;
        double at_most; /* of what rounding to nearest loses, the median over all layers */
    } cases[] = {{QUANT_GPTQ, int4, 0.85},
                 {QUANT_AWQ, int4, 0.95},
                 {QUANT_SMOOTHQUANT, int8, 0.95},
                 {QUANT_LLMINT8, int8, 0.7}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        Module m;
        module_init(&m, &ctx, LATENT_MOE);
        QuantReport report = quantise_module(&ctx, &m, cases[c].method, cases[c].format, true);
        int better = 0;
        for (int i = 0; i < report.count; i++) {
            const QuantisedWeight *q = &report.list[i];
            check_all(q->weight_error > 0, q->before > 0, q->after > 0);
            better += q->after <= q->before * cases[c].at_most;
            cr_expect(q->after < 1.1 * q->before, "%s, %s: %g, before %g",
                      quant_method_names[cases[c].method], q->weight->name, q->after, q->before);
        }
        /* LLM.int8() helps where there are outliers, SmoothQuant where there is a norm. */
        int least = cases[c].method == QUANT_GPTQ ? report.count * 3 / 4 : 5;
        cr_expect(better >= least, "%s: better in %d of %d", quant_method_names[cases[c].method],
                  better, report.count);
    }
}

CPU_TEST(quantise_decoder, rounding_to_nearest_is_that_of_formats) {
    Module m;
    module_init(&m, &ctx, LATENT_MOE);
    Tensor *experts = m.model.layers[1].moe.down_proj;
    float *right = test_floats(tensor_count(experts));
    check_ok(quant_round_trip(right, NULL, experts->data, 4 * HIDDEN, 32, &int4, &err), &err);
    QuantReport report = quantise_module(&ctx, &m, QUANT_RTN, int4, false);
    check_close("experts", experts->data, right, tensor_count(experts), 0);
    const QuantisedWeight *q = quant_report_find(&report, experts);
    check_all(isnan(q->before), isnan(q->after), q->weight_error > 0.05, q->weight_error < 0.15);
    cr_expect(!quant_report_find(&report, m.model.lm_head));
}

static int done, all;
static void count_progress(void *user, int now, int of) {
    (void)user;
    done++;
    cr_expect(now == done && of == 2);
    all = of;
}

CPU_TEST(quantise_decoder, says_how_far_it_is) {
    Module m;
    module_init(&m, &ctx, MULTIHEAD_DENSE);
    QuantReport report = {.progress = count_progress};
    QuantRecipe recipe = quant_recipe(QUANT_RTN, int8);
    check_ok(quantise_decoder(&ctx, &m.model, &recipe, NULL, &report, &err), &err);
    check_all(done == 2, all == 2);
}

/* DeepSeek's blocks: of these sizes none is made of whole ones. */
CPU_TEST(quantise_decoder, ragged_blocks_stay_unless_asked_for) {
    for (int ragged = 0; ragged < 2; ragged++) {
        Module m;
        module_init(&m, &ctx, LATENT_MOE);
        float *before = logits_of(&ctx, &m);
        QuantReport report = {0};
        QuantRecipe recipe = quant_recipe(QUANT_RTN, (QuantFormat){F8_E4M3, 128, 128, true});
        recipe.ragged = ragged;
        check_ok(quantise_decoder(&ctx, &m.model, &recipe, NULL, &report, &err), &err);
        if (ragged) check_report(&m, &report);
        for (int i = 0; i < report.count && !ragged; i++)
            check_all(!report.list[i].codes,
                      strstr(report.list[i].note, "not made of whole blocks"));
        double change = difference(logits_of(&ctx, &m), before);
        cr_expect(ragged ? change > 0.01 && change < 0.4 : change == 0, "%g", change);
    }
}

CPU_TEST(quantise_decoder, what_no_group_divides_stays) {
    Module m;
    module_init(&m, &ctx, LATENT_MOE);
    QuantReport report =
        quantise_module(&ctx, &m, QUANT_AWQ, (QuantFormat){I4, 1, 64, false}, true);
    int high = 0;
    for (int i = 0; i < report.count; i++) {
        bool stays = tensor_dim(report.list[i].weight, -1) % 64 != 0;
        high += stays;
        check_all(stays == !report.list[i].codes, stays == (report.list[i].note[0] != 0));
        if (stays) cr_expect(strstr(report.list[i].note, "cannot be cut into groups of 64"));
    }
    check_all(high > 0, high < report.count);
}

/* With 240 tokens all experts see fewer than 64 for some; their Hessians alone would not do. */
CPU_TEST(quantise_decoder, experts_with_few_tokens_are_reported) {
    Module m;
    module_init(&m, &ctx, LATENT_MOE);
    Router *router = &m.model.layers[1].moe.router;
    ((float *)router->bias->data)[0] = -100; /* an idle one */
    QuantReport report = quantise_module(&ctx, &m, QUANT_GPTQ, int4, true);
    const QuantisedWeight *gate = quant_report_find(&report, m.model.layers[1].moe.gate_proj);
    const QuantisedWeight *down = quant_report_find(&report, m.model.layers[1].moe.down_proj);
    check_all(gate->short_experts >= 1, down->short_experts >= 1,
              strstr(gate->note, "of 4 experts had fewer than 64 tokens: all experts' were used"),
              strstr(down->note, "of 4 experts had fewer than 32 tokens: strongly damped"));
    check_report(&m, &report);
    /* The idle expert's gate is worth something on the others' tokens: it is not just rounded. */
    Module plain;
    module_init(&plain, &ctx, LATENT_MOE);
    QuantReport nearest = quantise_module(&ctx, &plain, QUANT_RTN, int4, false);
    const QuantisedWeight *other = quant_report_find(&nearest, plain.model.layers[1].moe.gate_proj);
    cr_expect(memcmp(gate->codes, other->codes, quant_code_bytes(&int4, 32, HIDDEN)) != 0);
}

/* ---- activations ---- */

CPU_TEST(quantise_decoder, activations_of_int8_are_rounded_until_told_otherwise) {
    double change[QUANT_METHODS];
    for (QuantMethod method = 0; method <= QUANT_SMOOTHQUANT; method++) {
        Module m;
        module_init(&m, &ctx, LATENT_MOE);
        float *before = logits_of(&ctx, &m);
        QuantReport report = quantise_module(&ctx, &m, method, int8, true);
        float *weights_only = logits_of(&ctx, &m);
        QuantRecipe recipe = quant_recipe(method, int8);
        QuantActivations *rounding = quant_activations_begin(&m.model, &recipe);
        change[method] = difference(logits_of(&ctx, &m), before);
        quant_activations_end(rounding);
        check_close("weights only", logits_of(&ctx, &m), weights_only, B * T * VOCAB, 0);
        quant_report_free(&report);
    }
    cr_expect(change[QUANT_LLMINT8] < change[QUANT_RTN] &&
                  change[QUANT_SMOOTHQUANT] < change[QUANT_RTN],
              "rtn %g, llmint8 %g, smoothquant %g", change[0], change[1], change[2]);
}

/* ---- bad input ---- */

CPU_TEST(quantise_decoder, texts_that_are_too_short_are_refused) {
    Module m;
    module_init(&m, &ctx, LATENT_MOE);
    int32_t ids[100] = {0};
    Calibration c;
    cr_expect(calibration_init(&c, ids, 100, 4, 26, &err) == -1);
    cr_expect(strstr(err.text, "has 100 tokens, but 4 windows of 26 need 104"), "%s", err.text);
    check_ok(calibration_init(&c, ids, 100, 4, 20, &err), &err);
    c.position = m.position;
    QuantReport report = {0};
    QuantRecipe recipe = quant_recipe(QUANT_GPTQ, int4);
    cr_expect(quantise_decoder(&ctx, &m.model, &recipe, &c, &report, &err) == -1);
    cr_expect(strstr(err.text, "has 80 tokens") && strstr(err.text, "inputs, 96"), "%s", err.text);
    for (QuantMethod method = QUANT_SMOOTHQUANT; method <= QUANT_GPTQ; method++) {
        recipe = quant_recipe(method, int8);
        cr_expect(quantise_decoder(&ctx, &m.model, &recipe, NULL, &report, &err) == -1);
        cr_expect(strstr(err.text, "needs a text"), "%s", err.text);
    }
    c.ids[33] = VOCAB;
    recipe = quant_recipe(QUANT_AWQ, int4);
    cr_expect(quantise_decoder(&ctx, &m.model, &recipe, &c, &report, &err) == -1);
    cr_expect(strstr(err.text, "id 29") && strstr(err.text, "vocabulary of 29"), "%s", err.text);
    cr_expect(report.count == 0);
}

Test(quantise_decoder, windows_are_spread_over_the_text) {
    int32_t ids[1000];
    for (int i = 0; i < 1000; i++) ids[i] = i;
    Calibration c;
    check_ok(calibration_init(&c, ids, 1000, 4, 10, &err), &err);
    check_all(c.ids[0] == 0, c.ids[10] == 330, c.ids[19] == 339, c.ids[39] == 999);
    check_ok(calibration_init(&c, ids, 1000, 1, 10, &err), &err);
    check_all(c.ids[0] == 0, c.ids[9] == 9);
}

CPU_TEST(quantise_decoder, numbers_that_are_none_are_named) {
    const struct {
        int where; /* the experts, or a norm, which makes what comes behind it NaN */
        QuantMethod method;
        const char *message;
    } cases[] = {
        {0, QUANT_RTN, "model.layers.1.mlp.experts.up_proj.weight: expert 2: number [1, 5]"},
        {0, QUANT_GPTQ, "model.layers.1.mlp.experts.up_proj.weight: expert 2: number [1, 5]"},
        {1, QUANT_AWQ, "what layer 1 is given is not finite (token 0 of window 0)"}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        Module m;
        module_init(&m, &ctx, LATENT_MOE);
        float *experts = m.model.layers[1].moe.up_proj->data;
        if (cases[c].where == 0)
            experts[2 * 32 * HIDDEN + HIDDEN + 5] = NAN;
        else
            ((float *)m.model.layers[0].mla.o_bias->data)[7] = INFINITY;
        QuantReport report = {0};
        QuantRecipe recipe = quant_recipe(cases[c].method, int4);
        cr_expect(quantise_decoder(&ctx, &m.model, &recipe, cases[c].method ? &m.text : NULL,
                                   &report, &err) == -1);
        cr_expect(strstr(err.text, cases[c].message), "%s", err.text);
    }
}

Test(quantise_decoder, methods_and_formats_go_together_or_are_refused) {
    const struct {
        QuantMethod method;
        QuantFormat format;
        const char *message; /* NULL: it is fine */
    } cases[] = {
        {QUANT_RTN, {F8_E4M3, 128, 128, true}, NULL},
        {QUANT_GPTQ, {I4, 1, 128, false}, NULL},
        {QUANT_AWQ, {U8, 1, 0, false}, NULL},
        {QUANT_GPTQ, {F8_E4M3, 128, 128, false}, "gptq is for INT8 and INT4"},
        {QUANT_AWQ, {U8, 4, 32, false}, "awq is for INT8 and INT4 in groups of a row"},
        {QUANT_SMOOTHQUANT, {I4, 1, 32, false}, "choose INT8 without groups"},
        {QUANT_LLMINT8, {U8, 1, 32, false}, "choose INT8 without groups"},
        {QUANT_METHODS, {U8, 1, 0, false}, "no method 5"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        QuantRecipe recipe = quant_recipe(cases[c].method, cases[c].format);
        int status = quant_recipe_check(&recipe, &err);
        cr_expect(cases[c].message ? status == -1 && strstr(err.text, cases[c].message)
                                   : status == 0,
                  "case %zu: %s", c, err.text);
    }
    QuantRecipe recipe = quant_recipe(QUANT_GPTQ, int4);
    recipe.damp = 0;
    cr_expect(quant_recipe_check(&recipe, &err) == -1 && strstr(err.text, "damp"));
}
