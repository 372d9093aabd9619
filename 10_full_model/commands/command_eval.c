/*
 * deepseek eval: how well a model knows a text; in all, or by how many tokens it has seen before.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/text_input.h"
#include "10_full_model/train/train.h"

#include "common/files/csv.h"
#include "common/files/machine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct Options {
    CommonOptions common;
    StringList data;
    const char *model;
    int context_length, windows; /* context_length 0: not given */
    bool by_position, quantised_activations;
} Options;

/* Tokens first .. last of each window (from 1 on), and the mean loss of predicting them. */
typedef struct Stretch {
    int first, last;
    double loss;
} Stretch;

enum { FIRST_STRETCH = 8, MAX_STRETCHES = 20 };

/* 1 .. 8, 9 .. 16, 17 .. 32, ... up to the context; returns how many. */
static int stretches_of(Stretch *stretches, int context_length) {
    int count = 0;
    for (int first = 1, last = FIRST_STRETCH; first <= context_length; last *= 2) {
        stretches[count++] =
            (Stretch){.first = first, .last = last < context_length ? last : context_length};
        first = last + 1;
    }
    return count;
}

/* Each stretch's rows of the states go through the head by themselves. */
static void losses_by_position(Model *model, const TokenSource *source, const Options *o,
                               Stretch *stretches, int count) {
    Context *ctx = model->ctx;
    int64_t T = o->context_length, width = model->cfg.hidden_size;
    int32_t *ids = must_alloc(2 * (size_t)T, sizeof *ids);
    for (int i = 0; i < o->windows; i++) {
        source_validation(source, i, o->windows, (int)T, ids, ids + T);
        const DecoderRun run = {.position = model_position(model)};
        Tensor *x = decoder_states(ctx, &model->decoder,
                                   tensor_copy_in(ctx, "ids", I32, ids, SHAPE(1, T)), &run);
        x = reshape(ctx, decoder_normed(ctx, &model->decoder, x), SHAPE(1, T * width));
        for (Stretch *s = stretches; s < stretches + count; s++) {
            int64_t from = s->first - 1, rows = s->last - from;
            Tensor *here =
                reshape(ctx, slice(ctx, x, from * width, rows * width), SHAPE(1, rows, width));
            Tensor *targets = tensor_copy_in(ctx, "targets", I32, ids + T + from, SHAPE(1, rows));
            float loss;
            tensor_download(ctx, &loss,
                            linear_cross_entropy(ctx, here, model->decoder.lm_head, targets));
            s->loss += (double)loss / o->windows;
        }
        context_reset(ctx);
    }
    free(ids);
}

/* ---- what is said of it ---- */

/* bits: of one nat a token, in bits per byte */
static int write_csv(const Options *o, const Model *model, const Stretch *s, int count, double bits,
                     Error *err) {
    Csv csv;
    if (csv_open(&csv, o->common.csv, "first,last,loss,perplexity,bits_per_byte",
                 device_describe(model->ctx).text, o->common.seed, err))
        return -1;
    for (; count > 0; s++, count--)
        csv_row(&csv, "%d,%d,%.5f,%.4f,%.5f", s->first, s->last, s->loss, exp(s->loss),
                bits * s->loss);
    return csv_close(&csv, err);
}

static void print_stretches(const Stretch *s, int count, int trained) {
    printf("\n%13s  %7s  %10s\n", "tokens", "loss", "perplexity");
    for (; count > 0; s++, count--)
        printf("%5d .. %4d  %7.4f  %10.2f%s\n", s->first, s->last, s->loss, exp(s->loss),
               trained && s->first > trained ? "   longer than in training" : "");
}

/* A loss that is no number: the first window with one says why. */
static int explain(Model *model, const TokenSource *source, const Options *o, Error *err) {
    size_t T = (size_t)o->context_length;
    int32_t *ids = must_alloc(2 * T, sizeof *ids);
    int status = 0;
    for (int i = 0; i < o->windows && !status; i++) {
        source_validation(source, i, o->windows, (int)T, ids, ids + T);
        status = model_not_finite(model, ids, (int)T, err);
    }
    free(ids);
    if (!status) error_set(err, "though all logits are");
    return error_prefix(err, "the loss is not finite: ");
}

