/*
 * deepseek convert: a model's folder written anew: rounded to BF16, in larger or smaller files,
 * with experts one by one, quantised weights as plain numbers.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/checkpoint/output_folder.h"
#include "10_full_model/commands/command.h"

#include "common/core/utf8.h"
#include "common/files/files.h"
#include "common/files/replacement.h"
#include "common/text/tokenizer_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Options {
    CommonOptions common;
    const char *model, *out;
    bool overwrite, no_mtp, dequantize;
    SaveOptions save;
} Options;

/* All files of the result take their places at once. */
static int write_model(const Options *o, Model *model, const Tokenizer *tokenizer, Error *err) {
    Replacement r;
    if (replacement_open(&r, o->out, err)) return -1;
    int status = checkpoint_write_setup_of(model, tokenizer, r.staging, o->save.dtype, err);
    if (!status) status = config_keep_others(o->model, r.staging, err);
    if (!status) status = checkpoint_write_weights(model, r.staging, &o->save, err);
    if (!status) status = replacement_commit(&r, checkpoint_owns, err);
    replacement_abandon(&r);
    return status;
}

static int convert(const Options *o, Context *ctx, Error *err) {
    Model model = {0};
    ModelConfig cfg;
    if (checkpoint_load_config(&cfg, o->model, err)) return -1;
    if (o->no_mtp) cfg.num_nextn_predict_layers = 0;
    LoadKind kind = o->dequantize ? LOAD_PLAIN : LOAD_WEIGHT_ONLY;
    int status = checkpoint_load_model(&model, ctx, o->model, &cfg, kind, err);
    if (status) return -1;
    /* Weights alone can be converted too, and those of a tokenizer that only others can read. */
    Error why;
    bool text = access(file_path(o->model, "tokenizer.json").text, F_OK) == 0;
    Tokenizer *tokenizer = text ? checkpoint_load_tokenizer(&model.cfg, o->model, &why) : NULL;
    if (text && !tokenizer) {
        terminal_print(stderr, why.text);
        fprintf(stderr, ". It is copied as it is\n");
    }
    if (!tokenizer && !(tokenizer = tokenizer_keep_folder(o->model, err))) status = -1;
    if (!status) status = write_model(o, &model, tokenizer, err);
    if (!status)
        printf("%s: the model is written, %s\n", o->out,
               text ? "with its tokenizer" : "without a tokenizer");
    if (!status && cfg.num_nextn_predict_layers)
        printf("It has modules for multi-token prediction: transformers opens it, reports their\n"
               "weights as UNEXPECTED and gives the same logits. --no-mtp leaves them out.\n");
    model_free(&model);
    tokenizer_free(tokenizer);
    return status;
}

static int run(int argc, char **argv, Error *err) {
    static const char *const dtypes[] = {"f32", "bf16", NULL}; /* in DType's order */
    Options options = {.save = {.dtype = F32}}, *o = &options;
    double megabytes = 5000;
    const Option flags[] = {
        OPT_STRING("model", 'm', "DIR", &o->model, "Folder with the model",
                   .required = "says which model"),
        OPT_STRING("out", 0, "DIR", &o->out, "Folder for the result",
                   .required = "says where the result goes"),
        OPT_CHOICE("weights", 0, "f32|bf16", &o->save.dtype, dtypes, "Numbers in the new file"),
        OPT_FLAG("overwrite", 0, &o->overwrite, "Replace the model that is in --out"),
        OPT_FLAG("dequantize", 0, &o->dequantize,
                 "Write plain numbers where the weights are quantised (else they stay so)"),
        OPT_FLAG("no-mtp", 0, &o->no_mtp, "Leave modules for multi-token prediction out"),
        OPT_FLOAT("shard-mb", 0, "N", &megabytes, 0.001, 1e9, "Largest file, in millions of bytes"),
        OPT_COMMON_OF(&o->common, COMMON_THREADS),
        OPT_END};
    options_parse(argc, argv, command_convert.about, flags);
    o->save.shard_size = (int64_t)(1e6 * megabytes);
    char from[4096], to[4096];
    if (realpath(o->model, from) && realpath(o->out, to) && !strcmp(from, to))
        return error_set(err,
                         "convert: --out is the folder of --model; give the result one of its own");
    int lock = output_folder_open(o->out, OUTPUT_MODEL, o->overwrite, err);
    if (lock < 0) return -1;
    Context ctx;
    options_open(&o->common, &ctx);
    int status = convert(o, &ctx, err);
    context_free(&ctx);
    close(lock);
    return status;
}

const Command command_convert = {"convert", "Writes a model anew: other numbers, other files.",
                                 run};
