/*
 * The program: deepseek train | generate | eval, each with --help.
 */
#include "checkpoint.h"
#include "generate.h"
#include "train.h"

#include "../common/files.h"
#include "../common/options.h"
#include "../common/progress.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILES = 64 };

enum Flag { /* long options without a letter */
            CONFIG = 256,
            DATA,
            OUT,
            VOCAB,
            STEPS,
            BATCH,
            CONTEXT,
            ACCUMULATE,
            RATE,
            WARMUP,
            EVAL_EVERY,
            MODEL,
            PROMPT,
            TOKENS,
            TEMPERATURE,
            TOP_K,
            TOP_P,
            WINDOWS,
};

typedef struct Options {
    CommonOptions common;
    const char *data[MAX_FILES];
    int data_count;
    const char *config, *out, *model, *prompt;
    int vocab, max_new_tokens, windows;
    Sampling sampling;
    TrainOptions train;
} Options;

/* ---- flags ---- */

static error_t parse(int key, char *text, struct argp_state *state) {
    Options *o = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->common;
        return 0;
    case DATA:
        if (o->data_count == MAX_FILES) argp_error(state, "--data: at most %d files", MAX_FILES);
        o->data[o->data_count++] = text;
        return 0;
    case CONFIG:
        o->config = text;
        return 0;
    case OUT:
        o->out = text;
        return 0;
    case MODEL:
        o->model = text;
        return 0;
    case PROMPT:
        o->prompt = text;
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
    case TOKENS:
        o->max_new_tokens = (int)option_integer(state, "--max-new-tokens", text, 1, 1 << 20);
        return 0;
    case TEMPERATURE:
        o->sampling.temperature = (float)option_number(state, "--temperature", text, 0, 100);
        return 0;
    case TOP_K:
        o->sampling.top_k = (int)option_integer(state, "--top-k", text, 0, 1 << 20);
        return 0;
    case TOP_P:
        o->sampling.top_p = (float)option_number(state, "--top-p", text, 0, 1);
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

static const struct argp_option generate_flags[] = {
    {"model", MODEL, "DIR", 0, "Folder that train wrote (required)", 0},
    {"prompt", PROMPT, "TEXT", 0, "What the text begins with (default: nothing)", 0},
    {"max-new-tokens", TOKENS, "N", 0, "Tokens to add (default 200)", 0},
    {"temperature", TEMPERATURE, "X", 0,
     "0: always the likeliest token; 1: the model's probabilities (default 0.8)", 0},
    {"top-k", TOP_K, "K", 0, "Choose among the K likeliest tokens (default 0: all)", 0},
    {"top-p", TOP_P, "P", 0, "Choose among the likeliest tokens that make up P (default 0.95)", 0},
    {0}};

static const struct argp_option eval_flags[] = {
    {"model", MODEL, "DIR", 0, "Folder that train wrote (required)", 0},
    {"data", DATA, "FILE", 0, "Text to measure on; may be given several times (required)", 0},
    {"context", CONTEXT, "N", 0, "Tokens in a window (default 64)", 0},
    {"windows", WINDOWS, "N", 0, "Windows, spread evenly over the text (default 128)", 0},
    {0}};

/* ---- train ---- */

static void merges_progress(void *user, int done, int wanted) {
    (void)wanted;
    progress_update(user, done, "merges");
}

static int run_train(Options *o, Error *err) {
    if (!o->out) return error_set(err, "train: --out DIR says where the model goes");
    if (!o->data_count) return error_set(err, "train: --data FILE says what to learn from");
    ModelConfig cfg;
    if (config_preset(&cfg, o->config, err)) return -1;
    if (o->train.context_length > cfg.max_position_embeddings)
        return error_set(err, "--context %d is longer than the %d positions of configuration %s",
                         o->train.context_length, cfg.max_position_embeddings, o->config);
    if (make_directories(o->out, err)) return -1; /* before the work, not after it */
    Context ctx;
    options_open(&o->common, &ctx);

    size_t bytes;
    char *text = text_read(o->data, o->data_count, &bytes, err);
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

/* ---- generate ---- */

/* user: the prompt, which is printed before the first piece of new text (a prompt that is refused is not). */
static void print_text(void *user, const char *text, size_t bytes) {
    const char **prompt = user;
    if (*prompt) fputs(*prompt, stdout);
    *prompt = NULL;
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

static int run_generate(Options *o, Error *err) {
    if (!o->model) return error_set(err, "generate: --model DIR says which model");
    Context ctx;
    options_open(&o->common, &ctx);
    Model model;
    Tokenizer *tokenizer;
    GenerateResult result;
    int status = checkpoint_load(&model, &tokenizer, &ctx, o->model, err);
    if (!status) {
        o->sampling.seed = o->common.seed;
        const char *prompt = o->prompt;
        status = generate(&model, tokenizer, o->prompt, o->max_new_tokens, &o->sampling, print_text,
                          &prompt, &result, err);
        if (!status) {
            if (prompt) fputs(prompt, stdout); /* not one new token */
            printf("\n");
            if (fflush(stdout) || ferror(stdout))
                status = error_set(err, "cannot write the text: %s", strerror(errno));
        }
        if (!status)
            fprintf(stderr, "%d tokens, %.0f tokens/s\n", result.new_tokens,
                    result.new_tokens / result.seconds);
        model_free(&model);
        tokenizer_free(tokenizer);
    }
    context_free(&ctx);
    return status;
}

/* ---- eval ---- */

static int run_eval(Options *o, Error *err) {
    if (!o->model) return error_set(err, "eval: --model DIR says which model");
    if (!o->data_count) return error_set(err, "eval: --data FILE says on which text");
    Context ctx;
    options_open(&o->common, &ctx);
    Model model;
    Tokenizer *tokenizer;
    int status = checkpoint_load(&model, &tokenizer, &ctx, o->model, err);
    if (!status) {
        size_t bytes;
        Corpus corpus = {0};
        if (o->train.context_length > model.cfg.max_position_embeddings)
            status = error_set(err, "--context %d is longer than this model's %d positions",
                               o->train.context_length, model.cfg.max_position_embeddings);
        char *text = status ? NULL : text_read(o->data, o->data_count, &bytes, err);
        status =
            text ? corpus_whole(&corpus, tokenizer, text, bytes, o->train.context_length, err) : -1;
        if (!status) {
            float loss = validation_loss(&model, &corpus, o->windows, 8, o->train.context_length);
            double bits = loss / log(2) * (double)corpus.count / (double)corpus.bytes;
            printf("loss %.4f   perplexity %.2f   bits per byte %.4f   (%d windows of %d tokens)\n",
                   loss, exp(loss), bits, o->windows, o->train.context_length);
        }
        free(text);
        corpus_free(&corpus);
        model_free(&model);
        tokenizer_free(tokenizer);
    }
    context_free(&ctx);
    return status;
}

/* ---- the program ---- */

static const struct Command {
    const char *name, *about;
    const struct argp_option *flags;
    int (*run)(Options *options, Error *err);
} commands[] = {
    {"train", "Trains a model on text files: first a tokenizer, then the weights.", train_flags,
     run_train},
    {"generate", "Continues a prompt.", generate_flags, run_generate},
    {"eval", "Measures a model on text: loss per token, perplexity, bits per byte.", eval_flags,
     run_eval},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static int usage(FILE *out, int status) {
    fprintf(out, "Usage: deepseek COMMAND [FLAG...]\n\n");
    for (int i = 0; i < COMMANDS; i++)
        fprintf(out, "  %-10s%s\n", commands[i].name, commands[i].about);
    fprintf(out, "\n`deepseek COMMAND --help` lists the flags. Example:\n"
                 "  deepseek train --data bible.txt --out out/bible && deepseek generate --model "
                 "out/bible --prompt \"And God \"\n");
    return status;
}

int main(int argc, char **argv) {
    if (argc < 2) return usage(stderr, 2);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-?")) return usage(stdout, 0);
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name)) continue;
        Options options = {.config = "nano",
                           .prompt = "",
                           .vocab = 2048,
                           .max_new_tokens = 200,
                           .windows = 128,
                           .sampling = {.temperature = 0.8f, .top_p = 0.95f},
                           .train = train_defaults()};
        char name[64];
        snprintf(name, sizeof name, "deepseek %s", commands[i].name);
        argv[1] = name;
        struct argp argp = {commands[i].flags, parse, NULL, commands[i].about,
                            common_argp,       NULL,  NULL};
        options_parse(&argp, argc - 1, argv + 1, &options.common, &options);
        Error err;
        if (commands[i].run(&options, &err)) fatal("%s", err.text);
        return 0;
    }
    fprintf(stderr, "deepseek: there is no command '%s'\n\n", argv[1]);
    return usage(stderr, 2);
}