static int measure(const Options *o, Model *model, TextInput *input, Error *err) {
    int trained = model->cfg.trained_context_length;
    if (o->context_length > model->cfg.max_position_embeddings)
        return error_set(err, "--context %d is longer than this model's %d positions",
                         o->context_length, model->cfg.max_position_embeddings);
    TextOptions text = {.data = &o->data,
                        .context_length = o->context_length,
                        .validation = 1,
                        .tokenizer = o->model,
                        .vocab = model->cfg.vocab_size};
    if (text_input_open(input, &text, err)) return -1;
    const TokenSource *source = &input->source;
    double bits = 1 / log(2) * (double)input->tokens / (double)source->bytes;
    Stretch all = {.first = 1, .last = o->context_length}, stretches[MAX_STRETCHES];
    int count = o->by_position ? stretches_of(stretches, o->context_length) : 0;
    if (count) losses_by_position(model, source, o, stretches, count);
    float losses[OBJECTIVE_SHOWN];
    train_validation_losses(model, source, o->windows, 8, o->context_length,
                            tokenizer_eot(input->tokenizer), losses);
    all.loss = losses[0];
    if (!isfinite(all.loss)) return explain(model, source, o, err);
    printf("loss %.4f   perplexity %.2f   bits per byte %.4f   (%d windows of %d tokens)\n",
           all.loss, exp(all.loss), bits * all.loss, o->windows, o->context_length);
    for (int k = 1; k <= model->mtp.depth && k < o->context_length; k++)
        printf("loss %.4f   of module %d: the token %d place%s behind the next\n", losses[k], k, k,
               k == 1 ? "" : "s");
    if (count) print_stretches(stretches, count, trained);
    if (trained && o->context_length > trained)
        fprintf(stderr,
                "(the model was trained on texts of %d tokens; longer ones are foreign to it%s)\n",
                trained, count ? "" : ":\n --by-position shows how much");
    if (!o->common.csv) return 0;
    return count ? write_csv(o, model, stretches, count, bits, err)
                 : write_csv(o, model, &all, 1, bits, err);
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.windows = 128}, *o = &options;
    const Option flags[] = {
        OPT_STRING("model", 'm', "DIR", &o->model, "Folder that train wrote",
                   .required = "says which model"),
        OPT_LIST("data", 0, "FILE", &o->data, 0,
                 "Text to measure on, which may be given several times; or a folder of shards, of "
                 "which the validation part counts",
                 .required = "says on which text"),
        OPT_INT("context", 0, "N", &o->context_length, 1, 1 << 20,
                "Tokens in a window (default: as many as in training, or 64)"),
        OPT_INT("windows", 0, "N", &o->windows, 1, 1 << 20, "Windows, spread evenly over the text"),
        OPT_FLAG("by-position", 0, &o->by_position,
                 "Also the loss of the first tokens of a window, of the next, and so on"),
        OPT_FLAG("quantised-activations", 0, &o->quantised_activations,
                 "With quantised weights: multiply as generate does, which on a CPU rounds what "
                 "they are multiplied with"),
        OPT_CSV(&o->common),
        OPT_COMMON_OF(&o->common, COMMON_THREADS | COMMON_DEVICE | COMMON_DTYPE),
        OPT_END};
    options_parse(argc, argv, command_eval.about, flags);
    Context ctx;
    options_open(&o->common, &ctx);
    Model model = {0};
    TextInput input = {0};
    int status =
        checkpoint_load_model(&model, &ctx, o->model, NULL,
                              o->quantised_activations ? LOAD_TO_RUN : LOAD_WEIGHT_ONLY, err);
    if (!o->context_length) o->context_length = model.cfg.trained_context_length;
    if (!o->context_length) o->context_length = train_defaults().context_length;
    if (!status) status = measure(o, &model, &input, err);
    text_input_close(&input);
    model_free(&model);
    context_free(&ctx);
    free(o->data.items);
    return status;
}

const Command command_eval = {
    "eval", "Measures a model on text: loss per token, perplexity, bits per byte.", run};
