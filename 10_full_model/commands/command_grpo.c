/*
 * deepseek grpo: questions whose answers a program can judge in, a model that answers them better
 * out.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/training.h"
#include "10_full_model/reinforce/grpo_flags.h"
#include "10_full_model/train/train_flags.h"

#include "common/files/csv.h"
#include "common/program/plot.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { USUAL_COMPLETION = 512 }; /* TRL's */

typedef struct Options {
    CommonOptions common;
    Comm *comm; /* NULL: this process is alone */
    RankOptions ranks;
    const char *model, *task, *rewards, *out;
    int digits;
    bool reversed, resume, overwrite;
    double validation;
    GrpoRunOptions run;
} Options;

/* Is --task the name of one that is built in? Else it is a file's. */
static bool is_built_in(const char *task) {
    for (int i = 0; task_names[i]; i++)
        if (!strcmp(task, task_names[i])) return true;
    return false;
}

static void check_flags(const Options *o, char **argv) {
    Error err;
    GrpoConfig cfg = o->run.grpo;
    training_check_schedule(&o->run.schedule, argv);
    training_check_source(o->model, o->out, argv);
    if (o->run.sync_ref_model && cfg.loss.beta == 0)
        options_error(argv, "--sync-ref-model replaces the reference, and with --beta 0 there is "
                            "none");
    if (!cfg.rollout.max_completion_length) cfg.rollout.max_completion_length = 1; /* later */
    if (grpo_check(&cfg, &err)) options_error(argv, "%s", err.text);
}

/* Rewards by flag, or the one that the task is about. */
static int read_rewards(Options *o, Error *err) {
    GrpoConfig *c = &o->run.grpo;
    const char *list = o->rewards;
    if (!list && is_built_in(o->task)) list = task_reward(task_find(o->task, err));
    c->reward_count = rewards_parse(c->rewards, list ? list : "accuracy", err);
    return c->reward_count < 0 ? -1 : 0;
}

static int open_questions(Options *o, const ModelConfig *cfg, const Tokenizer *tokenizer,
                          Questions *q, Error *err) {
    RolloutConfig *r = &o->run.grpo.rollout;
    int places = cfg->max_position_embeddings, given = r->max_completion_length;
    bool built_in = is_built_in(o->task);
    if (!built_in && access(o->task, F_OK)) {
        task_find(o->task, err);
        return error_prefix(err, "there is no file of this name, and ");
    }
    if (given >= places)
        return error_set(err,
                         "--max-completion-length %d leaves no room for a prompt: the model has %d "
                         "positions",
                         given, places);
    int usual = USUAL_COMPLETION < places / 2 ? USUAL_COMPLETION : places / 2;
    const QuestionOptions options = {.from = o->task,
                                     .file = !built_in,
                                     .field = "answer",
                                     .may_miss = true,
                                     .digits = o->digits,
                                     .reversed = o->reversed,
                                     .held_out = o->validation,
                                     .most_prompt = built_in ? places
                                                    : given  ? places - given
                                                             : places - usual,
                                     .most = INT32_MAX};
    if (questions_open(q, tokenizer, training_begin(tokenizer, cfg), &options, err)) return -1;
    r->end = q->end, r->max_prompt = q->longest_prompt;
    if (!given) r->max_completion_length = built_in ? q->longest_answer : usual;
    if (r->max_prompt + r->max_completion_length > places)
        return error_set(err,
                         "prompts of up to %d tokens and answers of up to %d: the model has %d "
                         "positions",
                         r->max_prompt, r->max_completion_length, places);
    int held = q->count - q->train;
    if (!built_in && held < o->run.eval_prompts) o->run.eval_prompts = held;
    return 0;
}

