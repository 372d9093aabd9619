/*
 * deepseek eval: how well a model knows a text, in all, or by how many tokens it has seen before;
 * or how many of a list of tasks it gets right (evaluate/tasks.h).
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/text_input.h"
#include "10_full_model/evaluate/task_scores.h"
#include "10_full_model/generate/generate.h"
#include "10_full_model/train/train.h"

#include "common/files/csv.h"
#include "common/files/machine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct Options {
    CommonOptions common;
    StringList data, tasks;
    const char *model;
    int context_length, windows; /* context_length 0: not given */
    int batch;                   /* tokens; 0: not given */
    bool by_position, quantised_activations, skip_bad_lines;
} Options;

/* Tokens first .. last of each window (from 1 on), and what it is to predict them: the mean loss of
 * one, its standard error by the windows' means, and the bytes of text that all of them are. */
typedef struct Stretch {
    int first, last;
    double loss, squares, error;
    int64_t bytes, tokens;
} Stretch;

enum { FIRST_STRETCH = 8, MAX_STRETCHES = 20 };

/* 1 .. 8, 9 .. 16, 17 .. 32, ... up to the context; returns how many. */
static int stretches_of(Stretch *stretches, int context_length) {
    int count = 0;
    for (int first = 1, last = FIRST_STRETCH; first <= context_length; last *= 2) {
        stretches[count++] =
            (Stretch){.first = first, .last = last < context_length ? last : context_length};
        first = last + 1;
    }
    return count;
}

/* What a stretch's targets are as text; what ends a text is none of it. */
static void count_bytes(Stretch *s, const Tokenizer *tokenizer, const int32_t *targets) {
    for (int i = s->first - 1; i < s->last; i++) {
        size_t bytes;
        tokenizer_token(tokenizer, targets[i], &bytes);
        s->bytes += targets[i] == tokenizer_eot(tokenizer) ? 0 : (int64_t)bytes;
        s->tokens++;
    }
}

/* A mean loss of a token, in nats, as bits for each byte; NaN where there is no text. */
static double bits_per_byte(const Stretch *s) {
    return s->bytes ? s->loss / log(2) * (double)s->tokens / (double)s->bytes : NAN;
}

/* Each stretch's rows of the states go through the head by themselves. */
static void losses_by_position(Model *model, const TokenSource *source, const Options *o,
                               const Tokenizer *tokenizer, Stretch *stretches, int count) {
    Context *ctx = model->ctx;
    int64_t T = o->context_length, width = model->cfg.hidden_size;
    int32_t *ids = must_alloc(2 * (size_t)T, sizeof *ids);
    for (int i = 0; i < o->windows; i++) {
        source_validation(source, i, o->windows, (int)T, ids, ids + T);
        const DecoderRun run = {.position = model_position(model)};
        Tensor *x = decoder_states(ctx, &model->decoder,
                                   tensor_copy_in(ctx, "ids", I32, ids, SHAPE(1, T)), &run);
        x = reshape(ctx, decoder_normed(ctx, &model->decoder, x), SHAPE(1, T * width));
        for (Stretch *s = stretches; s < stretches + count; s++) {
            int64_t from = s->first - 1, rows = s->last - from;
            Tensor *here =
                reshape(ctx, slice(ctx, x, from * width, rows * width), SHAPE(1, rows, width));
            Tensor *targets = tensor_copy_in(ctx, "targets", I32, ids + T + from, SHAPE(1, rows));
            float loss;
            tensor_download(ctx, &loss,
                            linear_cross_entropy(ctx, here, model->decoder.lm_head, targets));
            s->loss += (double)loss / o->windows;
            s->squares += (double)loss * loss;
            count_bytes(s, tokenizer, ids + T);
        }
        context_reset(ctx);
    }
    for (Stretch *s = stretches; s < stretches + count; s++) {
        double n = o->windows, rest = s->squares - n * s->loss * s->loss;
        s->error = n > 1 ? sqrt((rest > 0 ? rest : 0) / (n * (n - 1))) : NAN;
    }
    free(ids);
}

/* All windows' targets, for the one number of all. */
static void count_all_bytes(Stretch *all, const TokenSource *source, const Options *o,
                            const Tokenizer *tokenizer) {
    size_t T = (size_t)o->context_length;
    int32_t *ids = must_alloc(2 * T, sizeof *ids);
    for (int i = 0; i < o->windows; i++) {
        source_validation(source, i, o->windows, (int)T, ids, ids + T);
        count_bytes(all, tokenizer, ids + T);
    }
    free(ids);
}

