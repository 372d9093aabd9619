/*
 * deepseek generate: a prompt in, its continuation out; or many from a file, or a conversation.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/interactive.h"
#include "10_full_model/generate/generate.h"

#include "common/files/files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum Flag {
    MODEL = 256,
    PROMPT,
    PROMPTS,
    BATCH,
    INTERACTIVE,
    TOKENS,
    STOP,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    MIN_P,
    PENALTY
};
enum { MAX_STOPS = 16 };

typedef struct Options {
    CommonOptions common;
    const char *model, *prompt, *prompts;
    int batch;
    bool interactive;
    const char *stops[MAX_STOPS];
    GenerateOptions generate;
} Options;

static const struct argp_option generate_flags[] = {
    {"model", MODEL, "DIR", 0, "Folder with the model (required)", 0},
    {"prompt", PROMPT, "TEXT", 0, "What the text begins with (default: nothing)", 0},
    {"prompts", PROMPTS, "FILE", 0,
     "Many prompts, one a line, continued side by side; empty lines do not count", 0},
    {"batch", BATCH, "N", 0, "With --prompts: how many at a time (default 8)", 0},
    {"interactive", INTERACTIVE, NULL, 0, "Type prompts; /help there lists the settings", 0},
    {"max-new-tokens", TOKENS, "N", 0, "Tokens to add (default 200)", 0},
    {"stop", STOP, "TEXT", 0, "Ends the answer where it would say TEXT; may be given several times",
     0},
    {"temperature", TEMPERATURE, "X", 0,
     "0: always the likeliest token; 1: the model's probabilities (default 0.8)", 0},
    {"top-k", TOP_K, "K", 0, "Choose among the K likeliest tokens (default 0: all)", 0},
    {"top-p", TOP_P, "P", 0, "Choose among the likeliest tokens that make up P (default 0.95)", 0},
    {"min-p", MIN_P, "P", 0,
     "Choose among tokens at least P times as likely as the likeliest (default 0: all)", 0},
    {"repetition-penalty", PENALTY, "X", 0,
     "Above 1: tokens that are in the text already are less likely (default 1)", 0},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state) {
    Options *o = state->input;
    Sampling *s = &o->generate.sampling;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->common;
        return 0;
    case MODEL:
        o->model = text;
        return 0;
    case PROMPT:
        o->prompt = text;
        return 0;
    case PROMPTS:
        o->prompts = text;
        return 0;
    case BATCH:
        o->batch = (int)option_integer(state, "--batch", text, 1, 65536);
        return 0;
    case INTERACTIVE:
        o->interactive = true;
        return 0;
    case TOKENS:
        o->generate.max_new_tokens =
            (int)option_integer(state, "--max-new-tokens", text, 1, 1 << 20);
        return 0;
    case STOP:
        if (!*text) argp_error(state, "--stop: the text is empty");
        if (o->generate.stop_count == MAX_STOPS)
            argp_error(state, "--stop: at most %d texts", MAX_STOPS);
        o->stops[o->generate.stop_count++] = text;
        return 0;
    case TEMPERATURE:
        s->temperature = (float)option_number(state, "--temperature", text, 0, 100);
        return 0;
    case TOP_K:
        s->top_k = (int)option_integer(state, "--top-k", text, 0, 1 << 24);
        return 0;
    case TOP_P:
        s->top_p = (float)option_number(state, "--top-p", text, 0, 1);
        return 0;
    case MIN_P:
        s->min_p = (float)option_number(state, "--min-p", text, 0, 1);
        return 0;
    case PENALTY:
        s->repetition_penalty =
            (float)option_number(state, "--repetition-penalty", text, 0.01, 100);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "'%s' is not expected here: every setting has a flag", text);
        return 0;
    case ARGP_KEY_END:
        if (!!o->prompt + !!o->prompts + o->interactive > 1)
            argp_error(state, "--prompt, --prompts and --interactive exclude each other");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static int check_written(Error *err) {
    if (fflush(stdout) || ferror(stdout))
        return error_set(err, "cannot write the text: %s", strerror(errno));
    return 0;
}

static void report(const GenerateResult *r, const Model *model) {
    fprintf(stderr, "%d tokens, %.0f tokens/s\n", r->new_tokens,
            r->seconds > 0 ? r->new_tokens / r->seconds : 0);
    if (r->full)
        fprintf(stderr, "(the model's context of %d tokens is full)\n",
                model->cfg.max_position_embeddings);
}

/* ---- one prompt ---- */

