/*
 * deepseek generate: a prompt in, its continuation out; or many from a file, or a conversation.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/commands/command.h"
#include "10_full_model/commands/interactive.h"
#include "10_full_model/commands/logprobs.h"
#include "10_full_model/generate/generate.h"

#include "common/core/utf8.h"
#include "common/text/text_file.h"
#include "common/text/tokenizer_folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

typedef struct Options {
    CommonOptions common;
    const char *model, *prompt, *prompts;
    int batch;
    bool interactive, logprobs;
    int cache; /* of caches */
    StringList stops;
    GenerateOptions generate; /* max_new_tokens 0: not given */
    GuessOptions guess;
} Options;

/* What --cache may name: numbers as everywhere, or rows in eight bits (04_mla/latent_row.h). */
static const char *const caches[] = {"plain", "fp8", NULL};

static int check_written(Error *err) {
    if (fflush(stdout) || ferror(stdout))
        return error_set(err, "cannot write the text: %s", strerror(errno));
    return 0;
}

/* ---- how it went ---- */

typedef struct Totals {
    GenerateResult result;
    int longest; /* text, in tokens: the prompt too */
    SpeculateCounts guesses;
} Totals;

static void add_up(Totals *total, const GenerateResult *r, const Generator *g) {
    if (g->speculator) speculate_add(&total->guesses, &g->speculator->counts);
    total->result.new_tokens += r->new_tokens;
    total->result.seconds += r->seconds;
    total->result.full |= r->full;
    for (int b = 0; b < g->decoding.batch; b++)
        if (g->decoding.sequences[b].count > total->longest)
            total->longest = g->decoding.sequences[b].count;
}

static void report(const Totals *total, const Model *model, const Options *o) {
    const GenerateResult *r = &total->result;
    int trained = model->cfg.trained_context_length;
    fprintf(stderr, "%d tokens, %.0f tokens/s\n", r->new_tokens,
            r->seconds > 0 ? r->new_tokens / r->seconds : 0);
    if (o->guess.drafts) speculate_print(stderr, &total->guesses);
    if (r->full)
        fprintf(stderr, "(the model's context of %d tokens is full)\n",
                model->cfg.max_position_embeddings);
    else if (trained && total->longest == trained && !o->generate.max_new_tokens)
        fprintf(stderr,
                "(it ends at %d tokens, the length of its training's texts; -n N goes on)\n",
                trained);
    if (trained && total->longest > trained)
        fprintf(stderr,
                "(this is longer than the %d tokens of its training's texts: expect it to fall "
                "apart)\n",
                trained);
}

/* ---- one prompt ---- */

/* What stdin holds, without the newline that echo puts behind it; for the caller to free(). */
static char *read_stdin(Error *err) {
    size_t size = 0, room = 0;
    char *text = NULL;
    do {
        text = grow(text, &room, size + 4096, 1);
        size += fread(text + size, 1, 4095, stdin);
    } while (!feof(stdin) && !ferror(stdin));
    const char *wrong = ferror(stdin)           ? strerror(errno)
                        : memchr(text, 0, size) ? "a zero byte: this is no text"
                                                : NULL;
    if (wrong) {
        free(text);
        error_set(err, "--prompt -: %s", wrong);
        return NULL;
    }
    if (size && text[size - 1] == '\n') size--;
    text[size] = 0;
    return text;
}

/* user: the prompt, which is printed before the first piece of new text (a prompt that is refused
 * is not). */
static void print_text(void *user, const char *text, size_t bytes) {
    const char **prompt = user;
    if (*prompt) terminal_print(stdout, *prompt);
    *prompt = NULL;
    terminal_write(stdout, text, bytes);
    fflush(stdout);
}

