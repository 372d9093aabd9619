/*
 * deepseek sft: prompts and completions in, a model that answers out. The loop is train's; what
 * differs is where its windows come from, and that in them only completions are targets.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/training.h"
#include "10_full_model/data/questions.h"
#include "10_full_model/train/train_flags.h"

#include "common/files/csv.h"
#include "common/program/bench.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Options {
    CommonOptions common;
    Comm *comm;                                     /* NULL: this process is alone */
    const char *model, *config, *data, *task, *out; /* NULL if not given */
    int digits;
    bool reversed, resume, overwrite;
    double validation, peak; /* peak: TFLOP/s; < 0: not given */
    TrainOptions train;      /* context_length 0, schedule.peak < 0: not given */
} Options;

static void check_flags(const Options *o, char **argv) {
    if (!o->model == !o->config)
        options_error(argv, "--model says which model is to learn, --config begins with random "
                            "weights; give one");
    if (!o->data == !o->task)
        options_error(argv, "--data names a file of prompts and completions, --task makes them; "
                            "give one");
    training_check_schedule(&o->train.schedule, argv);
    if (o->model) training_check_source(o->model, o->out, argv);
}

/* Of the folder; or the preset with bytes as tokens, which are all that arithmetic needs. */
static int read_config(const Options *o, const char *from, ModelConfig *cfg, Error *err) {
    if (from) return checkpoint_load_config(cfg, from, err);
    if (config_preset(cfg, o->config, err)) return -1;
    cfg->vocab_size = TRAINING_BYTES;
    cfg->bos_token_id = cfg->eos_token_id = TRAINING_BYTES - 1;
    return config_check(cfg, err) ? -1 : 0;
}

static int open_questions(const Options *o, const ModelConfig *cfg, const Tokenizer *tokenizer,
                          Questions *q, Error *err) {
    int places = cfg->max_position_embeddings, context = o->train.context_length;
    if (context > places)
        return error_set(err, "--context %d is longer than this model's %d positions", context,
                         places);
    const QuestionOptions options = {.from = o->data ? o->data : o->task,
                                     .file = o->data,
                                     .field = "completion",
                                     .digits = o->digits,
                                     .reversed = o->reversed,
                                     .held_out = o->validation,
                                     .most_prompt = places,
                                     .most = context && context < places ? context + 1 : places};
    return questions_open(q, tokenizer, training_begin(tokenizer, cfg), &options, err);
}

static void introduce(const Options *o, const ModelConfig *cfg, const Questions *q) {
    char parameters[32], count[32], held[32];
    printf("%s parameters; ", format_count(parameters, sizeof parameters, config_parameters(cfg)));
    if (o->task)
        printf("%s without end, of up to %d tokens", o->task, q->longest);
    else
        printf("%s pairs to learn from, %s held out, of up to %d tokens",
               format_count(count, sizeof count, q->train),
               format_count(held, sizeof held, q->count - q->train), q->longest);
    printf("; windows of %d\n", o->train.context_length);
}

static int train_on(Options *o, const ModelConfig *cfg, const char *from, Context *ctx,
                    const Tokenizer *tokenizer, Questions *q, Error *err) {
    Model model;
    TrainResult result;
    TrainOptions *t = &o->train;
    char csv[1024];
    if (!t->context_length) t->context_length = q->longest - 1 > 1 ? q->longest - 1 : 1;
    if (training_check_memory(cfg, ctx, t->batch_size, t->context_length, TRAINING_SMALLER, err))
        return -1;
    if (training_check_dsa(t, cfg, from, "--model", err) ||
        training_model(&model, ctx, from, cfg, t, err))
        return -1;
    introduce(o, cfg, q);
    training_say_sparse(&model, t);
    snprintf(csv, sizeof csv, "%s/metrics.csv", o->out);
    t->out = o->out, t->tokenizer = tokenizer;
    t->csv = o->common.csv ? o->common.csv : csv;
    t->peak = o->peak >= 0 ? 1e12 * o->peak : bench_peak(ctx, ctx->dtype, 0.2);
    TokenSource source = source_of_questions(q);
    int status = train_run(&model, &source, t, &result, err);
    model_free(&model);
    if (status) return -1;
    training_report(t, &result, "--model", "");
    training_draw(t->csv, o->out, cfg, t);
    return result.interrupted > 0 ? 128 + result.interrupted : 0;
}

