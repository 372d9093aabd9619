/*
 * The driver over whole decoders: the weights are worth what the codes say, each method loses less
 * than rounding to nearest, and the report's errors are those of outputs.
 */
#include "08_quant/tests/test_quantise_decoder.h"

#include "08_quant/methods/gptq.h"
#include "08_quant/methods/inputs.h"
#include "08_quant/methods/layer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
            bool rows = method == QUANT_LLMINT8 || method == QUANT_SMOOTHQUANT;
            QuantReport report = quantise_module(&ctx, &m, method, rows ? int8 : fine, true);
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

/* AWQ cuts off the largest weights where that helps, but not of what makes queries and keys. */
CPU_TEST(quantise_decoder, awq_clips_what_makes_no_keys) {
    Module m, plain;
    module_init(&m, &ctx, GROUPED_QUERIES); /* here nothing is folded into o_proj */
    module_init(&plain, &ctx, GROUPED_QUERIES);
    QuantReport report = quantise_module(&ctx, &m, QUANT_AWQ, int4, true);
    QuantReport nearest = quantise_module(&ctx, &plain, QUANT_RTN, int4, false);
    const QuantisedWeight *ours = quant_report_find(&report, m.model.layers[1].multihead.o_proj);
    const QuantisedWeight *full =
        quant_report_find(&nearest, plain.model.layers[1].multihead.o_proj);
    int clipped = 0, groups = HIDDEN * 2;
    for (int i = 0; i < groups; i++) {
        cr_expect(ours->scales[i] <= full->scales[i] && ours->scales[i] > 0.5f * full->scales[i]);
        clipped += ours->scales[i] < full->scales[i];
    }
    cr_expect(clipped > groups / 4, "%d of %d", clipped, groups);
}

/* Something else that reads the normed input, and selects all tokens. */
static Tensor *select_all(Context *ctx, const Selection *self, Tensor *x, Tensor *c_q,
                          LatentCache *cache) {
    (void)ctx, (void)self, (void)x, (void)c_q, (void)cache;
    return NULL;
}

/* Then its norms are not folded into; and what makes queries is not clipped. */
CPU_TEST(quantise_decoder, awq_leaves_a_selections_inputs_as_they_are) {
    Module m, plain;
    Selection selection = {.select = select_all};
    const Selection *selections[] = {&selection, &selection};
    module_init(&m, &ctx, LATENT_MOE);
    module_init(&plain, &ctx, LATENT_MOE);
    m.text.selections = selections;
    QuantReport report = quantise_module(&ctx, &m, QUANT_AWQ, int4, true);
    QuantReport nearest = quantise_module(&ctx, &plain, QUANT_RTN, int4, false);
    for (int i = 0; i < 2; i++) {
        const Block *ours = &m.model.layers[i], *other = &plain.model.layers[i];
        check_close("norm", ours->input_layernorm->data, other->input_layernorm->data, HIDDEN, 0);
        check_close("norm", ours->mla.q_a_layernorm->data, other->mla.q_a_layernorm->data, 32, 0);
        check_close("q_a", quant_report_find(&report, ours->mla.q_a_proj)->scales,
                    quant_report_find(&nearest, other->mla.q_a_proj)->scales, 32 * HIDDEN / 32, 0);
    }
}

typedef struct Rows {
    float *x;
    int64_t count;
} Rows;

static void keep(void *user, float *x, int64_t rows, int64_t in, int expert) {
    Rows *kept = user;
    (void)expert;
    memcpy(kept->x + kept->count * in, x, sizeof *x * (size_t)(rows * in));
    kept->count += rows;
}

/* What the weight's input is now, in a model of which one layer has been quantised. */
static float *input_of(Context *ctx, const Module *m, Tensor *w) {
    Rows kept = {.x = test_floats(B * T * tensor_dim(w, -1))};
    Tap tap;
    tap_open(&tap, w, keep, &kept);
    logits_of(ctx, m);
    tap_close(&tap);
    return kept.x;
}

/* y [B T, out] = x W^T in plain loops */
static float *output_of(const float *x, const Tensor *w) {
    int64_t out = tensor_dim(w, -2), in = tensor_dim(w, -1);
    const float *numbers = w->data;
    float *y = test_floats(B * T * out);
    for (int64_t i = 0; i < B * T * out; i++) {
        double sum = 0;
        for (int64_t j = 0; j < in; j++)
            sum += (double)x[i / out * in + j] * numbers[i % out * in + j];
        y[i] = (float)sum;
    }
    return y;
}

/*
 * The report's errors, of the first layer's first weight, whose input no other rounding has
 * changed: the output now, against what it was. Folded scales are in both. 1e-3: the report's sums
 * of squares are of differences of F32 numbers.
 */
