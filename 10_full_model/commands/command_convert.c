/*
 * deepseek convert: a model's folder written anew: rounded to BF16, in larger or smaller files,
 * with experts one by one, quantised weights as plain numbers.
 */
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/rewrite.h"

#include <stdio.h>
#include <unistd.h>

typedef struct Options {
    CommonOptions common;
    const char *model, *out;
    bool overwrite, no_mtp, dequantize;
    SaveOptions save;
} Options;

static int convert(const Options *o, Context *ctx, Error *err) {
    Model model = {0};
    ModelConfig cfg;
    if (checkpoint_load_config(&cfg, o->model, err)) return -1;
    if (o->no_mtp) cfg.num_nextn_predict_layers = 0;
    LoadKind kind = o->dequantize ? LOAD_PLAIN : LOAD_WEIGHT_ONLY;
    int status = checkpoint_load_model(&model, ctx, o->model, &cfg, kind, err);
    if (status) return -1;
    Tokenizer *tokenizer = rewrite_tokenizer(&model.cfg, o->model, err);
    if (!tokenizer) status = -1;
    if (!status) status = rewrite_model(&model, tokenizer, o->model, o->out, &o->save, err);
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
                 "Write plain numbers where weights are quantised (else they stay so)"),
        OPT_FLAG("no-mtp", 0, &o->no_mtp, "Leave modules for multi-token prediction out"),
        OPT_FLOAT("shard-mb", 0, "N", &megabytes, 0.001, 1e9, "Largest file, in millions of bytes"),
        OPT_COMMON_OF(&o->common, COMMON_THREADS),
        OPT_END};
    options_parse(argc, argv, command_convert.about, flags);
    o->save.shard_size = (int64_t)(1e6 * megabytes);
    int lock = rewrite_open("convert", o->model, o->out, o->overwrite, err);
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
