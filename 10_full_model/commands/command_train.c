/*
 * deepseek train: text files, or shards, in; a folder with a model out.
 */
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/text_input.h"
#include "10_full_model/train/train.h"

#include "common/program/bench.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum Flag { /* long options without a letter */
            DATA = 256,
            OUT,
            CONFIG,
            VOCAB,
            VALIDATION,
            STEPS,
            BATCH,
            CONTEXT,
            ACCUMULATE,
            RATE,
            LOWEST_RATE,
            WARMUP,
            CONSTANT,
            WEIGHT_DECAY,
            CLIP,
            DROPOUT,
            BALANCE_LOSS,
            BIAS_SPEED,
            EVAL_EVERY,
            EVAL_BATCHES,
            RESUME,
            OVERWRITE,
            PEAK,
};

typedef struct Options {
    CommonOptions common;
    FileList data;
    const char *config, *out; /* config NULL: not given */
    int vocab;                /* 0: not given */
    double validation;        /* 0: not given */
    double lowest_rate, peak; /* < 0: not given; peak in TFLOP/s */
    bool resume, overwrite;
    TrainOptions train;
} Options;

static const struct argp_option train_flags[] = {
    {"data", DATA, "FILE", 0,
     "Text to learn from (any bytes, UTF-8 as a rule), which may be given several times; or a "
     "folder "
     "of shards that `deepseek data` wrote",
     0},
    {"out", OUT, "DIR", 0, "Folder for the model (required); DIR/last has what --resume needs", 0},
    {"config", CONFIG, "NAME|DIR", 0,
     "Size of the model: a preset (default nano; `deepseek info` lists them), or a folder with a "
     "config.json",
     0},
    {"vocab", VOCAB, "N", 0, "Tokens to learn from the text first (default: the preset's, or 2048)",
     0},
    {"validation", VALIDATION, "X", 0, "Share of the text that is kept back (default 0.05)", 0},
    {"resume", RESUME, 0, 0,
     "Go on with the run in DIR: repeat its other flags. Begins if there is none", 0},
    {"overwrite", OVERWRITE, 0, 0, "Begin anew although DIR has a run", 0},
    {0, 0, 0, 0, "How long:", 1},
    {"steps", STEPS, "N", 0, "Steps of AdamW (default 1000)", 0},
    {"batch", BATCH, "N", 0, "Windows of text in a batch (default 16)", 0},
    {"context", CONTEXT, "N", 0, "Tokens in a window (default 64)", 0},
    {"accumulate", ACCUMULATE, "N", 0,
     "Batches whose gradients are added up for a step (default 1)", 0},
    {"eval-every", EVAL_EVERY, "N", 0, "Validate and save every N steps (default 100)", 0},
    {"eval-batches", EVAL_BATCHES, "N", 0, "Batches of a validation (default 8)", 0},
    {0, 0, 0, 0, "How:", 2},
    {"learning-rate", RATE, "X", 0, "The highest (default 0.003)", 0},
    {"lowest-rate", LOWEST_RATE, "X", 0, "At the end (default: a tenth of the highest)", 0},
    {"warmup", WARMUP, "N", 0,
     "Steps until the learning rate is up (default 50, of a short run a quarter)", 0},
    {"constant", CONSTANT, "N", 0,
     "Steps for which it stays there; a cosine does the rest (default 0)", 0},
    {"weight-decay", WEIGHT_DECAY, "X", 0, "Of matrices (default 0.1)", 0},
    {"clip", CLIP, "X", 0, "Largest norm of the gradient; 0: any (default 1)", 0},
    {"dropout", DROPOUT, "X", 0, "Probability (default 0)", 0},
    {"balance-loss", BALANCE_LOSS, "X", 0,
     "Weight of the sequence-wise balance loss (default 0.0001)", 0},
    {"bias-speed", BIAS_SPEED, "X", 0,
     "How far a router's bias moves after a step towards an even load (default 0.001)", 0},
    {"peak", PEAK, "X", 0,
     "The device's TFLOP/s, for the column share_of_peak; 0 leaves it empty (default: measured)",
     0},
    {0}};

