/*
 * What the driver begins with: what is watched is what the layers are given, folds change nothing
 * by themselves; and texts, numbers and recipes that will not do are refused.
 */
#include "08_quant/tests/test_quantise_decoder.h"

#include "08_quant/methods/inputs.h"
#include "08_quant/methods/layer.h"

#include <math.h>
#include <string.h>

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
    /* gate_proj of the experts, each with its own rows, and of the shared ones: the same tokens. */
    cr_assert(taps[13].weight == m.model.layers[1].moe.gate_proj &&
              taps[16].weight == m.model.layers[1].moe.shared.gate_proj);
    cr_expect(fabs(seen[13].sum - 2 * seen[16].sum) < 1e-4 * fabs(seen[16].sum), "%g, %g",
              seen[13].sum, seen[16].sum);
    for (int n = 0; n < count; n++) {
        bool experts = taps[n].weight->ndim == 3; /* two of four for each token */
        cr_expect(seen[n].rows == B * T * (experts ? 2 : 1) && isfinite(seen[n].sum),
                  "%s: %lld rows", taps[n].weight->name, (long long)seen[n].rows);
        tap_close(&taps[n]);
    }
    check_close("logits", logits_of(&ctx, &m), before, B * T * VOCAB, 0);
}

/* ---- folds ---- */

/* Any scales at all: the logits stay what they were. Rounding: two more of each weight, and where
 * channels of 1/20 and of 20 are added up. */
CPU_TEST(folds, change_nothing) {
    for (Kind kind = 0; kind < KINDS; kind++) {
        Module m;
        module_init(&m, &ctx, kind);
        float *before = logits_of(&ctx, &m);
        int folds = 0;
        for (int i = 0; i < 2; i++) {
            QuantLayer layer = quant_layer(&m.model.layers[i], &m.model.cfg.block, false);
            for (int f = 0; f < layer.fold_count; f++, folds++) {
                const LayerFold *fold = &layer.folds[f];
                int experts = fold->norm ? 1 : layer.inputs[fold->first].experts;
                for (int e = 0; e < experts; e++) {
                    float s[256];
                    for (int j = 0; j < 256; j++) s[j] = exp2f((float)((j * 7 + e) % 9 - 4));
                    layer_fold(&layer, fold, experts > 1 ? e : -1, s);
                }
            }
        }
        static const int expected[KINDS] = {13, 10, 8, 6, 12, 14};
        cr_expect(folds == expected[kind], "kind %d: %d folds", kind, folds);
        check_close("logits", logits_of(&ctx, &m), before, B * T * VOCAB, 1e-5);
    }
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
