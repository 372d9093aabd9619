/*
 * deepseek train: text files, or shards, in; a folder with a model out.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/text_input.h"
#include "10_full_model/commands/training.h"
#include "10_full_model/data/shards.h"
#include "10_full_model/train/train_flags.h"

#include "common/files/csv.h"
#include "common/program/bench.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct Options {
    CommonOptions common;
    Comm *comm;  /* NULL: this process is alone */
    StepCut cut; /* what of a step is this one's */
    StringList data;
    const char *config, *from, *out; /* config, from: NULL if not given */
    double rope_factor;              /* 0: not given */
    int rope_original;               /* 0: not given */
    int vocab;                       /* 0: not given */
    double validation;               /* 0: not given */
    double peak;                     /* TFLOP/s; < 0: not given */
    int mtp;                         /* modules; -1: not given */
    bool resume, overwrite;
    TrainOptions train;
} Options;

/* --from: what it has of its own, and where it must not be written to. */
static void check_from(const Options *o, char **argv) {
    const char *extra = o->config ? "config" : o->vocab ? "vocab" : NULL;
    if (!o->from && (o->rope_factor > 0 || o->rope_original))
        options_error(argv, "--rope-factor and --rope-original stretch the model of "
                            "--from, which is not there");
    if (o->rope_original && !(o->rope_factor > 0))
        options_error(argv, "--rope-original needs --rope-factor, which says how far");
    if (!o->from) return;
    if (o->resume)
        options_error(argv, "--from begins a new run with given weights, and --resume "
                            "goes on with a run's own; give one");
    if (extra)
        options_error(argv,
                      "the model in %s has its sizes and its tokens already; leave "
                      "--%s out",
                      o->from, extra);
    training_check_source(o->from, o->out, argv);
}

/* What the flags say together, before any work is done. */
static void check_flags(const Options *o, char **argv) {
    if (shards_are_there(o->data.items[0]) && (o->vocab || o->validation > 0))
        options_error(argv,
                      "the shards in %s have their tokens and their validation part "
                      "already; --vocab and --validation are for text files",
                      o->data.items[0]);
    training_check_schedule(&o->train.schedule, argv);
}

/* The settings of --from, stretched as chapter 07 does it: by YaRN, as DeepSeek-V3 was. */
static int read_from(const Options *o, ModelConfig *cfg, Error *err) {
    if (checkpoint_load_config(cfg, o->from, err)) return -1;
    training_note_quantised(cfg, o->from);
    if (!cfg->trained_context_length) cfg->trained_context_length = cfg->max_position_embeddings;
    if (o->rope_factor == 0) return 0;
    if (o->rope_original)
        cfg->original_max_position_embeddings = o->rope_original;
    else if (cfg->rope_type != ROPE_YARN) /* else it stays that of the first stretch */
        cfg->original_max_position_embeddings = cfg->max_position_embeddings;
    if (cfg->rope_type != ROPE_YARN) {
        cfg->rope_beta_fast = 32, cfg->rope_beta_slow = 1;
        cfg->rope_mscale = cfg->rope_mscale_all_dim = 1;
    }
    cfg->rope_type = ROPE_YARN;
    cfg->rope_factor = o->rope_factor;
    cfg->max_position_embeddings =
        (int)(cfg->original_max_position_embeddings * o->rope_factor + 0.5);
    return 0;
}

/* Of --from; or the preset, or the folder's config.json; of a run that is resumed, its own. */
static int read_config(const Options *o, const char *last, ModelConfig *cfg, Error *err) {
    if (o->from) return read_from(o, cfg, err);
    ModelConfig own;
    if (last && config_load(&own, last, err)) return -1;
    if (last && own.quant_method != STORED_PLAIN)
        return error_set(err,
                         "%s is quantised, so it is not what a run has left; --from begins a new "
                         "run with the numbers its weights stand for",
                         last);
    if (last && !o->config) {
        *cfg = own;
        return 0;
    }
    char path[1024];
    snprintf(path, sizeof path, "%s/config.json", o->config ? o->config : "");
    int status = o->config && access(path, F_OK) == 0
                     ? config_load(cfg, o->config, err)
                     : config_preset(cfg, o->config ? o->config : "nano", err);
    cfg->trained_context_length = 0; /* of other weights than these */
    cfg->quant_method = STORED_PLAIN;
    if (last) { /* what the text has decided */
        cfg->vocab_size = own.vocab_size;
        cfg->bos_token_id = own.bos_token_id;
    }
    /* Ids without a tokenizer are nobody's: those of the one that is used count. */
    if (!last && (!o->config || access(file_path(o->config, "tokenizer.json").text, F_OK)))
        cfg->bos_token_id = cfg->eos_token_id = -1;
    return status;
}

