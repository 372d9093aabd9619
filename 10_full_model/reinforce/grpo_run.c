/*
 * The loop. What is saved goes in an order that leaves a whole run behind at every moment: the
 * models first, and last the state, which says what they are.
 */
#include "10_full_model/reinforce/grpo_run.h"

#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/reinforce/grpo_flags.h"
#include "10_full_model/reinforce/grpo_log.h"
#include "10_full_model/train/interrupt.h"
#include "10_full_model/train/train.h"

#include "09_grpo/reference.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

GrpoRunOptions grpo_run_defaults(void) {
    GrpoRunOptions o = {.grpo = grpo_defaults(),
                        .schedule = {.steps = 200, .warmup = 10, .peak = 1e-4f},
                        .adamw = adamw_defaults(),
                        .eval_interval = 20,
                        .eval_prompts = 64,
                        .num_generations_eval = 8,
                        .ref_model_mixup_alpha = 0.6f,
                        .ref_model_sync_steps = 512,
                        .num_completions_to_print = 4};
    o.adamw.weight_decay = 0; /* TRL's */
    return o;
}

typedef struct Run {
    Model *policy, *reference;
    const Questions *questions;
    const GrpoRunOptions *options;
    Grpo grpo;
    GrpoSource held_out;
    struct Part {
        const Questions *questions;
        bool held_out;
        uint64_t seed;
    } parts[2];
    Rollouts judge, greedy; /* held-out questions, answered several times and once */
    TrainingState state;
    RewardState rewards;
    Settings settings; /* that a resumed run must share */
    RunFolder folder;
    GrpoLog log;
    GrpoScores scores; /* the last */
    int64_t saved;     /* the last step that was; -1: none */
} Run;

/* ---- questions ---- */

static int ask(void *self, uint64_t index, GrpoPrompt *prompt, Error *err) {
    (void)err; /* questions_open() has seen them all */
    const struct Part *part = self;
    Question q = question_at(part->questions, part->held_out, part->seed, index);
    *prompt = (GrpoPrompt){q.ids, q.prompt_tokens, q.prompt, q.answer};
    return 0;
}

static char *text_of(void *self, const int32_t *ids, int count) {
    const struct Part *part = self;
    size_t bytes;
    return tokenizer_decode(part->questions->tokenizer, ids, (size_t)count, &bytes);
}

static GrpoSource source_of(struct Part *part) { return (GrpoSource){part, ask, text_of}; }

/* ---- held-out questions ---- */

/* As many side by side as a step has answers, in parts of one size. */
static int side_by_side(const GrpoRunOptions *o, int group) {
    const RolloutConfig *r = &o->grpo.rollout;
    int most = r->prompts * r->group / group, at = o->eval_prompts;
    while (at > 1 && (at > most || o->eval_prompts % at)) at--;
    return at;
}

static int open_judges(Run *run, Error *err) {
    const GrpoRunOptions *o = run->options;
    Model *m = run->policy;
    RolloutConfig several = o->grpo.rollout, once = several;
    several.group = o->num_generations_eval, once.group = 1;
    several.prompts = side_by_side(o, several.group), once.prompts = side_by_side(o, 1);
    several.keep_support = once.keep_support = false;
    return rollouts_init(&run->judge, m->ctx, &m->decoder, model_position(m), &several, err) ||
                   rollouts_init(&run->greedy, m->ctx, &m->decoder, model_position(m), &once, err)
               ? -1
               : 0;
}

static int look(Run *run, Error *err) {
    const GrpoRunOptions *o = run->options;
    const GrpoConfig *c = &o->grpo;
    const Sampling likeliest = {.temperature = 0};
    GrpoScore drawn, greedy;
    if (grpo_score(&run->judge, &run->held_out, c->rewards, c->reward_count, 0, o->eval_prompts,
                   &c->sampling, &drawn, err) ||
        grpo_score(&run->greedy, &run->held_out, c->rewards, c->reward_count, 0, o->eval_prompts,
                   &likeliest, &greedy, err))
        return -1;
    run->scores = (GrpoScores){drawn.pass_1, drawn.pass_k, greedy.pass_1, drawn.reward};
    return 0;
}

/* ---- saving and resuming ---- */