static bool parse_recipe(int key, const char *text, struct argp_state *state, Options *o) {
    TrainOptions *t = &o->train;
    switch (key) {
    case RATE:
        t->schedule.peak = (float)option_number(state, "--learning-rate", text, 0, 1e30);
        return true;
    case LOWEST_RATE:
        o->lowest_rate = option_number(state, "--lowest-rate", text, 0, 1e30);
        return true;
    case WARMUP:
        t->schedule.warmup = option_integer(state, "--warmup", text, 0, 1L << 40);
        return true;
    case CONSTANT:
        t->schedule.constant = option_integer(state, "--constant", text, 0, 1L << 40);
        return true;
    case WEIGHT_DECAY:
        t->adamw.weight_decay = (float)option_number(state, "--weight-decay", text, 0, 100);
        return true;
    case CLIP:
        t->adamw.clip = (float)option_number(state, "--clip", text, 0, 1e30);
        return true;
    case DROPOUT:
        t->dropout = (float)option_number(state, "--dropout", text, 0, 0.99);
        return true;
    case BALANCE_LOSS:
        t->balance_alpha = (float)option_number(state, "--balance-loss", text, 0, 1e6);
        return true;
    case BIAS_SPEED:
        t->bias_speed = (float)option_number(state, "--bias-speed", text, 0, 1);
        return true;
    case PEAK:
        o->peak = option_number(state, "--peak", text, 0, 1e9);
        return true;
    default:
        return false;
    }
}

static bool parse_length(int key, const char *text, struct argp_state *state, Options *o) {
    TrainOptions *t = &o->train;
    switch (key) {
    case VOCAB:
        o->vocab = (int)option_integer(state, "--vocab", text, 257, 1 << 20);
        return true;
    case VALIDATION:
        o->validation = option_number(state, "--validation", text, 0.001, 0.9);
        return true;
    case STEPS:
        t->schedule.steps = option_integer(state, "--steps", text, 1, 1L << 40);
        return true;
    case BATCH:
        t->batch_size = (int)option_integer(state, "--batch", text, 1, 65536);
        return true;
    case CONTEXT:
        t->context_length = (int)option_integer(state, "--context", text, 1, 1 << 20);
        return true;
    case ACCUMULATE:
        t->accumulation = (int)option_integer(state, "--accumulate", text, 1, 65536);
        return true;
    case EVAL_EVERY:
        t->eval_interval = (int)option_integer(state, "--eval-every", text, 1, 1 << 30);
        return true;
    case EVAL_BATCHES:
        t->eval_batches = (int)option_integer(state, "--eval-batches", text, 1, 1 << 20);
        return true;
    default:
        return false;
    }
}

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
    case RESUME:
        o->resume = true;
        return 0;
    case OVERWRITE:
        o->overwrite = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "'%s' is not expected here: every setting has a flag", text);
        return 0;
    default:
        if (parse_length(key, text, state, o) || parse_recipe(key, text, state, o)) return 0;
        return ARGP_ERR_UNKNOWN;
    }
}

/* What the flags say together, before any work is done. */
static int check_flags(const Options *o, Error *err) {
    const Schedule *s = &o->train.schedule;
    if (!o->out) return error_set(err, "train: --out DIR says where the model goes");
    if (!o->data.count) return error_set(err, "train: --data FILE says what to learn from");
    if (o->resume && o->overwrite)
        return error_set(err, "train: --resume goes on and --overwrite begins anew; give one");
    if (text_input_is_sharded(&o->data) && (o->vocab || o->validation > 0))
        return error_set(err,
                         "train: the shards in %s have their tokens and their validation part "
                         "already; --vocab and --validation are for text files",
                         o->data.paths[0]);
    if (s->warmup + s->constant > s->steps)
        return error_set(err, "--warmup %lld and --constant %lld are more than all %lld steps",
                         (long long)s->warmup, (long long)s->constant, (long long)s->steps);
    return 0;
}

/* The preset, or the folder's config.json; of a run that is resumed, its own. */
static int read_config(const Options *o, const char *last, ModelConfig *cfg, Error *err) {
    if (!o->config && last) return config_load(cfg, last, err);
    if (!o->config) return config_preset(cfg, "nano", err);
    char path[1024];
    snprintf(path, sizeof path, "%s/config.json", o->config);
    if (access(path, F_OK) == 0) return config_load(cfg, o->config, err);
    return config_preset(cfg, o->config, err);
}

/* How many tokens are to be learned, if any are. */
static int tokens_wanted(const Options *o, const ModelConfig *cfg) {
    return o->vocab ? o->vocab : cfg->vocab_size ? cfg->vocab_size : 2048;
}

static int check_context(const Options *o, const ModelConfig *cfg, Error *err) {
    if (o->train.context_length <= cfg->max_position_embeddings) return 0;
    return error_set(err, "--context %d is longer than the %d positions of configuration %s",
                     o->train.context_length, cfg->max_position_embeddings,
                     o->config ? o->config : "nano");
}