/* How many tokens are to be learned, if any are. */
static int tokens_wanted(const Options *o, const ModelConfig *cfg) {
    return o->vocab ? o->vocab : cfg->vocab_size ? cfg->vocab_size : 2048;
}

static int check_context(const Options *o, const ModelConfig *cfg, Error *err) {
    if (o->train.context_length <= cfg->max_position_embeddings) return 0;
    return error_set(err, "--context %d is longer than the %d positions of configuration %s%s",
                     o->train.context_length, cfg->max_position_embeddings,
                     o->from     ? o->from
                     : o->config ? o->config
                                 : "nano",
                     o->from ? "; --rope-factor stretches them" : "");
}

/* What train_run() would refuse once the text is read and a tokenizer learned is refused here. */
static int look_ahead(Options *o, const ModelConfig *cfg, Error *err) {
    ModelConfig with_tokens = *cfg;
    if (!cfg->vocab_size) with_tokens.vocab_size = tokens_wanted(o, cfg);
    if (config_check(&with_tokens, err)) return -1;
    if (training_check_dsa(&o->train, cfg, o->from || o->resume, "--from", err)) return -1;
    const Context place = {.comm = o->comm};
    if (step_cut(&o->cut, &place, o->train.batch_size, o->train.accumulation,
                 o->train.ranks.deterministic, err))
        return -1;
    return training_check_folder(o->out, o->train.start, o->common.csv, o->comm, err);
}

static int check_mtp(const Options *o, ModelConfig *cfg, Error *err) {
    const MtpTraining training = {.lambda = o->train.mtp_lambda};
    if (o->mtp >= 0) cfg->num_nextn_predict_layers = o->mtp;
    return mtp_training_check(&training, cfg->num_nextn_predict_layers, o->train.context_length,
                              err);
}

static int train_on(const Options *o, const ModelConfig *cfg, TextInput *input, Context *ctx,
                    Error *err) {
    Model model;
    if (config_check(cfg, err) || training_model(&model, ctx, o->from, cfg, &o->train, err))
        return -1;
    training_say_sparse(&model, &o->train);
    char parameters[32], active[32], tokens[32], modules[32], csv_path[1024];
    printf("%s parameters, %s active; %s tokens of text\n",
           format_count(parameters, sizeof parameters, config_parameters(cfg)),
           format_count(active, sizeof active, config_active_parameters(cfg)),
           format_count(tokens, sizeof tokens, input->tokens));
    bool known = config_has_latents(cfg); /* to transformers */
    if (cfg->num_nextn_predict_layers)
        printf("%s more in %d module%s for multi-token prediction.%s\n",
               format_count(modules, sizeof modules, config_module_parameters(cfg)),
               cfg->num_nextn_predict_layers, cfg->num_nextn_predict_layers > 1 ? "s" : "",
               known
                   ? " (transformers opens such a model,\nreports their weights as UNEXPECTED and "
                     "gives the same logits.)"
                   : "");
    if (!known) printf("Multi-head attention: transformers cannot open such a model.\n");
    snprintf(csv_path, sizeof csv_path, "%s/metrics.csv", o->out);
    TrainOptions train_options = o->train;
    train_options.out = o->out;
    train_options.tokenizer = input->tokenizer;
    train_options.csv = o->common.csv ? o->common.csv : csv_path;
    train_options.peak = o->peak >= 0 ? 1e12 * o->peak : bench_peak(ctx, ctx->dtype, 0.2);
    TrainResult result;
    int status = train_run(&model, &input->source, &train_options, &result, err);
    model_free(&model);
    if (status) return -1;
    training_report(&train_options, &result, "--from",
                    o->rope_factor > 0 ? " in the place of --from and --rope-..."
                    : o->from          ? " in the place of --from"
                                       : "");
    training_draw(train_options.csv, o->out, cfg, &train_options);
    return result.interrupted > 0 ? 128 + result.interrupted : 0; /* as a shell would say */
}

/* Opens the text, with a tokenizer learned from it unless there is one (--from's, or that of
 * `last`, the run that goes on), and trains on it. */