/* user: the prompt, which is printed before the first piece of new text (a prompt that is refused
 * is not). */
static void print_text(void *user, const char *text, size_t bytes) {
    const char **prompt = user;
    if (*prompt) fputs(*prompt, stdout);
    *prompt = NULL;
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

static int continue_prompt(Model *model, const Tokenizer *tokenizer, Options *o, Error *err) {
    const char *prompt = o->prompt ? o->prompt : "", *unprinted = prompt;
    o->generate.emit = print_text;
    o->generate.user = &unprinted;
    GenerateResult result;
    if (generate(model, tokenizer, prompt, &o->generate, &result, err)) return -1;
    if (unprinted) fputs(unprinted, stdout); /* not one new token */
    printf("\n");
    if (check_written(err)) return -1;
    report(&result, model);
    return 0;
}

/* ---- a file of prompts ---- */

/* The lines of text, each terminated in place; *count is set. */
static char **lines_of(char *text, int *count) {
    int room = 1;
    for (const char *c = text; *c; c++) room += *c == '\n';
    char **lines = must_alloc((size_t)room, sizeof *lines);
    *count = 0;
    for (char *line = strtok(text, "\r\n"); line; line = strtok(NULL, "\r\n"))
        lines[(*count)++] = line;
    return lines;
}

/* Prompts first .. first + batch - 1, side by side. */
static int continue_some(Model *model, const Tokenizer *tokenizer, const Options *o, char **prompts,
                         int first, int batch, GenerateResult *total, Error *err) {
    Generator g;
    GenerateResult result;
    if (generator_init(&g, model, tokenizer, batch, model->cfg.max_position_embeddings, err))
        return -1;
    int status = 0;
    for (int b = 0; b < batch && !status; b++)
        if ((status = generator_prompt(&g, b, prompts[first + b], err)))
            error_prefix(err, "%s: prompt %d: ", o->prompts, first + b + 1);
    if (!status) {
        generator_run(&g, &o->generate, &result);
        total->new_tokens += result.new_tokens;
        total->seconds += result.seconds;
        total->full |= result.full;
        for (int b = 0; b < batch; b++) {
            char *answer = generator_answer(&g, b, &o->generate);
            printf("[%d] %s%s\n\n", first + b + 1, prompts[first + b], answer);
            free(answer);
        }
        status = check_written(err);
    }
    generator_free(&g);
    return status;
}

static int continue_file(Model *model, const Tokenizer *tokenizer, const Options *o, Error *err) {
    MappedFile file;
    if (file_map(&file, o->prompts, err)) return -1;
    if (memchr(file.data, 0, file.size)) {
        file_unmap(&file);
        return error_set(err, "%s: a zero byte: this is no text", o->prompts);
    }
    char *text = memcpy(must_alloc(file.size + 1, 1), file.data, file.size);
    file_unmap(&file);
    int count, status = 0;
    char **prompts = lines_of(text, &count);
    if (count == 0) status = error_set(err, "%s: there is no prompt in it", o->prompts);
    GenerateResult total = {0};
    for (int first = 0; first < count && !status; first += o->batch) {
        int batch = count - first < o->batch ? count - first : o->batch;
        status = continue_some(model, tokenizer, o, prompts, first, batch, &total, err);
    }
    if (!status) report(&total, model);
    free(prompts);
    free(text);
    return status;
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.batch = 8,
                       .generate = {.max_new_tokens = 200, .sampling = sampling_defaults()}},
            *o = &options;
    command_parse(&command_generate, generate_flags, parse, argc, argv, &o->common, o);
    if (!o->model) return error_set(err, "generate: --model DIR says which model");
    o->generate.sampling.seed = o->common.seed;
    o->generate.stops = o->stops;
    Context ctx;
    options_open(&o->common, &ctx);
    Model model;
    Tokenizer *tokenizer;
    int status = checkpoint_load(&model, &tokenizer, &ctx, o->model, err);
    if (!status) {
        if (o->interactive)
            status = interactive(&model, tokenizer, o->generate, stdin, stdout, err);
        else if (o->prompts)
            status = continue_file(&model, tokenizer, o, err);
        else
            status = continue_prompt(&model, tokenizer, o, err);
        model_free(&model);
        tokenizer_free(tokenizer);
    }
    context_free(&ctx);
    return status;
}

const Command command_generate = {"generate",
                                  "Continues a prompt, many prompts, or a conversation.", run};
