/*
 * The demo's second half: the model's weights in fewer bits, by every method; in one kind of layer
 * at a time; and after some steps in which it learned to live with them.
 */
#include "08_quant/demo.h"

#include "05_moe/decoder/decoder_generate.h"
#include "08_quant/quantised.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the same model on codes ---- */

/* Registers d's model once more, with the codes of the report in the place of the weights. */
static int coded_model(Demo *d, const QuantReport *report, Params *params, Decoder *decoder,
                       Error *err) {
    params_init(params, &d->ctx);
    decoder_register(decoder, params, &d->cfg);
    for (int i = 0; i < report->count; i++) {
        const QuantisedWeight *q = &report->list[i];
        if (q->codes)
            params_set_quantised(params, params_find(params, q->weight->name), q->format.dtype,
                                 q->format.block_out, q->format.block_in, &quantised_products);
    }
    if (params_allocate(params, false, err)) return -1;
    for (int i = 0; i < params->count; i++) {
        Tensor *w = params->list[i], *from = params_find(&d->params, w->name);
        const QuantisedWeight *q = quant_report_find(report, from);
        if (w->quantised)
            params_set_codes(params, w, q->codes, q->scales);
        else
            params_set(params, w, from->data);
    }
    return 0;
}

/* Tokens a second of one text: the best of several, a third of a second in all. */
static double speed(Demo *d, const Decoder *decoder) {
    enum { PROMPT = 8, NEW = 48 };
    DecoderGenerator g;
    DecoderGenerateOptions options = {.sampling = {.top_p = 1}, .max_new_tokens = NEW, .end = -1};
    double best = INFINITY, end = seconds_now() + 0.3;
    Error err;
    if (decoder_generator_init(&g, &d->ctx, decoder, NULL, 1, PROMPT + NEW, &err))
        fatal("%s", err.text);
    memcpy(g.sequences[0].ids, d->text.ids + d->text.train, PROMPT * sizeof(int32_t));
    while (seconds_now() < end) {
        DecoderGenerateResult result;
        decoder_generator_truncate(&g, -1, 0);
        g.sequences[0].count = PROMPT;
        decoder_generate(&g, &options, &result);
        best = fmin(best, result.seconds / result.new_tokens);
    }
    decoder_generator_free(&g);
    return 1 / best;
}

static double coded_speed(Demo *d, const QuantReport *report) {
    Params params;
    Decoder decoder;
    Error err;
    if (coded_model(d, report, &params, &decoder, &err)) fatal("%s", err.text);
    double tokens = speed(d, &decoder);
    decoder_free(&decoder);
    params_free(&params);
    return tokens;
}

/* ---- 4. methods ---- */

typedef struct Trial {
    const char *label;
    QuantMethod method;
    DType dtype;
    int block_out, block_in; /* block_in -1: --group */
    bool activations;        /* of INT8, too */
} Trial;

/* Bytes of all weights: codes, scales, and what stays in F32. */
static double bytes_of(const Demo *d, const QuantReport *report) {
    double bytes = 4 * (double)params_count(&d->params);
    for (int i = 0; i < report->count; i++) {
        const QuantisedWeight *q = &report->list[i];
        int64_t out = tensor_dim(q->weight, -2), in = tensor_dim(q->weight, -1);
        if (q->codes) bytes += (double)(out * in) * (quant_bits(&q->format, out, in) / 8 - 4);
    }
    return bytes;
}

static int try_one(Demo *d, const Trial *t, Error *err) {
    QuantFormat format = {t->dtype, t->block_out, t->block_in < 0 ? d->options.group : t->block_in,
                          false};
    QuantReport report;
    char speed_text[32] = "", block[32];
    demo_restore(d);
    if (demo_quantise(d, t->method, format, &report, err)) return -1;
    QuantRecipe recipe = quant_recipe(t->method, format);
    QuantActivations *rounding =
        t->activations ? quant_activations_begin(&d->decoder, &recipe) : NULL;
    double loss = demo_loss(d);
    if (rounding) quant_activations_end(rounding);
    /* One measure for each format that there are products for: how fast it is does not depend on
     * who chose the codes. */
    bool timed = t->method == QUANT_RTN && !t->activations && (t->dtype != I4 || t->block_in);
    double tokens = timed ? coded_speed(d, &report) : NAN;
    if (timed) snprintf(speed_text, sizeof speed_text, "%.0f", tokens);
    if (format.block_in)
        snprintf(block, sizeof block, "%d x %d", format.block_out, format.block_in);
    else
        snprintf(block, sizeof block, "a row");
    printf("   %-14s %-12s %-10s %6.2f %8.3f %9.2f %% %9s\n", t->label,
           quant_method_names[t->method], block, 1e-6 * bytes_of(d, &report), loss / log(2),
           demo_worse(d, loss), speed_text);
    fflush(stdout);
    csv_row(&d->csv, "%s,%s,%s,%.0f,%.5f,%.4f", t->label, quant_method_names[t->method], block,
            bytes_of(d, &report), loss / log(2), demo_worse(d, loss));
    quant_report_free(&report);
    return 0;
}

