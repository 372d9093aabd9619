/*
 * deepseek eval: how well a model knows a text.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/text_input.h"
#include "10_full_model/train/train.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct Options {
    CommonOptions common;
    StringList data;
    const char *model;
    int context_length, windows;
} Options;

static int measure(const Options *o, Model *model, TextInput *input, Error *err) {
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
    float loss = train_validation_loss(model, source, o->windows, 8, o->context_length);
    double bits = loss / log(2) * (double)input->tokens / (double)source->bytes;
    printf("loss %.4f   perplexity %.2f   bits per byte %.4f   (%d windows of %d tokens)\n", loss,
           exp(loss), bits, o->windows, o->context_length);
    return 0;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.context_length = train_defaults().context_length, .windows = 128},
            *o = &options;
    const Option flags[] = {
        OPT_STRING("model", 0, "DIR", &o->model, "Folder that train wrote",
                   .required = "says which model"),
        OPT_LIST("data", 0, "FILE", &o->data, 0,
                 "Text to measure on, which may be given several times; or a folder of shards, of "
                 "which the validation part counts",
                 .required = "says on which text"),
        OPT_INT("context", 0, "N", &o->context_length, 1, 1 << 20, "Tokens in a window"),
        OPT_INT("windows", 0, "N", &o->windows, 1, 1 << 20, "Windows, spread evenly over the text"),
        OPT_COMMON(&o->common),
        OPT_END};
    options_parse(argc, argv, command_eval.about, flags);
    Context ctx;
    options_open(&o->common, &ctx);
    Model model = {0};
    TextInput input = {0};
    int status = checkpoint_load_model(&model, &ctx, o->model, NULL, false, err);
    if (!status) status = measure(o, &model, &input, err);
    text_input_close(&input);
    model_free(&model);
    context_free(&ctx);
    free(o->data.items);
    return status;
}

const Command command_eval = {
    "eval", "Measures a model on text: loss per token, perplexity, bits per byte.", run};