/* ---- what is said of it ---- */

static int write_csv(const Options *o, const Model *model, const Stretch *s, int count,
                     Error *err) {
    Csv csv;
    if (csv_open(&csv, o->common.csv, "first,last,loss,perplexity,bits_per_byte,loss_error",
                 device_describe(model->ctx).text, o->common.seed, err))
        return -1;
    for (; count > 0; s++, count--) {
        char error[32] = ""; /* known by position only, and of several windows */
        if (s->error > 0) snprintf(error, sizeof error, "%.5f", s->error);
        csv_row(&csv, "%d,%d,%.5f,%.4f,%.5f,%s", s->first, s->last, s->loss, exp(s->loss),
                bits_per_byte(s), error);
    }
    return csv_close(&csv, err);
}

static void print_stretches(const Stretch *s, int count, int trained) {
    printf("\n%13s  %7s %7s  %10s  %9s\n", "tokens", "loss", "+-", "perplexity", "bits/byte");
    for (; count > 0; s++, count--) {
        char error[32] = "";
        if (s->error > 0) snprintf(error, sizeof error, "%.4f", s->error);
        printf("%5d .. %4d  %7.4f %7s  %10.2f  %9.4f%s\n", s->first, s->last, s->loss, error,
               exp(s->loss), bits_per_byte(s),
               trained && s->first > trained ? "   longer than in training" : "");
    }
}

/* A loss that is no number: the first window with one says why. */
static int explain(Model *model, const TokenSource *source, const Options *o, Error *err) {
    size_t T = (size_t)o->context_length;
    int32_t *ids = must_alloc(2 * T, sizeof *ids);
    int status = 0;
    for (int i = 0; i < o->windows && !status; i++) {
        source_validation(source, i, o->windows, (int)T, ids, ids + T);
        status = model_not_finite(model, ids, (int)T, err);
    }
    free(ids);
    if (!status) error_set(err, "though all logits are");
    return error_prefix(err, "the loss is not finite: ");
}

/* ---- a text ---- */

static int measure(const Options *o, Model *model, TextInput *input, Error *err) {
    int trained = model->cfg.trained_context_length;
    TextOptions text = {.data = &o->data,
                        .context_length = o->context_length,
                        .validation = 1,
                        .tokenizer = o->model,
                        .vocab = model->cfg.vocab_size};
    if (text_input_open(input, &text, err)) return -1;
    const TokenSource *source = &input->source;
    Stretch all = {.first = 1, .last = o->context_length}, stretches[MAX_STRETCHES];
    int count = o->by_position ? stretches_of(stretches, o->context_length) : 0;
    if (count) losses_by_position(model, source, o, input->tokenizer, stretches, count);
    float losses[OBJECTIVE_SHOWN];
    train_validation_losses(model, source, o->windows, 8, o->context_length,
                            tokenizer_eot(input->tokenizer), losses);
    all.loss = losses[0];
    count_all_bytes(&all, source, o, input->tokenizer);
    if (!isfinite(all.loss)) return explain(model, source, o, err);
    printf("loss %.4f   perplexity %.2f   bits per byte %.4f   (%d windows of %d tokens)\n",
           all.loss, exp(all.loss), bits_per_byte(&all), o->windows, o->context_length);
    for (int k = 1; k <= model->mtp.depth && k < o->context_length; k++)
        printf("loss %.4f   of module %d: the token %d place%s behind the next\n", losses[k], k, k,
               k == 1 ? "" : "s");
    if (count) print_stretches(stretches, count, trained);
    if (trained && o->context_length > trained)
        fprintf(stderr,
                "(the model was trained on texts of %d tokens; longer ones are foreign to it%s)\n",
                trained, count ? "" : ":\n --by-position shows how much");
    if (!o->common.csv) return 0;
    return count ? write_csv(o, model, stretches, count, err) : write_csv(o, model, &all, 1, err);
}

/* ---- tasks ---- */

