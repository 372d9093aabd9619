/*
 * deepseek convert: a model's folder written anew: rounded to BF16, in larger or smaller files,
 * with experts one by one.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"

#include "common/files/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum Flag { MODEL = 256, OUT, WEIGHTS, SHARD };

typedef struct Options {
    CommonOptions common;
    const char *model, *out;
    SaveOptions save;
} Options;

static const struct argp_option convert_flags[] = {
    {"model", MODEL, "DIR", 0, "Folder with the model (required)", 0},
    {"out", OUT, "DIR", 0, "Folder for the result (required)", 0},
    {"weights", WEIGHTS, "f32|bf16", 0, "Numbers in the new file (default f32)", 0},
    {"shard-mb", SHARD, "N", 0, "Largest file, in millions of bytes (default 5000)", 0},
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
    case OUT:
        o->out = text;
        return 0;
    case WEIGHTS:
        if (strcmp(text, "f32") && strcmp(text, "bf16"))
            argp_error(state, "--weights is '%s', but must be f32 or bf16", text);
        o->save.dtype = strcmp(text, "f32") ? BF16 : F32;
        return 0;
    case SHARD:
        o->save.shard_size = (int64_t)(1e6 * option_number(state, "--shard-mb", text, 0.001, 1e9));
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "'%s' is not expected here: every setting has a flag", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int convert(const Options *o, Context *ctx, Error *err) {
    char path[1100];
    Model model = {0};
    Tokenizer *tokenizer = NULL;
    snprintf(path, sizeof path, "%s/tokenizer.json", o->model);
    bool text = access(path, F_OK) == 0; /* weights alone can be converted too */
    int status = text ? checkpoint_load(&model, &tokenizer, ctx, o->model, err)
                      : checkpoint_load_model(&model, ctx, o->model, NULL, false, err);
    if (!status) status = checkpoint_write_setup(&model.cfg, tokenizer, o->out, o->save.dtype, err);
    if (!status) status = checkpoint_write_weights(&model, o->out, &o->save, err);
    if (!status)
        printf("%s: the model is written, %s\n", o->out,
               text ? "with its tokenizer" : "without a tokenizer");
    model_free(&model);
    if (tokenizer) tokenizer_free(tokenizer);
    return status;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.save = {.dtype = F32}}, *o = &options;
    command_parse(&command_convert, convert_flags, parse, argc, argv, &o->common, o);
    if (!o->model) return error_set(err, "convert: --model DIR says which model");
    if (!o->out) return error_set(err, "convert: --out DIR says where the result goes");
    char from[4096], to[4096];
    if (make_directories(o->out, err)) return -1;
    if (realpath(o->model, from) && realpath(o->out, to) && !strcmp(from, to))
        return error_set(err,
                         "convert: --out is the folder of --model; give the result one of its own");
    Context ctx;
    options_open(&o->common, &ctx);
    int status = convert(o, &ctx, err);
    context_free(&ctx);
    return status;
}

const Command command_convert = {"convert", "Writes a model anew: other numbers, other files.",
                                 run};