int demo_methods(Demo *d, Error *err) {
    static const Trial trials[] = {{"INT8", QUANT_RTN, U8, 1, 0, false},
                                   {"E4M3", QUANT_RTN, F8_E4M3, 128, 128, false},
                                   {"INT4", QUANT_RTN, I4, 1, 0, false},
                                   {"INT4", QUANT_AWQ, I4, 1, 0, false},
                                   {"INT4", QUANT_GPTQ, I4, 1, 0, false},
                                   {"INT4", QUANT_RTN, I4, 1, -1, false},
                                   {"INT4", QUANT_AWQ, I4, 1, -1, false},
                                   {"INT4", QUANT_GPTQ, I4, 1, -1, false},
                                   {"INT8 (x too)", QUANT_RTN, U8, 1, 0, true},
                                   {"INT8 (x too)", QUANT_LLMINT8, U8, 1, 0, true},
                                   {"INT8 (x too)", QUANT_SMOOTHQUANT, U8, 1, 0, true}};
    d->csv = figure_open(&d->ctx, d->options.common.csv,
                         "format,method,block,bytes,bits_a_character,worse");
    printf("4. Its linear layers in fewer bits\n"
           "   worse: perplexity on text that it has not seen. x too: activations are\n"
           "   rounded as well, a scale for each token\n\n"
           "   weights        method       a scale for    MB  bits/char      worse tokens/s\n");
    double tokens = speed(d, &d->decoder);
    printf("   %-14s %-12s %-10s %6.2f %8.3f %11s %9.0f\n", "F32", "", "",
           4e-6 * (double)params_count(&d->params), d->loss / log(2), "", tokens);
    csv_row(&d->csv, "F32,,,%.0f,%.5f,0", 4.0 * (double)params_count(&d->params), d->loss / log(2));
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++)
        if (try_one(d, &trials[i], err)) return -1;
    printf("\n   Table, head and norms stay in F32. All of this model fits into the caches, so\n"
           "   nobody waits for memory, and fewer bytes save no time: ./08_quant/bench has\n"
           "   weights that do not fit.\n\n");
    return 0;
}

/* ---- 5. places ---- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

void demo_places(Demo *d) {
    static const char *const names[] = {"q_proj",    "kv_a_proj_with_mqa", "kv_b_proj",
                                        "o_proj",    "gate_proj",          "up_proj",
                                        "down_proj", "embed_tokens",       "lm_head"};
    enum { PLACES = sizeof names / sizeof *names };
    double worse[PLACES];
    Csv csv = figure_open(&d->ctx, DEMO_OUT "places.csv", "place,numbers,worse");
    printf("5. One kind of matrix at a time in INT4, a scale a row: how much worse?\n");
    for (int p = 0; p < PLACES; p++) {
        int64_t numbers = 0;
        char end[64];
        snprintf(end, sizeof end, "%s.weight", names[p]);
        demo_restore(d);
        for (int i = 0; i < d->params.count; i++) {
            Tensor *w = d->params.list[i];
            if (!ends_with(w->name, end)) continue;
            const QuantFormat format = {I4, 1, 0, false};
            quant_round_trip(w->data, NULL, w->data, tensor_rows(w), tensor_dim(w, -1), &format,
                             NULL);
            numbers += tensor_count(w);
        }
        worse[p] = demo_worse(d, demo_loss(d));
        csv_row(&d->csv, "INT4 alone,%s,a row,,,%.4f", names[p], worse[p]);
        csv_row(&csv, "%s,%lld,%.4f", names[p], (long long)numbers, worse[p]);
    }
    text_bars(names, worse, PLACES, "%");
    figure_close(&csv, "08_quant/figures/places");
    printf("\n");
}

/* ---- 6. learning with the numbers it will have ---- */

/* Loss of the weights as they are, rounded by a method. */
static int rounded_loss(Demo *d, QuantMethod method, double *loss, Error *err) {
    QuantReport report;
    if (demo_quantise(d, method, (QuantFormat){I4, 1, 0, false}, &report, err)) return -1;
    quant_report_free(&report);
    *loss = demo_loss(d);
    return 0;
}

int demo_qat(Demo *d, Error *err) {
    static const char *const names[] = {"to nearest", "by GPTQ", "learned rounded"};
    const QuantFormat format = {I4, 1, 0, false};
    int steps = d->options.steps / 4;
    double loss[3], worse[3];
    printf("6. %d steps more, plainly or with rounded weights; then INT4, a scale a row\n", steps);
    demo_restore(d);
    if (demo_train(d, "learning rounded", steps, 1e-3f, &format, err) ||
        rounded_loss(d, QUANT_RTN, &loss[2], err))
        return -1;
    demo_restore(d);
    if (demo_train(d, "learning plainly", steps, 1e-3f, NULL, err)) return -1;
    d->loss = demo_loss(d);
    demo_remember(d);
    if (rounded_loss(d, QUANT_RTN, &loss[0], err)) return -1;
    demo_restore(d);
    if (rounded_loss(d, QUANT_GPTQ, &loss[1], err)) return -1;
    printf("   After these steps in F32: %.3f bits a character. In INT4, how much worse:\n",
           d->loss / log(2));
    csv_row(&d->csv, "F32 later,,,,%.5f,0", d->loss / log(2));
    for (int i = 0; i < 3; i++) {
        worse[i] = demo_worse(d, loss[i]);
        csv_row(&d->csv, "INT4 later,%s,a row,,%.5f,%.4f", names[i], loss[i] / log(2), worse[i]);
    }
    text_bars(names, worse, 3, "%");
    figure_close(&d->csv, "08_quant/figures/methods");
    printf("\n");
    return 0;
}