static void introduce(const Options *o, const ModelConfig *cfg, const Questions *q) {
    const GrpoConfig *c = &o->run.grpo;
    char parameters[32], count[32];
    printf("%s parameters; ", format_count(parameters, sizeof parameters, config_parameters(cfg)));
    if (q->task.task)
        printf("%s without end", o->task);
    else
        printf("%s questions, %d held out", format_count(count, sizeof count, q->train),
               q->count - q->train);
    printf("; rewards");
    for (int i = 0; i < c->reward_count; i++)
        printf("%s %g %s", i ? "," : "", c->rewards[i].weight, c->rewards[i].reward->name);
    printf("\na step: %d questions x %d answers of up to %d tokens, loss %s\n", c->rollout.prompts,
           c->rollout.group, c->rollout.max_completion_length,
           policy_loss_names[c->loss.loss_type]);
}

static void report(const Options *o, const GrpoRunResult *r) {
    long long steps = r->steps, all = o->run.schedule.steps;
    if (r->steps == r->resumed_from)
        printf("All %lld steps of this run were done before; --model %s/last, with another --out, "
               "begins a new one from its weights\n",
               steps, o->out);
    else if (r->interrupted)
        printf("%s after %lld of %lld steps; all is saved.\n"
               "The same command with --resume goes on.\n",
               r->interrupted == OUT_OF_TIME ? "The time is up" : "Stopped", steps, all);
    else
        printf("Done after %lld step%s\n", steps, steps == 1 ? "" : "s");
    if (r->idle)
        printf("%lld of %lld steps taught nothing: all rewards of each group were equal\n",
               (long long)r->idle, (long long)(r->steps - r->resumed_from));
    if (r->best_step)
        printf("Best mean reward of held-out questions %.4f, at step %lld: that model is in %s\n",
               r->best_reward, (long long)r->best_step, o->out);
    printf("The model of the last step is in %s/last\n", o->out);
    int k = o->run.num_generations_eval;
    printf("%d held-out questions: pass@1 %.3f, pass@%d %.3f\n", o->run.eval_prompts,
           r->last.pass_1, k, r->last.pass_k);
    printf("held-out accuracy %.3f -> %.3f\n", r->first.greedy, r->last.greedy);
}

static void draw(const char *csv, const char *out) {
    char path[1100];
    snprintf(path, sizeof path, "%s/reward", out);
    plot_or_explain("10_full_model/figures/grpo", csv, path);
}

/* The policy, and beside it, where the loss asks for one, its reference. */
static int learn(Options *o, const ModelConfig *cfg, const char *from, Context *ctx,
                 const Tokenizer *tokenizer, const Questions *q, Error *err) {
    GrpoRunOptions *run = &o->run;
    const RolloutConfig *r = &run->grpo.rollout;
    Model policy, reference = {0};
    GrpoRunResult result;
    char csv[1024];
    int all = r->prompts * r->group / run->grpo.mini_batches, piece = run->grpo.micro_batch;
    if (training_check_memory(cfg, ctx, piece > 0 && piece < all ? piece : all,
                              r->max_prompt + r->max_completion_length,
                              "--micro-batch, --max-completion-length", err) ||
        checkpoint_load_model(&policy, ctx, from, cfg, LOAD_TO_TRAIN, err))
        return -1;
    bool has_reference = run->grpo.loss.beta != 0;
    int status = has_reference ? model_init(&reference, ctx, &policy.cfg, false, err) : 0;
    introduce(o, cfg, q);
    snprintf(csv, sizeof csv, "%s/metrics.csv", o->out);
    run->out = o->out, run->tokenizer = tokenizer;
    run->csv = o->common.csv ? o->common.csv : csv;
    run->grpo.sampling.seed = o->common.seed;
    if (!status)
        status = grpo_run(&policy, has_reference ? &reference : NULL, q, run, &result, err);
    model_free(&policy);
    model_free(&reference);
    if (status) return -1;
    draw(run->csv, o->out);
    report(o, &result);
    return result.interrupted > 0 ? 128 + result.interrupted : 0;
}