/* Prompts first .. first + batch - 1, side by side. A prompt's number says what it draws. */
static int continue_some(Model *model, const Tokenizer *tokenizer, const Options *o, char **prompts,
                         int first, int batch, Totals *total, Error *err) {
    Generator g;
    GenerateResult result;
    GenerateOptions options = o->generate;
    int most = options.max_new_tokens ? options.max_new_tokens : GENERATE_USUAL, longest = 0;
    int capacity =
        generator_capacity(model, tokenizer, (const char *const *)prompts + first, batch, most);
    if (generator_init(&g, model, tokenizer, batch, capacity, err)) return -1;
    int status = generator_guess(&g, model, &o->guess, err);
    for (int b = 0; b < batch && !status; b++) {
        g.decoding.sequences[b].stream = (uint64_t)(first + b);
        status = generator_prompt(&g, b, prompts[first + b], err);
        if (status && o->prompts) error_prefix(err, "%s: prompt %d: ", o->prompts, first + b + 1);
        if (g.decoding.sequences[b].count > longest) longest = g.decoding.sequences[b].count;
    }
    if (!status) {
        if (!options.max_new_tokens) options.max_new_tokens = generate_usual(model, longest);
        const char *unprinted = prompts[first];
        bool as_it_comes = !o->prompts && !o->logprobs;
        if (as_it_comes) options.emit = print_text, options.user = &unprinted;
        generator_run(&g, &options, &result);
        add_up(total, &result, &g);
        for (int b = 0; b < batch; b++) {
            if (o->logprobs) {
                logprobs_print(stdout, model, &g, b, first + b + 1);
            } else if (as_it_comes) {
                if (unprinted) terminal_print(stdout, unprinted); /* there is not one new token */
                printf("\n");
            } else {
                char *answer = generator_answer(&g, b, &options);
                printf("[%d] ", first + b + 1);
                terminal_print(stdout, prompts[first + b]);
                terminal_print(stdout, answer);
                printf("\n\n");
                free(answer);
            }
        }
        status = check_written(err) ? -1 : generator_check(&g, model, &result, err);
    }
    generator_free(&g);
    return status;
}