/* What train_run() would refuse after the text is read and a tokenizer learned, is refused before. */
static int look_ahead(const Options *o, const ModelConfig *cfg, Error *err) {
    ModelConfig with_tokens = *cfg;
    if (!cfg->vocab_size) with_tokens.vocab_size = tokens_wanted(o, cfg);
    if (config_buildable(cfg, err) || config_check(&with_tokens, err)) return -1;
    RunFolder folder;
    if (run_folder_open(&folder, o->out, o->train.start, err)) return -1;
    run_folder_close(&folder);
    return 0;
}

static void report(const Options *o, const TrainResult *r) {
    if (r->steps == r->resumed_from)
        printf("All %lld steps of this run were done before\n", (long long)r->steps);
    else if (r->interrupted)
        printf(
            "Stopped after %lld of %lld steps and saved. The same command with --resume goes on\n",
            (long long)r->steps, (long long)o->train.schedule.steps);
    else
        printf("Done after %lld steps\n", (long long)r->steps);
    if (r->best_step)
        printf("Best validation loss %.4f, at step %lld: that model is in %s\n",
               r->best_validation_loss, (long long)r->best_step, o->out);
    printf("The model of the last step is in %s/last\n", o->out);
}

/* The charts of a run, beside its metrics. */
static void draw(const char *csv, const char *out, bool experts) {
    char path[1100];
    snprintf(path, sizeof path, "%s/loss", out);
    plot_or_explain("10_full_model/figures/loss.gp", csv, path);
    if (!experts) return; /* there is no load to draw */
    snprintf(path, sizeof path, "%s/load", out);
    plot_or_explain("10_full_model/figures/load.gp", csv, path);
}

static int train_on(const Options *o, ModelConfig *cfg, TextInput *input, Context *ctx,
                    Error *err) {
    cfg->vocab_size = tokenizer_vocab_size(input->tokenizer);
    Model model;
    if (config_check(cfg, err) || model_init(&model, ctx, cfg, true, err)) return -1;
    model_randomize(&model);
    char parameters[32], active[32], tokens[32], csv_path[1024];
    printf("%s parameters, %s active; %s tokens of text\n",
           format_count(parameters, sizeof parameters, config_parameters(cfg)),
           format_count(active, sizeof active, config_active_parameters(cfg)),
           format_count(tokens, sizeof tokens, input->tokens));
    snprintf(csv_path, sizeof csv_path, "%s/metrics.csv", o->out);
    TrainOptions train_options = o->train;
    train_options.out = o->out;
    train_options.tokenizer = input->tokenizer;
    train_options.csv = o->common.csv ? o->common.csv : csv_path;
    train_options.schedule.floor =
        o->lowest_rate >= 0 ? (float)o->lowest_rate : o->train.schedule.peak / 10;
    train_options.peak = o->peak >= 0 ? 1e12 * o->peak : bench_peak(ctx, ctx->dtype, 0.2);
    TrainResult result;
    int status = train_run(&model, &input->source, &train_options, &result, err);
    model_free(&model);
    if (status) return -1;
    report(o, &result);
    draw(train_options.csv, o->out, cfg->n_routed_experts > 0);
    return 0;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.lowest_rate = -1, .peak = -1, .train = train_defaults()};
    Options *o = &options;
    Schedule *schedule = &o->train.schedule;
    int64_t usual = schedule->warmup;
    schedule->warmup = -1; /* not given */
    command_parse(&command_train, train_flags, parse, argc, argv, &o->common, o);
    if (schedule->warmup < 0)
        schedule->warmup = usual < schedule->steps / 4 ? usual : schedule->steps / 4;
    char last_path[1024];
    if (check_flags(o, err)) return -1;
    snprintf(last_path, sizeof last_path, "%s/last", o->out);
    o->train.start = o->resume ? RUN_RESUME : o->overwrite ? RUN_OVERWRITE : RUN_NEW;
    const char *last = o->resume && run_folder_has_state(o->out) ? last_path : NULL;
    ModelConfig cfg;
    if (read_config(o, last, &cfg, err) || check_context(o, &cfg, err)) return -1;
    if (look_ahead(o, &cfg, err)) return -1;
    if (o->resume && !last) printf("%s has no run to resume: this begins one\n", o->out);
    Context ctx;
    options_open(&o->common, &ctx);
    TextOptions text = {.data = &o->data,
                        .context_length = o->train.context_length,
                        .validation = o->validation > 0 ? o->validation : 0.05,
                        .tokenizer = last,
                        .vocab = tokens_wanted(o, &cfg)};
    TextInput input;
    int status = text_input_open(&input, &text, err);
    if (!status) status = train_on(o, &cfg, &input, &ctx, err);
    text_input_close(&input);
    context_free(&ctx);
    return status;
}

const Command command_train = {"train",
                               "Trains a model on text: first a tokenizer, then the weights.", run};