static int open_and_train(Options *o, const char *from, Error *err) {
    ModelConfig cfg;
    Context ctx;
    if (read_config(o, from, &cfg, err)) return -1;
    if (from) training_note_quantised(&cfg, from);
    if (training_check_folder(o->out, o->train.start, o->common.csv, o->comm, err) ||
        training_open_context(&ctx, o->comm, &o->common, &o->train.ranks, err))
        return -1;
    if (o->train.bf16_moments) ctx.moments = BF16;
    Questions q = {0};
    Tokenizer *tokenizer = from ? checkpoint_load_tokenizer(&cfg, from, err)
                                : tokenizer_train("0", 1, TRAINING_BYTES, NULL, NULL, err);
    int status = tokenizer ? open_questions(o, &cfg, tokenizer, &q, err) : -1;
    if (!status) status = train_on(o, &cfg, from, &ctx, tokenizer, &q, err);
    questions_close(&q);
    tokenizer_free(tokenizer);
    training_close(&ctx, o->comm, status);
    return status;
}

/* The rows of train's table that mean something else here. */
static void rephrase(TrainFlags *flags) {
    static const struct {
        const char *name, *help;
    } rows[] = {
        {"batch", "Pairs in a batch"},
        {"context", "Tokens in a window; longer pairs are left out, and named (default: as many as "
                    "the longest pair needs)"},
        {"learning-rate", "The highest (default 0.0003, with --config 0.003)"},
    };
    for (Option *row = flags->rows; row->kind != OPTION_END; row++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            if (row->name && !strcmp(row->name, rows[i].name)) row->help = rows[i].help;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.peak = -1, .digits = 2, .validation = 0.05, .train = train_defaults()},
            *o = &options;
    Schedule *schedule = &o->train.schedule;
    int64_t usual = training_schedule_not_given(schedule);
    float from_random = schedule->peak;
    schedule->peak = -1, o->train.context_length = 0;
    TrainFlags train = train_flags(&o->train);
    RankFlags ranks = rank_flags(&o->train.ranks);
    rephrase(&train);
    StartFlags start = training_start_flags(&o->resume, &o->train.minutes, &o->overwrite);
    const Option flags[] = {
        OPT_STRING("out", 0, "DIR", &o->out,
                   "Folder for the model; DIR/last has what --resume needs",
                   .required = "says where the model goes"),
        OPT_STRING("model", 'm', "DIR", &o->model, "The model that is to learn; only read"),
        OPT_STRING("config", 0, "NAME", &o->config,
                   "Or a size (`deepseek info` lists them): random weights, and bytes as tokens"),
        OPT_STRING(
            "data", 0, "FILE", &o->data,
            "JSON lines, {\"prompt\": \"...\", \"completion\": \"...\"}: the completion, and "
            "the end behind it, is what is learned"),
        OPT_STRING("task", 't', "NAME", &o->task,
                   "Or problems with their answers, made without end: addition, subtraction, "
                   "multiplication, sort, countdown (chapter 09)"),
        OPT_INT("digits", 0, "N", &o->digits, 1, 32, "Of a task's numbers; countdown: numbers"),
        OPT_FLAG("reversed", 0, &o->reversed, "A task's answers begin with their last digit"),
        OPT_FLOAT("validation", 0, "X", &o->validation, 0.001, 0.9,
                  "Share of the file's prompts that is kept back"),
        OPT_TABLE(start.rows),
        OPT_TABLE(train.rows),
        OPT_FLOAT("peak", 0, "X", &o->peak, 0, 1e9,
                  "The device's TFLOP/s, for the column share_of_peak; 0 leaves it empty (default: "
                  "measured)"),
        OPT_STRING("csv", 0, "FILE", &o->common.csv,
                   "Write the metrics to FILE (default: DIR/metrics.csv)"),
        OPT_COMMON(&o->common),
        OPT_TABLE(ranks.rows),
        OPT_END};
    options_parse(argc, argv, command_sft.about, flags);
    o->train.start = training_start(o->resume, o->overwrite, argv);
    if (schedule->peak < 0) schedule->peak = o->config ? from_random : 3e-4f;
    training_schedule_usual(schedule, usual);
    check_flags(o, argv);
    if (training_open_comm(&o->comm, &o->common, o->train.ranks.comm, err)) return -1;
    o->train.quiet = comm_rank(o->comm) > 0;
    char last[1024];
    snprintf(last, sizeof last, "%s/last", o->out);
    bool goes_on = o->resume && run_folder_has_state(o->out);
    if (o->resume && !goes_on) printf("%s has no run to resume: this begins one\n", o->out);
    return open_and_train(o, goes_on ? last : o->model, err);
}

const Command command_sft = {"sft",
                             "Trains a model on prompts and the completions they should get.", run};
