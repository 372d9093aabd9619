/*
 * The driver over whole decoders: what is watched is what the layers are given, folds change
 * nothing by themselves, the weights are worth what the codes say, and each method loses less than
 * rounding to nearest.
 */
#include "08_quant/methods/quantise_decoder.h"

#include "07_rope/rope.h"
#include "08_quant/methods/gptq.h"
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
    EXPERTS_FIRST,
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
                              .first_k_dense_replace = kind == EXPERTS_FIRST ? 0 : 1};
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

/* Some rows of a linear layer 8 times as large: so are those channels of what reads its output. */
static void enlarge_rows(Tensor *w, Tensor *bias) {
    if (!w) return;
    float *numbers = w->data;
    for (int64_t i = 0; i < tensor_count(w); i++)
        if (i / tensor_dim(w, -1) % 13 == 5) numbers[i] *= 8;
    for (int64_t i = 0; bias && i < tensor_count(bias); i++)
        if (i % 13 == 5) ((float *)bias->data)[i] *= 8;
}

/* A text with some order in it; channels 3 and 40 of what both norms make are large, and so are
 * some of the values and of the inner ones. */
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
        Block *b = &m->model.layers[i];
        enlarge_rows(b->mla.kv_b_proj, NULL),
            enlarge_rows(b->multihead.v_proj, b->multihead.v_bias);
        enlarge_rows(b->mlp.up_proj, NULL), enlarge_rows(b->moe.up_proj, NULL);
        enlarge_rows(b->moe.shared.up_proj, NULL);
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

static const QuantFormat int4 = {I4, 1, 32, false}, int8 = {U8, 1, 0, false},
                         fine = {U8, 1, 8, false};

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
                          Pages *pages) {
    (void)ctx, (void)self, (void)x, (void)c_q, (void)pages;
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
