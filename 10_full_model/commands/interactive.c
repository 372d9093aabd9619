/*
 * The loop of a conversation: read a line; a slash changes a setting of the table or asks for help;
 * anything else goes into a Generator, which keeps its caches from line to line, and the answer is
 * printed as it comes. Ctrl-C sets a flag that the generator looks at between two tokens.
 */
#include "10_full_model/commands/interactive.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Talk {
    Generator g;
    GenerateOptions options;
    FILE *out;
    bool quit;
} Talk;

/* ---- Ctrl-C ends an answer ---- */

static volatile int answering_cancelled; /* a signal handler can reach nothing else */

static void on_interrupt(int signal) { (void)signal, answering_cancelled = 1; }

static void run(Talk *talk, GenerateResult *result) {
    answering_cancelled = 0;
    struct sigaction action = {.sa_handler = on_interrupt}, old;
    sigaction(SIGINT, &action, &old);
    generator_run(&talk->g, &talk->options, result);
    sigaction(SIGINT, &old, NULL);
}

static void print_piece(void *user, const char *text, size_t bytes) {
    Talk *talk = user;
    fwrite(text, 1, bytes, talk->out);
    fflush(talk->out);
}

/* ---- settings ---- */

enum Kind { REAL, WHOLE };

typedef struct Setting {
    const char *name, *about;
    enum Kind kind;
    void *value; /* float *, or int * */
    double low, high;
} Setting;

enum { SETTINGS = 6 };

static void list_settings(Talk *talk, Setting *settings) {
    Sampling *s = &talk->options.sampling;
    const Setting all[SETTINGS] = {
        {"temp", "temperature; 0: always the likeliest token", REAL, &s->temperature, 0, 100},
        {"top-k", "choose among the K likeliest; 0: all", WHOLE, &s->top_k, 0, 1 << 24},
        {"top-p", "... among the likeliest that make up P; 1: all", REAL, &s->top_p, 0, 1},
        {"min-p", "... among those at least P times as likely as the first; 0: all", REAL,
         &s->min_p, 0, 1},
        {"penalty", "for tokens that are in the text already; 1: none", REAL,
         &s->repetition_penalty, 0.01, 100},
        {"tokens", "length of an answer, at most", WHOLE, &talk->options.max_new_tokens, 1,
         1 << 24},
    };
    memcpy(settings, all, sizeof all);
}

static void help(Talk *talk) {
    Setting settings[SETTINGS];
    list_settings(talk, settings);
    fprintf(talk->out, "Type a text, and the model continues it. An empty line: go on where it "
                       "stopped.\n");
    for (int i = 0; i < SETTINGS; i++) {
        double now = settings[i].kind == REAL ? (double)*(float *)settings[i].value
                                              : (double)*(int *)settings[i].value;
        fprintf(talk->out, "  /%-8s %-6.4g %s\n", settings[i].name, now, settings[i].about);
    }
    fprintf(talk->out,
            "  /seed     %-6llu other random numbers\n"
            "  /help, /quit; Ctrl-C ends an answer\n",
            (unsigned long long)talk->options.sampling.seed);
}

/* A number that is all of text, in low .. high. */
static bool number_in(const char *text, double low, double high, double *number) {
    char *end;
    errno = 0;
    *number = strtod(text, &end);
    return end != text && !*end && !errno && *number >= low && *number <= high;
}

/* line: what stands behind the slash. */
static void command(Talk *talk, char *line) {
    char *name = strtok(line, " \t"), *value = strtok(NULL, " \t");
    Setting settings[SETTINGS];
    list_settings(talk, settings);
    double number;
    if (!name || !strcmp(name, "help")) {
        help(talk);
    } else if (!strcmp(name, "quit")) {
        talk->quit = true;
    } else if (!strcmp(name, "seed")) {
        if (value && number_in(value, 0, 0x1p53, &number) && number == floor(number))
            talk->options.sampling.seed = (uint64_t)number;
        else
            fprintf(talk->out, "/seed takes a whole number\n");
    } else {
        for (int i = 0; i < SETTINGS; i++) {
            Setting *s = &settings[i];
            if (strcmp(name, s->name)) continue;
            if (!value || !number_in(value, s->low, s->high, &number) ||
                (s->kind == WHOLE && number != floor(number)))
                fprintf(talk->out, "/%s takes a %s from %g to %g\n", s->name,
                        s->kind == WHOLE ? "whole number" : "number", s->low, s->high);
            else if (s->kind == WHOLE)
                *(int *)s->value = (int)number;
            else
                *(float *)s->value = (float)number;
            return;
        }
        fprintf(talk->out, "there is no /%s; /help lists what there is\n", name);
    }
}

/* ---- a line ---- */

static void answer(Talk *talk, const char *line) {
    Error err;
    Generator *g = &talk->g;
    if (*line || g->sequences[0].count == 0) {
        generator_clear(g);
        if (generator_prompt(g, 0, line, &err)) {
            fprintf(talk->out, "%s\n", err.text);
            return;
        }
        fputs(line, talk->out);
    }
    GenerateResult result;
    run(talk, &result);
    fprintf(talk->out, "\n");
    if (result.new_tokens)
        fprintf(talk->out, "[%d tokens, %.0f tokens/s]\n", result.new_tokens,
                result.new_tokens / result.seconds);
    else if (g->sequences[0].count >= g->capacity)
        fprintf(talk->out, "[the context of %d tokens is full; begin a new text]\n", g->capacity);
    else
        fprintf(talk->out, "[the model has nothing to add]\n");
}

int interactive(Model *model, const Tokenizer *tokenizer, GenerateOptions options, FILE *in,
                FILE *out, Error *err) {
    Talk talk = {.options = options, .out = out};
    if (generator_init(&talk.g, model, tokenizer, 1, model->cfg.max_position_embeddings, err))
        return -1;
    talk.options.emit = print_piece;
    talk.options.user = &talk;
    talk.options.cancelled = &answering_cancelled;
    help(&talk);
    char *line = NULL;
    size_t size = 0;
    while (!talk.quit) {
        fprintf(out, "> ");
        fflush(out);
        ssize_t length = getline(&line, &size, in);
        if (length < 0) break;
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r'))
            line[--length] = 0;
        if (line[0] == '/')
            command(&talk, line + 1);
        else
            answer(&talk, line);
    }
    fprintf(out, "\n");
    free(line);
    generator_free(&talk.g);
    if (fflush(out) || ferror(out))
        return error_set(err, "cannot write the text: %s", strerror(errno));
    return 0;
}
