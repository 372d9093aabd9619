/*
 * deepseek train: text files in, a folder with a model out.
 */
#include "command.h"
#include "train.h"

#include "../common/files.h"
#include "../common/progress.h"

#include <stdio.h>
#include <stdlib.h>

enum Flag { /* long options without a letter */
            DATA = 256,
            OUT,
            CONFIG,
            VOCAB,
            STEPS,
            BATCH,
            CONTEXT,
            ACCUMULATE,
            RATE,
            WARMUP,
            EVAL_EVERY,
};

typedef struct Options {
    CommonOptions common;
    FileList data;
    const char *config, *out;
    int vocab;
    TrainOptions train;
} Options;

static const struct argp_option train_flags[] = {
    {"data", DATA, "FILE", 0,
     "Text to learn from (any bytes, UTF-8 as a rule); may be given several times", 0},
    {"out", OUT, "DIR", 0, "Folder for the model (required)", 0},
    {"config", CONFIG, "NAME", 0, "Size of the model: nano (default) or small", 0},
    {"vocab", VOCAB, "N", 0, "Tokens to learn from the text first (default 2048)", 0},
    {"steps", STEPS, "N", 0, "Steps of AdamW (default 1000)", 0},
    {"batch", BATCH, "N", 0, "Windows of text in a step (default 16)", 0},
    {"context", CONTEXT, "N", 0, "Tokens in a window (default 64)", 0},
    {"accumulate", ACCUMULATE, "N", 0,
     "Batches whose gradients are added up for a step (default 1)", 0},
    {"learning-rate", RATE, "X", 0,
     "Highest learning rate (default 0.003); a tenth of it at the end", 0},
    {"warmup", WARMUP, "N", 0, "Steps until the learning rate is up (default 50)", 0},
    {"eval-every", EVAL_EVERY, "N", 0, "Validate, and save the best, every N steps (default 100)",
     0},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state) {
    Options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->common;
        return 0;
    case DATA:
        file_list_add(&o->data, state, "--data", text);
        return 0;
    case OUT:
        o->out = text;
        return 0;
    case CONFIG:
        o->config = text;
        return 0;
    case VOCAB:
        o->vocab = (int)option_integer(state, "--vocab", text, 257, 1 << 20);
        return 0;
    case STEPS:
        o->train.steps = option_integer(state, "--steps", text, 1, 1L << 40);
        return 0;
    case BATCH:
        o->train.batch_size = (int)option_integer(state, "--batch", text, 1, 65536);
        return 0;
    case CONTEXT:
        o->train.context_length = (int)option_integer(state, "--context", text, 1, 1 << 20);
        return 0;
    case ACCUMULATE:
        o->train.accumulation = (int)option_integer(state, "--accumulate", text, 1, 65536);
        return 0;
    case RATE:
        o->train.learning_rate = (float)option_number(state, "--learning-rate", text, 0, 1e30);
        return 0;
    case WARMUP:
        o->train.warmup_steps = option_integer(state, "--warmup", text, 0, 1L << 40);
        return 0;
    case EVAL_EVERY:
        o->train.eval_interval = (int)option_integer(state, "--eval-every", text, 1, 1 << 30);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "'%s' is not expected here: every setting has a flag", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void merges_progress(void *user, int done, int wanted) {
    (void)wanted;
    progress_update(user, done, "merges");
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.config = "nano", .vocab = 2048, .train = train_defaults()}, *o = &options;
    command_parse(&command_train, train_flags, parse, argc, argv, &o->common, o);
    if (!o->out) return error_set(err, "train: --out DIR says where the model goes");
    if (!o->data.count) return error_set(err, "train: --data FILE says what to learn from");
    ModelConfig cfg;
    if (config_preset(&cfg, o->config, err)) return -1;
    if (o->train.context_length > cfg.max_position_embeddings)
        return error_set(err, "--context %d is longer than the %d positions of configuration %s",
                         o->train.context_length, cfg.max_position_embeddings, o->config);
    if (make_directories(o->out, err)) return -1; /* before the work, not after it */
    Context ctx;
    options_open(&o->common, &ctx);

    size_t bytes;
    char *text = text_read(o->data.paths, o->data.count, &bytes, err);
    Tokenizer *tokenizer = NULL;
    Corpus corpus = {0};
    Model model = {0};
    Csv csv = {0};
    int status = text ? 0 : -1;
    if (!status) {
        Progress progress = progress_start("tokenizer", o->vocab - 257);
        tokenizer = tokenizer_train(text, bytes, o->vocab, merges_progress, &progress, err);
        status = tokenizer ? 0 : -1;
        if (!status) progress_finish(&progress, "%d tokens", tokenizer_vocab_size(tokenizer));
    }
    if (!status) {
        cfg.vocab_size = tokenizer_vocab_size(tokenizer);
        status = corpus_init(&corpus, tokenizer, text, bytes, 0.05, o->train.context_length, err);
    }
    free(text);
    if (!status) status = model_init(&model, &ctx, &cfg, true, err);
    char csv_path[1024];
    snprintf(csv_path, sizeof csv_path, "%s/metrics.csv", o->out);
    if (!status)
        status = csv_open(&csv, o->common.csv ? o->common.csv : csv_path, TRAIN_COLUMNS,
                          ctx.gpu ? gpu_describe(ctx.gpu).text : "cpu", o->common.seed, err);
    if (!status) {
        char parameters[32], tokens[32];
        printf("%s parameters, %s tokens of text\n",
               format_count(parameters, sizeof parameters, params_count(&model.params)),
               format_count(tokens, sizeof tokens, (int64_t)corpus.count));
        model_randomize(&model);
        o->train.out = o->out;
        o->train.tokenizer = tokenizer;
        o->train.csv = &csv;
        o->train.min_learning_rate = o->train.learning_rate / 10;
        TrainResult result;
        status = train(&model, &corpus, &o->train, &result, err);
        Error csv_error;
        if (csv_close(&csv, &csv_error) && !status) status = error_set(err, "%s", csv_error.text);
        if (!status)
            printf("%s after %lld steps. Best validation loss %.4f; the model is in %s\n",
                   result.interrupted ? "Stopped" : "Done", (long long)result.steps,
                   result.best_validation_loss, o->out);
    }
    model_free(&model);
    corpus_free(&corpus);
    if (tokenizer) tokenizer_free(tokenizer);
    context_free(&ctx);
    return status;
}

const Command command_train = {
    "train", "Trains a model on text files: first a tokenizer, then the weights.", run};