static int continue_prompt(Model *model, const Tokenizer *tokenizer, const Options *o, Error *err) {
    bool piped = o->prompt && !strcmp(o->prompt, "-");
    char *prompt = piped ? read_stdin(err) : must_strdup(o->prompt ? o->prompt : "");
    Totals total = {0};
    int status = prompt ? continue_some(model, tokenizer, o, &prompt, 0, 1, &total, err) : -1;
    if (!status) report(&total, model, o);
    free(prompt);
    return status;
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

static int continue_file(Model *model, const Tokenizer *tokenizer, const Options *o, Error *err) {
    MappedFile file;
    if (text_file_map(&file, o->prompts, err)) return -1;
    if (memchr(file.data, 0, file.size)) {
        file_unmap(&file);
        return error_set(err, "%s: a zero byte: this is no text", o->prompts);
    }
    size_t mark = text_mark(file.data, file.size);
    char *text = memcpy(must_alloc(file.size + 1, 1), file.data + mark, file.size - mark);
    file_unmap(&file);
    int count, status = 0;
    char **prompts = lines_of(text, &count);
    if (count == 0) status = error_set(err, "%s: there is no prompt in it", o->prompts);
    Totals total = {0};
    int most = generator_most(model, &o->guess), at_once = o->batch < most ? o->batch : most;
    for (int first = 0; first < count && !status; first += at_once) {
        int batch = count - first < at_once ? count - first : at_once;
        status = continue_some(model, tokenizer, o, prompts, first, batch, &total, err);
    }
    if (!status) report(&total, model, o);
    free(prompts);
    free(text);
    return status;
}

/* By the cache and in the way that was asked for. */
static int answer(Model *model, Tokenizer *tokenizer, const Options *o, Error *err) {
    IndexerConfig indexer = config_indexer(&model->cfg);
    if (o->cache && config_needs_latents(&model->cfg, "--cache fp8", err)) return -1;
    if (o->cache && config_is_sparse(&model->cfg) && indexer_check_e4m3(&indexer, err)) return -1;
    model->decoder.cfg.block.e4m3_cache = o->cache;
    if (o->interactive)
        return interactive_run(model, tokenizer, o->generate, &o->guess, stdin, stdout, err);
    return o->prompts ? continue_file(model, tokenizer, o, err)
                      : continue_prompt(model, tokenizer, o, err);
}

static int run(int argc, char **argv, Error *err) {
    Options options = {.batch = 8, .generate = {.sampling = sampling_defaults()}}, *o = &options;
    Sampling *s = &o->generate.sampling;
    uint64_t drawn = 1;                                 /* where the system has no random numbers */
    if (getrandom(&drawn, 4, 0) == 4) drawn %= 1000000; /* short enough to be typed again */
    s->seed = drawn;
    const Option flags[] = {
        OPT_STRING("model", 'm', "DIR", &o->model, "Folder with the model",
                   .required = "says which model"),
        OPT_STRING("prompt", 'p', "TEXT", &o->prompt,
                   "What the text begins with; -: what stdin says (default: nothing)"),
        OPT_STRING("prompts", 0, "FILE", &o->prompts,
                   "Many prompts, one a line, continued side by side; empty lines do not count"),
        OPT_INT("batch", 0, "N", &o->batch, 1, 65536, "With --prompts: how many at a time"),
        OPT_INT(
            "speculative", 0, "K", &o->guess.drafts, 0, SPECULATE_MOST,
            "Let the model's modules guess K tokens ahead: the same text, sooner (fewer prompts "
            "at a time, if their rows do not fit a step)"),
        OPT_INT("draft-vocabulary", 0, "N", &o->guess.vocabulary, 0, 1 << 24,
                "Guess among the N most frequent tokens alone, which costs less; 0: all"),
        OPT_FLAG("interactive", 0, &o->interactive, "Type prompts; /help there lists the settings"),
        OPT_INT("max-new-tokens", 'n', "N", &o->generate.max_new_tokens, 1, 1 << 20,
                "Tokens to add (default: 200, but no more than the texts of its training had)"),
        OPT_LIST("stop", 0, "TEXT", &o->stops, 16,
                 "Ends the answer where it would say TEXT; may be given several times"),
        OPT_HEAD("How tokens are drawn, unless the model's generation_config.json says otherwise:"),
        OPT_FLOAT("temperature", 0, "X", &s->temperature, 0, 100,
                  "0: always the likeliest token; 1: the model's probabilities"),
        OPT_INT("top-k", 0, "K", &s->top_k, 0, 1 << 24,
                "Choose among the K likeliest tokens; 0: all"),
        OPT_FLOAT("top-p", 0, "P", &s->top_p, 0, 1,
                  "Choose among the likeliest tokens that make up P"),
        OPT_FLOAT("min-p", 0, "P", &s->min_p, 0, 1,
                  "Choose among tokens at least P times as likely as the likeliest; 0: all"),
        OPT_FLOAT("repetition-penalty", 0, "X", &s->repetition_penalty, 0.01, 100,
                  "Above 1: tokens that are in the text already are less likely"),
        OPT_SEED("seed", &s->seed, "Of the draw (default: another one each time, which is said)"),
        OPT_HEAD("What else there is:"),
        OPT_CHOICE("cache", 0, "KIND", &o->cache, caches,
                   "How tokens are kept: plain, or fp8, in about half the bytes and less exactly"),
        OPT_FLAG("logprobs", 0, &o->logprobs,
                 "Print the answer's tokens, each with its log-probability, as lines of JSON"),
        OPT_COMMON_OF(&o->common, COMMON_THREADS | COMMON_DEVICE | COMMON_DTYPE),
        OPT_END};
    options_parse(argc, argv, command_generate.about, flags);
    if (!!o->prompt + !!o->prompts + o->interactive > 1)
        options_error(argv, "--prompt, --prompts and --interactive exclude each other");
    if (o->interactive && o->logprobs)
        options_error(argv, "--logprobs is for --prompt and --prompts");
    if (o->guess.vocabulary && !o->guess.drafts)
        options_error(argv, "--draft-vocabulary is for --speculative");
    for (int i = 0; i < o->stops.count; i++)
        if (!*o->stops.items[i]) options_error(argv, "--stop: the text is empty");
    Context ctx;
    options_open(&o->common, &ctx);
    Model model;
    Tokenizer *tokenizer;
    int status = checkpoint_load(&model, &tokenizer, &ctx, o->model, err);
    if (!status) {
        /* What the folder says gives way to what was typed, which is read once more for that. */
        status = tokenizer_sampling(tokenizer, s, err);
        if (status) error_prefix(err, "%s/", o->model);
        o->stops.count = 0;
        options_parse(argc, argv, command_generate.about, flags);
        o->generate.stops = o->stops.items;
        o->generate.stop_count = o->stops.count;
        if (!status && s->seed == drawn && s->temperature > 0)
            fprintf(stderr, "seed %llu\n", (unsigned long long)drawn);
        if (!status) status = answer(&model, tokenizer, o, err);
        model_free(&model);
        tokenizer_free(tokenizer);
    }
    context_free(&ctx);
    free(o->stops.items);
    return status;
}

const Command command_generate = {"generate",
                                  "Continues a prompt, many prompts, or a conversation.", run};