static int open_and_learn(Options *o, const char *from, Error *err) {
    ModelConfig cfg;
    Context ctx;
    if (checkpoint_load_config(&cfg, from, err)) return -1;
    if (config_needs_latents(&cfg, "grpo", err)) return -1; /* many answers of unequal length */
    training_note_quantised(&cfg, from);
    if ((cfg.num_nextn_predict_layers || config_is_sparse(&cfg)) && o->run.adamw.weight_decay > 0)
        return error_set(err,
                         "--weight-decay would shrink this model's %s, which rewards do not teach; "
                         "leave it 0%s",
                         config_is_sparse(&cfg) ? "indexers" : "modules for multi-token prediction",
                         config_is_sparse(&cfg) ? "" : ", or take them out (convert --no-mtp)");
    if (training_check_folder(o->out, o->run.start, o->common.csv, o->comm, err) ||
        training_open_context(&ctx, o->comm, &o->common, &o->ranks, err))
        return -1;
    Questions q = {0};
    Tokenizer *tokenizer = checkpoint_load_tokenizer(&cfg, from, err);
    int status = tokenizer ? open_questions(o, &cfg, tokenizer, &q, err) : -1;
    if (!status) status = learn(o, &cfg, from, &ctx, tokenizer, &q, err);
    questions_close(&q);
    tokenizer_free(tokenizer);
    training_close(&ctx, o->comm, status);
    return status;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.digits = 2,
                       .validation = 0.1,
                       .run = grpo_run_defaults(),
                       .ranks = {.expert_parallel = 1}},
            *o = &options;
    Schedule *schedule = &o->run.schedule;
    int64_t usual = training_schedule_not_given(schedule);
    grpo_flags_not_given(&o->run);
    GrpoFlags table = grpo_flags(&o->run);
    RankFlags ranks = rank_flags_of_copies(&o->ranks);
    StartFlags start = training_start_flags(&o->resume, &o->run.minutes, &o->overwrite);
    const Option flags[] = {
        OPT_STRING("out", 0, "DIR", &o->out,
                   "Folder for the model; DIR/last has what --resume needs",
                   .required = "says where the model goes"),
        OPT_STRING("model", 'm', "DIR", &o->model,
                   "The model that is to learn; only read. It must be right now and then",
                   .required = "says which model is to learn"),
        OPT_STRING("task", 't', "NAME|FILE", &o->task,
                   "addition, subtraction, multiplication, sort, countdown (chapter 09); or JSON "
                   "lines, {\"prompt\": \"...\", \"answer\": \"...\"}",
                   .required = "says what is asked"),
        OPT_STRING("rewards", 'r', "LIST", &o->rewards,
                   "NAME=WEIGHT,...: accuracy, digits, countdown, format, length; pass@k asks the "
                   "first (default: what the task is about; accuracy)"),
        OPT_INT("digits", 0, "N", &o->digits, 1, 32, "Of a task's numbers; countdown: numbers"),
        OPT_FLAG("reversed", 0, &o->reversed, "A task's answers begin with their last digit"),
        OPT_FLOAT("validation", 0, "X", &o->validation, 0.001, 0.9,
                  "Share of the file's prompts that is held out"),
        OPT_TABLE(start.rows),
        OPT_TABLE(table.rows),
        OPT_STRING("csv", 0, "FILE", &o->common.csv,
                   "Write the metrics to FILE (default: DIR/metrics.csv)"),
        OPT_COMMON(&o->common),
        OPT_TABLE(ranks.rows),
        OPT_END};
    options_parse(argc, argv, command_grpo.about, flags);
    o->run.start = training_start(o->resume, o->overwrite, argv);
    training_schedule_usual(schedule, usual);
    grpo_flags_usual(&o->run);
    if (read_rewards(o, err)) return -1;
    check_flags(o, argv);
    if (training_open_comm(&o->comm, &o->common, o->ranks.comm, err)) return -1;
    o->run.quiet = comm_rank(o->comm) > 0;
    o->run.in_turn = o->ranks.in_turn;
    char last[1024];
    snprintf(last, sizeof last, "%s/last", o->out);
    bool goes_on = o->resume && run_folder_has_state(o->out);
    if (o->resume && !goes_on) printf("%s has no run to resume: this begins one\n", o->out);
    return open_and_learn(o, goes_on ? last : o->model, err);
}

const Command command_grpo = {"grpo", "Trains a model by rewards for its answers.", run};