CPU_TEST(quantise_decoder, errors_are_those_of_outputs) {
    for (QuantMethod method = 0; method < QUANT_METHODS; method++) {
        if (method == QUANT_LLMINT8 || method == QUANT_SMOOTHQUANT) continue; /* of a sample */
        Module m, plain;
        module_init(&m, &ctx, LATENT_MOE);
        module_init(&plain, &ctx, LATENT_MOE);
        QuantReport report = quantise_module(&ctx, &m, method, int4, true);
        Tensor *w = m.model.layers[0].mla.q_a_proj, *original = plain.model.layers[0].mla.q_a_proj;
        float *y = output_of(input_of(&ctx, &m, w), w);
        float *right = output_of(input_of(&ctx, &plain, original), original);
        double error = quant_error(y, right, B * T * w->shape[0]);
        double said = quant_report_find(&report, w)->after;
        cr_expect(fabs(said / error - 1) < 1e-3, "%s: %g, but it is %g", quant_method_names[method],
                  said, error);
    }
}

/* What a layer is given comes from the layers before it as they are by then. */
CPU_TEST(quantise_decoder, later_layers_see_earlier_errors) {
    Module m;
    module_init(&m, &ctx, MULTIHEAD_DENSE);
    QuantReport report = quantise_module(&ctx, &m, QUANT_RTN, int4, true);
    Tensor *w = m.model.layers[1].multihead.q_proj;
    float *y = output_of(input_of(&ctx, &m, w), w); /* x of the quantised first layer */
    Module plain;
    module_init(&plain, &ctx, MULTIHEAD_DENSE);
    float *right = output_of(input_of(&ctx, &m, w), plain.model.layers[1].multihead.q_proj);
    double error = quant_error(y, right, B * T * w->shape[0]);
    double said = quant_report_find(&report, w)->after;
    cr_expect(fabs(said / error - 1) < 1e-3, "%g, but it is %g", said, error);
}

static void note_stats(void *user, float *x, int64_t rows, int64_t in, int expert) {
    InputStats *stats = user;
    (void)in;
    input_stats_add(&stats[expert], x, rows);
}

/* An expert that has seen fewer tokens than it has inputs is rounded with a damping of 1. */
CPU_TEST(quantise_decoder, few_tokens_move_an_experts_weights_little) {
    enum { SHORT = 1 };
    Module m, plain;
    Tap tap;
    InputStats stats[4];
    module_init(&m, &ctx, EXPERTS_FIRST);
    module_init(&plain, &ctx, EXPERTS_FIRST);
    ((float *)m.model.layers[0].moe.router.bias->data)[SHORT] = -0.6f; /* a few, but some */
    ((float *)plain.model.layers[0].moe.router.bias->data)[SHORT] = -0.6f;
    Tensor *w = plain.model.layers[0].moe.down_proj;
    for (int e = 0; e < 4; e++) input_stats_init(&stats[e], 32, B * T);
    tap_open(&tap, w, note_stats, stats);
    logits_of(&ctx, &plain);
    tap_close(&tap);
    cr_assert(stats[SHORT].rows > 0 && stats[SHORT].rows < 32, "%lld rows",
              (long long)stats[SHORT].rows);
    float *right = (float *)w->data + SHORT * HIDDEN * 32, *s = test_floats(HIDDEN);
    check_ok(gptq(right, s, stats[SHORT].gram, HIDDEN, 32, &int4, (GptqSettings){1, true}, &err),
             &err);
    QuantReport report = quantise_module(&ctx, &m, QUANT_GPTQ, int4, true);
    const QuantisedWeight *q = quant_report_find(&report, m.model.layers[0].moe.down_proj);
    check_all(q->short_experts == 1);
    check_close("scales", q->scales + SHORT * HIDDEN, s, HIDDEN, 0);
    check_close("weights", (float *)q->weight->data + SHORT * HIDDEN * 32, right, HIDDEN * 32, 0);
}

/* The head is a layer behind the last, whose input is normed; and it stays unless it is asked for
 * (rounding_to_nearest_is_that_of_formats). */
CPU_TEST(quantise_decoder, the_head_if_it_is_asked_for) {
    const QuantMethod methods[] = {QUANT_RTN, QUANT_GPTQ};
    double after[2];
    for (int i = 0; i < 2; i++) {
        Module m;
        module_init(&m, &ctx, LATENT_MOE);
        Tensor *w = m.model.lm_head;
        float *original = test_floats(VOCAB * HIDDEN);
        memcpy(original, w->data, sizeof *original * VOCAB * HIDDEN);
        QuantReport report = {0};
        QuantRecipe recipe = quant_recipe(methods[i], int4);
        recipe.head = true;
        check_ok(quantise_decoder(&ctx, &m.model, &recipe, &m.text, &report, &err), &err);
        const QuantisedWeight *q = &report.list[report.count - 1];
        check_all(q->weight == w, q->codes, q == quant_report_find(&report, w));
        float *back = test_floats(VOCAB * HIDDEN);
        dequantise(back, q->codes, q->scales, VOCAB, HIDDEN, &q->format);
        check_close("head", w->data, back, VOCAB * HIDDEN, 0);
        float *y = logits_of(&ctx, &m);
        memcpy(w->data, original, sizeof *original * VOCAB * HIDDEN);
        double error = difference(y, logits_of(&ctx, &m));
        cr_expect(fabs(q->after / error - 1) < 1e-3, "%g, but it is %g", q->after, error);
        after[i] = q->after;
    }
    cr_expect(after[1] < 0.85 * after[0], "GPTQ %g, to nearest %g", after[1], after[0]);
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