static void settings_of(Run *run) {
    const GrpoRunOptions *o = run->options;
    Settings *s = &run->settings;
    Context *ctx = run->policy->ctx;
    settings_text(s, "kind of run", "grpo");
    settings_of_model(s, &run->policy->cfg);
    settings_integer(s, "seed", (int64_t)ctx->rng.seed);
    settings_text(s, "--device", device_name(ctx->device));
    settings_text(s, "--dtype", dtype_name(ctx->dtype));
    GrpoRunOptions flags = *o;
    GrpoFlags table = grpo_flags(&flags);
    for (const Option *row = table.rows; row->kind != OPTION_END; row++) {
        char name[40];
        snprintf(name, sizeof name, "--%s", row->name ? row->name : "");
        if (row->setting) settings_text(s, name, option_text(row).text);
    }
    for (int i = 0; i < o->grpo.reward_count; i++)
        settings_number(s, o->grpo.rewards[i].reward->name, o->grpo.rewards[i].weight);
    settings_number(s, "beta1", o->adamw.beta1);
    settings_number(s, "beta2", o->adamw.beta2);
    settings_number(s, "eps", o->adamw.eps);
    /* The same questions have the same first ones; others hardly. */
    for (int part = 0; part < 2; part++) {
        Hash128 hash = {0};
        for (uint64_t i = 0; i < 16; i++) {
            const struct Part *p = &run->parts[part];
            Question q = question_at(p->questions, p->held_out, p->seed, i);
            size_t bytes = (size_t)(q.prompt_tokens + q.tokens) * sizeof *q.ids;
            hash = hash128(q.ids, bytes, (uint32_t)hash.low);
            question_free(&q);
        }
        settings_text(s, part ? "hash of held-out questions" : "hash of the first questions",
                      hash128_text(hash).text);
    }
}

/* The state last: when it says that a model is the best so far, that model is there. */
static int write(Run *run, bool best, Error *err) {
    const GrpoRunOptions *o = run->options;
    SaveOptions how = {.dtype = F32, .step = run->grpo.state.steps}, again = how;
    if (best) again.same_as = run->folder.best;
    if ((best && checkpoint_save(run->policy, o->tokenizer, run->folder.best, &how, err)) ||
        checkpoint_save(run->policy, o->tokenizer, run->folder.last, &again, err) ||
        training_state_save(run->policy, &run->state, &run->settings, run->folder.last, err) ||
        run_folder_saved(&run->folder, err))
        return error_prefix(err, "saving at step %lld: ", (long long)how.step);
    return 0;
}

/* By rank 0; the others hear how it went. */
static int save(Run *run, bool best, Error *err) {
    Comm *comm = run->policy->ctx->comm;
    if (!run->options->out) return 0;
    run->rewards.grpo = run->grpo.state;
    if (comm_agree(comm, comm_rank(comm) == 0 ? write(run, best, err) : 0, err)) return -1;
    run->saved = run->grpo.state.steps;
    return 0;
}

/* Opens the folder, and loads the state in it or sees that there is none to lose. */
static int open_run(Run *run, Error *err) {
    const GrpoRunOptions *o = run->options;
    Comm *comm = run->policy->ctx->comm;
    run->rewards = (RewardState){.accuracy_first = NAN, .reference = run->reference};
    run->state = (TrainingState){.adamw = o->adamw,
                                 .schedule = o->schedule,
                                 .best_validation_loss = INFINITY,
                                 .rewards = &run->rewards};
    if (run->reference) reference_mix(&run->reference->params, &run->policy->params, 1);
    bool resumed = false;
    if (o->out) {
        if (run_folder_open_shared(&run->folder, o->out, o->start, comm, &resumed, err)) return -1;
        int status = resumed ? training_state_load(run->policy, &run->state, &run->settings,
                                                   run->folder.last, err)
                             : 0;
        if (comm_agree(comm, status, err)) return -1;
    }
    run->grpo.state = run->rewards.grpo;
    int64_t done = run->grpo.state.steps, steps = o->schedule.steps;
    run->saved = resumed ? done : -1;
    if (done > steps)
        return error_set(err, "%s: by its training.safetensors %lld steps of %lld are done",
                         run->folder.last, (long long)done, (long long)steps);
    const char *csv = comm_rank(comm) == 0 ? o->csv : NULL;
    return comm_agree(
        comm, grpo_log_open(&run->log, csv, run->policy->ctx, o, resumed ? done : -1, err), err);
}

