/*
 * deepseek generate: a prompt in, its continuation out.
 */
#include "checkpoint.h"
#include "command.h"
#include "generate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum Flag { MODEL = 256, PROMPT, TOKENS, TEMPERATURE, TOP_K, TOP_P };

typedef struct Options {
    CommonOptions common;
    const char *model, *prompt;
    int max_new_tokens;
    Sampling sampling;
} Options;

static const struct argp_option generate_flags[] = {
    {"model", MODEL, "DIR", 0, "Folder that train wrote (required)", 0},
    {"prompt", PROMPT, "TEXT", 0, "What the text begins with (default: nothing)", 0},
    {"max-new-tokens", TOKENS, "N", 0, "Tokens to add (default 200)", 0},
    {"temperature", TEMPERATURE, "X", 0,
     "0: always the likeliest token; 1: the model's probabilities (default 0.8)", 0},
    {"top-k", TOP_K, "K", 0, "Choose among the K likeliest tokens (default 0: all)", 0},
    {"top-p", TOP_P, "P", 0, "Choose among the likeliest tokens that make up P (default 0.95)", 0},
    {0}};

static error_t parse(int key, char *text, struct argp_state *state) {
    Options *o = state->input;
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
    case ARGP_KEY_ARG:
        argp_error(state, "'%s' is not expected here: every setting has a flag", text);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* user: the prompt, which is printed before the first piece of new text (a prompt that is refused is not). */
static void print_text(void *user, const char *text, size_t bytes) {
    const char **prompt = user;
    if (*prompt) fputs(*prompt, stdout);
    *prompt = NULL;
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.prompt = "",
                       .max_new_tokens = 200,
                       .sampling = {.temperature = 0.8f, .top_p = 0.95f}},
            *o = &options;
    command_parse(&command_generate, generate_flags, parse, argc, argv, &o->common, o);
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

const Command command_generate = {"generate", "Continues a prompt.", run};
