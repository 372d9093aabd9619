/*
 * deepseek eval: how well a model knows a text.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/text_input.h"
#include "10_full_model/train/train.h"

#include <math.h>
#include <stdio.h>

enum Flag { MODEL = 256, DATA, CONTEXT, WINDOWS };

typedef struct Options {
    CommonOptions common;
    FileList data;
    const char *model;
    int context_length, windows;
} Options;

static const struct argp_option eval_flags[] = {
    {"model", MODEL, "DIR", 0, "Folder that train wrote (required)", 0},
    {"data", DATA, "FILE", 0,
     "Text to measure on, which may be given several times; or a folder of shards, of which the "
     "validation "
     "part counts (required)",
     0},
    {"context", CONTEXT, "N", 0, "Tokens in a window (default 64)", 0},
    {"windows", WINDOWS, "N", 0, "Windows, spread evenly over the text (default 128)", 0},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state) {
    Options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->common;
        return 0;
    case MODEL:
        o->model = text;
        return 0;
    case DATA:
        file_list_add(&o->data, state, "--data", text);
        return 0;
    case CONTEXT:
        o->context_length = (int)option_integer(state, "--context", text, 1, 1 << 20);
        return 0;
    case WINDOWS:
        o->windows = (int)option_integer(state, "--windows", text, 1, 1 << 20);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "'%s' is not expected here: every setting has a flag", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int measure(const Options *o, Model *model, TextInput *input, Error *err) {
    if (o->context_length > model->cfg.max_position_embeddings)
        return error_set(err, "--context %d is longer than this model's %d positions",
                         o->context_length, model->cfg.max_position_embeddings);
    TextOptions text = {.data = &o->data,
                        .context_length = o->context_length,
                        .validation = 1,
                        .tokenizer = o->model};
    if (text_input_open(input, &text, err)) return -1;
    if (tokenizer_vocab_size(input->tokenizer) > model->cfg.vocab_size)
        return error_set(err,
                         "%s: its tokenizer has %d tokens, its model %d: they do not belong "
                         "together",
                         o->model, tokenizer_vocab_size(input->tokenizer), model->cfg.vocab_size);
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
    command_parse(&command_eval, eval_flags, parse, argc, argv, &o->common, o);
    if (!o->model) return error_set(err, "eval: --model DIR says which model");
    if (!o->data.count) return error_set(err, "eval: --data FILE says on which text");
    Context ctx;
    options_open(&o->common, &ctx);
    Model model = {0};
    TextInput input = {0};
    int status = checkpoint_load_model(&model, &ctx, o->model, NULL, false, err);
    if (!status) status = measure(o, &model, &input, err);
    text_input_close(&input);
    model_free(&model);
    context_free(&ctx);
    return status;
}

const Command command_eval = {
    "eval", "Measures a model on text: loss per token, perplexity, bits per byte.", run};