/* ---- the loop ---- */

static const GrpoScores NOT_MEASURED = {NAN, NAN, NAN, NAN};

/* A step that cannot be done; what was saved is safe. */
static int broken(const Run *run, int64_t step, Error *err) {
    if (run->options->out && run->saved >= 0) {
        char text[sizeof err->text];
        snprintf(text, sizeof text, "%s", err->text);
        error_set(err, "%.1500s. What was saved at step %lld is safe in %.300s", text,
                  (long long)run->saved, run->options->out);
    }
    return error_prefix(err, "step %lld: ", (long long)step);
}

/* Before the first step. */
static int begin(Run *run, GrpoRunResult *result, Error *err) {
    if (look(run, err)) return -1;
    result->first = run->scores;
    run->rewards.accuracy_first = run->scores.greedy;
    grpo_log_row(&run->log,
                 &(GrpoRow){.learning_rate = NAN, .step_time = NAN, .scores = run->scores});
    return 0;
}

/* After a step: a look at held-out questions and a table if they are due, a row, and a save. */
static int judge(Run *run, const GrpoReport *report, GrpoRow *row, bool stop, Progress *bar,
                 Error *err) {
    const GrpoRunOptions *o = run->options;
    bool due = row->step % o->eval_interval == 0 || row->step == o->schedule.steps;
    row->scores = NOT_MEASURED;
    if (due && look(run, err)) return -1;
    if (due) row->scores = run->scores;
    bool best = due && -run->scores.reward < run->state.best_validation_loss;
    if (best) {
        run->state.best_validation_loss = (float)-run->scores.reward;
        run->state.best_step = row->step;
    }
    row->report = report;
    grpo_log_row(&run->log, row);
    if (due && o->num_completions_to_print && !o->quiet) {
        progress_clear(bar);
        grpo_print_samples(stdout, &run->grpo, row->step, o->num_completions_to_print);
    }
    return due || stop ? save(run, best, err) : 0;
}

/* One step, and what follows from it: a reference that is replaced, counters of the routers that
 * begin anew (their biases stay). */
static int step(Run *run, float rate, GrpoReport *report, Error *err) {
    const GrpoRunOptions *o = run->options;
    if (grpo_step(&run->grpo, rate, report, err)) return -1;
    int answers = o->grpo.rollout.prompts * o->grpo.rollout.group;
    if (report->abstained == answers)
        return error_set(err,
                         "no reward could judge any of the %d answers: %s has nothing to say "
                         "about them (accuracy, digits and format need the field \"answer\", "
                         "countdown a prompt like 3,7,25>46=)",
                         answers, o->grpo.rewards[0].reward->name);
    decoder_rebalance(run->policy->ctx, &run->policy->decoder, 0);
    if (run->reference && o->sync_ref_model && run->grpo.state.steps % o->ref_model_sync_steps == 0)
        reference_mix(&run->reference->params, &run->policy->params, o->ref_model_mixup_alpha);
    return 0;
}

static void note_idle(GrpoRunResult *result, int64_t number, Progress *bar, bool quiet) {
    if (result->idle++ || quiet) return;
    progress_clear(bar);
    fprintf(stderr,
            "step %lld: within each group all rewards are equal, so nothing was learned from it "
            "(said once)\n",
            (long long)number);
}