static int open_and_train(Options *o, ModelConfig *cfg, const char *last, Error *err) {
    Context ctx;
    if (training_open_context(&ctx, o->comm, &o->common, &o->train.ranks, err)) return -1;
    if (o->train.bf16_moments) ctx.moments = BF16;
    TextOptions text = {.data = &o->data,
                        .context_length = o->train.context_length,
                        .validation = o->validation > 0 ? o->validation : 0.05,
                        .tokenizer = o->from ? o->from : last,
                        .vocab = tokens_wanted(o, cfg)};
    TextInput input = {0};
    ModelConfig with_tokens = *cfg;
    if (!cfg->vocab_size) with_tokens.vocab_size = tokens_wanted(o, cfg);
    int status = training_check_memory(&with_tokens, &ctx, o->cut.windows, o->train.context_length,
                                       TRAINING_SMALLER, err);
    if (!status) status = text_input_open(&input, &text, err);
    if (!status && !text.tokenizer) {
        cfg->vocab_size = tokenizer_vocab_size(input.tokenizer);
        cfg->bos_token_id = input.sharded ? tokenizer_eot(input.tokenizer)
                                          : corpus_begin(&input.corpus, input.tokenizer);
    }
    if (!status && (!text.tokenizer || input.sharded))
        cfg->eos_token_id = tokenizer_eot(input.tokenizer);
    if (!status) status = train_on(o, cfg, &input, &ctx, err);
    text_input_close(&input);
    training_close(&ctx, o->comm, status);
    return status;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.peak = -1, .mtp = -1, .train = train_defaults()}, *o = &options;
    Schedule *schedule = &o->train.schedule;
    int64_t usual = training_schedule_not_given(schedule);
    TrainFlags train = train_flags(&o->train);
    RankFlags ranks = rank_flags(&o->train.ranks);
    StartFlags start = training_start_flags(&o->resume, &o->train.minutes, &o->overwrite);
    const Option flags[] = {
        OPT_STRING("out", 0, "DIR", &o->out,
                   "Folder for the model; DIR/last has what --resume needs",
                   .required = "says where the model goes"),
        OPT_LIST("data", 0, "FILE", &o->data, 0,
                 "Text to learn from (any bytes, UTF-8 as a rule), which may be given several "
                 "times; or a folder of shards that `deepseek data` wrote",
                 .required = "says what to learn from"),
        OPT_STRING("config", 0, "NAME|DIR", &o->config,
                   "Size of the model: a preset (default nano; `deepseek info` lists them), or a "
                   "folder with a config.json"),
        OPT_STRING("from", 0, "DIR", &o->from,
                   "Begin with the weights and tokens of the model in DIR, which is only read"),
        OPT_FLOAT("rope-factor", 0, "X", &o->rope_factor, 1, 1000,
                  "With --from: stretch its context X times by YaRN (default: leave it)"),
        OPT_INT("rope-original", 0, "N", &o->rope_original, 1, 1 << 20,
                "The context it was trained with so far (default: as DIR's config.json says)"),
        OPT_INT("vocab", 0, "N", &o->vocab, 257, 1 << 20,
                "Tokens to learn from the text first (default: the preset's, or 2048)"),
        OPT_INT("mtp", 0, "D", &o->mtp, 0, MTP_MAX_DEPTH,
                "Modules that learn to predict the D tokens behind the next one (chapter 06; "
                "default: as many as the configuration has, the presets below v3 none)"),
        OPT_FLOAT("validation", 0, "X", &o->validation, 0.001, 0.9,
                  "Share of the text that is kept back (default 0.05)"),
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
    options_parse(argc, argv, command_train.about, flags);
    o->train.start = training_start(o->resume, o->overwrite, argv);
    training_schedule_usual(schedule, usual);
    char last_path[1024];
    snprintf(last_path, sizeof last_path, "%s/last", o->out);
    check_flags(o, argv);
    check_from(o, argv);
    if (training_open_comm(&o->comm, &o->common, o->train.ranks.comm, err)) return -1;
    o->train.quiet = comm_rank(o->comm) > 0;
    const char *last = o->resume && run_folder_has_state(o->out) ? last_path : NULL;
    ModelConfig cfg;
    if (read_config(o, last, &cfg, err) || check_context(o, &cfg, err) || check_mtp(o, &cfg, err))
        return -1;
    if (look_ahead(o, &cfg, err)) return -1;
    if (o->resume && !last) printf("%s has no run to resume: this begins one\n", o->out);
    int status = open_and_train(o, &cfg, last, err);
    free(o->data.items);
    return status;
}

const Command command_train = {"train",
                               "Trains a model on text: first a tokenizer, then the weights.", run};