static int measure_tasks(const Options *o, Model *model, const TaskSet *set, Error *err) {
    int trained = model->cfg.trained_context_length;
    Tokenizer *tokenizer = checkpoint_load_tokenizer(&model->cfg, o->model, err);
    if (!tokenizer) return -1;
    const TaskOptions options = {.longest = o->context_length,
                                 .begin = generate_begin(model, tokenizer),
                                 .batch_tokens = o->batch};
    TaskScores scores;
    int status = task_scores(&scores, model, tokenizer, set, &options, err);
    tokenizer_free(tokenizer);
    if (status) return -1;
    task_scores_print(&scores, stdout);
    if (set->bad_lines)
        printf("(%lld bad line%s left out%s: %s)\n", (long long)set->bad_lines,
               set->bad_lines == 1 ? " is" : "s are",
               set->bad_lines == 1 ? "" : ", the first of them", set->first_bad_line);
    if (trained && scores.longest > trained)
        fprintf(stderr,
                "(the model was trained on texts of %d tokens; the longest here has %d. --context "
                "%d would cut the beginnings)\n",
                trained, scores.longest, trained);
    if (o->common.csv)
        status = task_scores_csv(&scores, o->common.csv, device_describe(model->ctx).text, err);
    task_scores_free(&scores);
    return status;
}

static void check_flags(const Options *o, char **argv) {
    if (!o->data.count && !o->tasks.count)
        options_error(argv, "--data FILE says on which text, or --tasks FILE on which tasks");
    if (o->data.count && o->tasks.count)
        options_error(argv, "--data and --tasks are two measurements, with a table each; give one");
    if (o->tasks.count && o->by_position)
        options_error(argv, "--by-position is for a text (--data)");
    if (o->data.count && (o->batch || o->skip_bad_lines))
        options_error(argv, "--batch and --bad-lines are for --tasks");
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.windows = 128}, *o = &options;
    static const char *const bad[] = {"stop", "skip", NULL};
    const Option flags[] = {
        OPT_STRING("model", 'm', "DIR", &o->model, "Folder that train wrote",
                   .required = "says which model"),
        OPT_LIST("data", 0, "FILE", &o->data, 0,
                 "Text to measure on, which may be given several times; or a folder of shards, of "
                 "which the validation part counts"),
        OPT_LIST("tasks", 0, "FILE", &o->tasks, 0,
                 "Instead of a text: JSON lines with pairs (good, bad), multiple choice (context, "
                 "choices, answer) or texts whose last word is asked for (text); may be given "
                 "several times"),
        OPT_INT("context", 0, "N", &o->context_length, 1, 1 << 20,
                "Tokens that the model sees at a time (default: as many as in training, or 64; for "
                "tasks as many as it has positions for)"),
        OPT_INT("windows", 0, "N", &o->windows, 1, 1 << 20, "Windows, spread evenly over the text"),
        OPT_FLAG("by-position", 0, &o->by_position,
                 "Also the loss of the first tokens of a window, of the next, and so on"),
        OPT_INT("batch", 0, "N", &o->batch, 1, 1 << 24,
                "Of tasks: tokens side by side (default: by the size of the vocabulary)"),
        OPT_CHOICE("bad-lines", 0, "A", &o->skip_bad_lines, bad,
                   "Of tasks: a line that is none: stop or skip"),
        OPT_FLAG("quantised-activations", 0, &o->quantised_activations,
                 "With quantised weights: multiply as generate does, which on a CPU rounds what "
                 "they are multiplied with"),
        OPT_CSV(&o->common),
        OPT_COMMON_OF(&o->common, COMMON_THREADS | COMMON_DEVICE | COMMON_DTYPE),
        OPT_END};
    options_parse(argc, argv, command_eval.about, flags);
    check_flags(o, argv);
    TaskSet set = {0};
    const StringList *tasks = &o->tasks;
    if (o->common.csv && csv_check(o->common.csv, err)) return -1;
    if (tasks->count && tasks_read(&set, tasks->items, tasks->count, o->skip_bad_lines, err))
        return -1;
    Context ctx;
    options_open(&o->common, &ctx);
    Model model = {0};
    TextInput input = {0};
    int status =
        checkpoint_load_model(&model, &ctx, o->model, NULL,
                              o->quantised_activations ? LOAD_TO_RUN : LOAD_WEIGHT_ONLY, err);
    if (!o->context_length)
        o->context_length =
            set.count ? model.cfg.max_position_embeddings : model.cfg.trained_context_length;
    if (!o->context_length) o->context_length = train_defaults().context_length;
    if (!status && o->context_length > model.cfg.max_position_embeddings)
        status = error_set(err, "--context %d is longer than this model's %d positions",
                           o->context_length, model.cfg.max_position_embeddings);
    if (!status)
        status = set.count ? measure_tasks(o, &model, &set, err) : measure(o, &model, &input, err);
    text_input_close(&input);
    tasks_free(&set);
    model_free(&model);
    context_free(&ctx);
    free(o->data.items);
    free(o->tasks.items);
    return status;
}

const Command command_eval = {
    "eval", "Measures a model: loss, perplexity, bits per byte of text; or tasks.", run};