static int run_steps(Run *run, GrpoRunResult *result, Error *err) {
    const GrpoRunOptions *o = run->options;
    int64_t first = run->grpo.state.steps, steps = o->schedule.steps;
    int64_t tokens = run->grpo.state.num_tokens;
    Comm *comm = run->policy->ctx->comm;
    double learning = 0;
    int status = 0;
    if (first == steps) return 0; /* a finished run was resumed */
    if (first && !o->quiet)
        fprintf(stderr, "going on behind step %lld of %lld\n", (long long)first, (long long)steps);
    Progress bar = progress_start("learning", steps);
    progress_skip(&bar, first);
    for (int stop = 0; run->grpo.state.steps < steps && !stop && !status;) {
        GrpoReport report;
        int64_t number = run->grpo.state.steps + 1;
        double started = seconds_now();
        float rate = schedule_rate(&o->schedule, number - 1);
        comm_step(comm, number);
        if (step(run, rate, &report, err)) {
            status = broken(run, number, err);
            break;
        }
        double seconds = seconds_now() - started;
        learning += seconds;
        result->steps = number;
        result->tokens_per_second = (double)(run->grpo.state.num_tokens - tokens) / learning;
        if (!report.updates) note_idle(result, number, &bar, o->quiet);
        bool late = o->minutes > 0 && seconds_now() - bar.started >= 60 * o->minutes;
        if (number < steps)
            stop = run_folder_stop(comm, interrupt_signal() ? interrupt_signal()
                                         : late             ? OUT_OF_TIME
                                                            : 0);
        GrpoRow row = {.step = number,
                       .num_tokens = run->grpo.state.num_tokens,
                       .learning_rate = rate,
                       .step_time = seconds};
        status = judge(run, &report, &row, stop, &bar, err);
        result->interrupted = stop;
        if (!o->quiet && !status)
            progress_update(&bar, number, "reward %.2f  pass@1 %.2f  %.0f tokens/s", report.reward,
                            run->scores.pass_1, result->tokens_per_second);
    }
    if (!o->quiet && (status || result->interrupted))
        progress_stop(&bar, "%.0f tokens/s", result->tokens_per_second);
    else if (!o->quiet)
        progress_finish(&bar, "pass@1 %.3f, %.0f tokens/s", run->scores.pass_1,
                        result->tokens_per_second);
    return status;
}

static int go(Run *run, GrpoRunResult *result, Error *err) {
    if (open_run(run, err)) return -1;
    bool resumed = run->saved >= 0;
    result->steps = result->resumed_from = run->grpo.state.steps;
    result->first = NOT_MEASURED;
    result->first.greedy = run->rewards.accuracy_first;
    interrupt_catch();
    int status = !resumed ? begin(run, result, err) : look(run, err);
    if (!status) status = run_steps(run, result, err);
    interrupt_release();
    Error csv_error;
    if (grpo_log_close(&run->log, &csv_error) && !status)
        status = error_set(err, "%s", csv_error.text);
    return status;
}

int grpo_run(Model *policy, Model *reference, const Questions *questions, const GrpoRunOptions *o,
             GrpoRunResult *result, Error *err) {
    Run *run = must_alloc(1, sizeof *run); /* rollouts may not move */
    Context *ctx = policy->ctx;
    double started = seconds_now();
    *run = (Run){.policy = policy,
                 .reference = reference,
                 .questions = questions,
                 .options = o,
                 .parts = {{questions, false, ctx->rng.seed}, {questions, true, 0}}};
    run->held_out = source_of(&run->parts[1]);
    *result = (GrpoRunResult){0};
    int longest = o->grpo.rollout.max_prompt + o->grpo.rollout.max_completion_length;
    if (policy->cfg.trained_context_length < longest) policy->cfg.trained_context_length = longest;
    int status = grpo_check(&o->grpo, err);
    if (!status)
        status =
            grpo_init(&run->grpo, ctx, &policy->decoder, reference ? &reference->decoder : NULL,
                      model_position(policy), &policy->params, &run->state.adamw, &o->grpo,
                      source_of(&run->parts[0]), err);
    if (!status) status = open_judges(run, err);
    if (!status) {
        settings_of(run);
        status = settings_agree(ctx->comm, &run->settings, &o->schedule, "", err);
    }
    if (!status) {
        run->grpo.ranks = ranks_open(&policy->params, &(RanksOptions){.in_turn = o->in_turn});
        status = go(run, result, err);
        ranks_close(run->grpo.ranks);
    }
    result->last = run->scores;
    result->best_reward = -run->state.best_validation_loss;
    result->best_step = run->state.best_step;
    result->seconds = seconds_now() - started;
    run_folder_close(&run->folder);
    rollouts_free(&run->judge), rollouts_free(&run->greedy);
    if (run->grpo.batch) grpo_free(&run->grpo);
    free(run);
    return status;
}
