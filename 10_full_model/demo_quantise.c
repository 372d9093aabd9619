/*
 * The weights are rounded where they are, measured, and put back from a copy.
 */
#include "10_full_model/demo_quantise.h"

#include "08_quant/methods/quantise_decoder.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { GROUP = 32, WINDOWS = 64 };

/* Windows of the training text, some thousand tokens. */
static Calibration text_of(const Model *model, const TokenSource *source,
                           const TrainOptions *train) {
    int length = train->context_length;
    size_t count = WINDOWS * (size_t)length;
    Calibration c = {.sequences = WINDOWS, .length = length, .position = model_position(model)};
    int32_t *targets = must_alloc(count, sizeof *targets);
    c.ids = must_alloc(count, sizeof *c.ids);
    source_batch(source, model->ctx->rng.seed, 0, WINDOWS, length, c.ids, targets);
    free(targets);
    return c;
}

static double bytes_of(const Params *params, const QuantReport *report) {
    double bytes = 4 * (double)params_count(params);
    for (int i = 0; i < report->count; i++) {
        const QuantisedWeight *q = &report->list[i];
        int64_t out = tensor_dim(q->weight, -2), in = tensor_dim(q->weight, -1);
        double bits = quant_bits(&q->format, out, in);
        if (q->codes) bytes += (bits / 8 - 4) * (double)tensor_count(q->weight);
    }
    return bytes;
}

static float **copy_of(Params *params) {
    float **copy = must_alloc((size_t)params->count, sizeof *copy);
    for (int i = 0; i < params->count; i++) {
        copy[i] = must_alloc((size_t)tensor_count(params->list[i]), sizeof *copy[i]);
        params_get(params, params->list[i], copy[i]);
    }
    return copy;
}

/*
 * How many windows of validation text judge. What rounding to INT4 changes is a few thousandths of
 * the loss; with the windows that training looks at now and then, chance is as large as that, and
 * once had GPTQ behind rounding to nearest.
 */
static int judged_windows(const TokenSource *source, const TrainOptions *train) {
    int64_t there = source->validation_tokens / train->context_length;
    int64_t many = 8 * (int64_t)train->eval_batches * train->batch_size;
    return (int)(there < many ? there : many);
}

int demo_fewer_bits(int section, Model *model, const TokenSource *source, const TrainOptions *train,
                    Error *err) {
    static const struct {
        const char *name;
        QuantMethod method;
        QuantFormat format;
    } ways[] = {{"INT8, to nearest", QUANT_RTN, {U8, 1, 0, SCALE_ANY}},
                {"INT4, to nearest", QUANT_RTN, {I4, 1, GROUP, SCALE_ANY}},
                {"INT4, by GPTQ", QUANT_GPTQ, {I4, 1, GROUP, SCALE_ANY}}};
    if (model->ctx->device != CPU || model->ctx->dtype != F32) return 0;
    int windows = judged_windows(source, train);
    Calibration text = text_of(model, source, train);
    float **learned = copy_of(&model->params);
    double plain =
        train_validation_loss(model, source, windows, train->batch_size, train->context_length);
    int status = 0;
    printf("%d. Linear layers in fewer bits (chapter 08): what it still knows of %d windows\n"
           "                          MB   validation loss   perplexity\n"
           "   %-18s %7.2f %14.4f\n",
           section, windows, "F32", 4e-6 * (double)params_count(&model->params), plain);
    for (size_t i = 0; i < sizeof ways / sizeof *ways && !status; i++) {
        QuantReport report = {0};
        QuantRecipe recipe = quant_recipe(ways[i].method, ways[i].format);
        status = quantise_decoder(model->ctx, &model->decoder, &recipe, &text, &report, err);
        for (int k = 0; k < model->mtp.depth && !status; k++)
            status = quantise_block(&model->mtp.modules[k].block, &model->decoder.cfg.block,
                                    &recipe, &report, err);
        if (!status) {
            double loss = train_validation_loss(model, source, windows, train->batch_size,
                                                train->context_length);
            printf("   %-18s %7.2f %14.4f %+13.2f %%\n", ways[i].name,
                   1e-6 * bytes_of(&model->params, &report), loss, 100 * expm1(loss - plain));
            fflush(stdout);
        }
        quant_report_free(&report);
        for (int n = 0; n < model->params.count; n++)
            params_set(&model->params, model->params.list[n], learned[n]);
    }
    printf("\n");
    for (int n = 0; n < model->params.count; n++) free(learned[n]);
    free(learned);
    calibration_free(&text);
    return status;
}
