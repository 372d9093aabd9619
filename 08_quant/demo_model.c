/*
 * The demo's model: it learns a text, and every experiment begins from what it learned then.
 */
#include "08_quant/demo.h"

#include "03_multihead/chartrain.h"
#include "08_quant/qat.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 128, BATCH = 20, CONTEXT = 64, PARTS = 8 };

/* Sizes that groups of 128 divide, but for the latent's 64. */
static void make_config(Demo *d) {
    d->cfg = (DecoderConfig){.vocab_size = d->text.alphabet.size,
                             .num_hidden_layers = d->options.layers,
                             .places = 2 * CONTEXT};
    d->cfg.block = (BlockConfig){.hidden_size = HIDDEN,
                                 .intermediate_size = 3 * HIDDEN,
                                 .rms_norm_eps = 1e-6f,
                                 .attention = ATTENTION_MLA,
                                 .mla = {.hidden_size = HIDDEN,
                                         .num_attention_heads = 4,
                                         .kv_lora_rank = 64,
                                         .qk_nope_head_dim = 32,
                                         .v_head_dim = 32}}; /* all dense */
}

static int make_model(Demo *d, Error *err) {
    float std = 1.0f / sqrtf(HIDDEN); /* keeps a row's length */
    params_init(&d->params, &d->ctx);
    decoder_register(&d->decoder, &d->params, &d->cfg);
    if (params_allocate(&d->params, true, err)) return -1;
    decoder_randomize(&d->params, &d->decoder, (DecoderStart){0.5f, std, std, std});
    return 0;
}

/* ---- training ---- */

typedef struct Trainee {
    const Decoder *decoder;
    const QuantFormat *format; /* NULL: plainly */
} Trainee;

static Tensor *training_loss(Context *ctx, void *user, Tensor *ids, Tensor *targets,
                             Tensor **shown) {
    const Trainee *t = user;
    const Decoder *d = t->format ? qat_decoder(ctx, t->decoder, t->format, 1) : t->decoder;
    return decoder_training_loss(ctx, d, ids, targets, &(DecoderRun){0}, shown);
}

int demo_train(Demo *d, const char *label, int steps, float rate, const QuantFormat *format,
               Error *err) {
    Trainee t = {&d->decoder, format};
    Rng windows = {.seed = d->options.common.seed, .stream = 1 << 20}; /* the same text for all */
    CharTraining how = {.label = label,
                        .schedule = {steps, steps / 8, 0, rate, rate / 10},
                        .batch = BATCH,
                        .length = CONTEXT,
                        .rng = &windows,
                        .loss = training_loss,
                        .user = &t};
    memset(d->params.m, 0, sizeof(float) * (size_t)d->params.size); /* a run of its own */
    memset(d->params.v, 0, sizeof(float) * (size_t)d->params.size);
    return chartrain(&d->ctx, &d->params, &d->text, &how, err);
}

double demo_loss(Demo *d) {
    double sum = 0;
    for (int part = 0; part < PARTS; part++) {
        Tensor *ids, *targets;
        float loss;
        chartext_batch_kept(&d->text, &d->ctx, part * BATCH, PARTS * BATCH, BATCH, CONTEXT, &ids,
                            &targets);
        tensor_download(&d->ctx, &loss, decoder_loss(&d->ctx, &d->decoder, ids, targets, NULL));
        sum += loss / PARTS;
        context_reset(&d->ctx);
    }
    return sum;
}

double demo_worse(const Demo *d, double loss) { return 100 * expm1(loss - d->loss); }

/* ---- what was learned ---- */

void demo_restore(Demo *d) {
    for (int i = 0; i < d->params.count; i++)
        params_set(&d->params, d->params.list[i], d->learned[i]);
}

void demo_remember(Demo *d) {
    if (!d->learned) d->learned = must_alloc((size_t)d->params.count, sizeof *d->learned);
    for (int i = 0; i < d->params.count; i++) {
        size_t count = (size_t)tensor_count(d->params.list[i]);
        if (!d->learned[i]) d->learned[i] = must_alloc(count, sizeof(float));
        params_get(&d->params, d->params.list[i], d->learned[i]);
    }
}

int demo_quantise(Demo *d, QuantMethod method, QuantFormat format, QuantReport *report,
                  Error *err) {
    QuantRecipe recipe = quant_recipe(method, format);
    recipe.ragged = true;
    *report = (QuantReport){0};
    return quantise_decoder(&d->ctx, &d->decoder, &recipe, &d->sample, report, err);
}

int demo_learn(Demo *d, Error *err) {
    const DemoOptions *o = &d->options;
    if (chartext_load(&d->text, o->text, 40 * CONTEXT, err)) return -1;
    printf("3. A model learns\n");
    chartext_print(&d->text);
    make_config(d);
    if (make_model(d, err)) return -1;
    printf("   %d layers of width %d, latents of 64: %lld numbers, %.2f MB in F32\n", o->layers,
           HIDDEN, (long long)params_count(&d->params), 4e-6 * (double)params_count(&d->params));
    if (demo_train(d, "learning", o->steps, 5e-3f, NULL, err)) return -1;
    demo_remember(d);
    int64_t windows = d->text.train / CONTEXT < 64 ? d->text.train / CONTEXT : 64;
    if (calibration_init(&d->sample, d->text.ids, d->text.train, windows, CONTEXT, err)) return -1;
    d->loss = demo_loss(d);
    printf("   Text that it has not seen: loss %.3f, which is %.3f bits a character, a\n"
           "   perplexity of %.3f\n\n",
           d->loss, d->loss / log(2), exp(d->loss));
    return 0;
}
