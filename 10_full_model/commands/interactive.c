/*
 * The loop of a conversation: read a line; a slash changes a setting of the table, begins anew or
 * asks for help; anything else goes into a Generator, which keeps the text and its caches from line
 * to line, and the answer is printed as it comes. Ctrl-C sets a flag that the generator looks at
 * between two tokens.
 */
#include "10_full_model/commands/interactive.h"

#include "common/core/utf8.h"
#include "common/program/options.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct Talk {
    Model *model;
    Generator g;
    GenerateOptions options;
    FILE *out;
    int trained;   /* tokens of the longest text that the model was trained on; 0: not known */
    bool terminal; /* somebody types: say what is for them alone */
    bool quit;
} Talk;

/* ---- Ctrl-C ends an answer ---- */

static volatile int answering_cancelled; /* a signal handler can reach nothing else */

static void on_interrupt(int signal) { (void)signal, answering_cancelled = 1; }

static void run(Talk *talk, GenerateResult *result) {
    answering_cancelled = 0;
    struct sigaction action = {.sa_handler = on_interrupt}, old;
    sigaction(SIGINT, &action, &old);
    if (talk->g.speculator) talk->g.speculator->counts = (SpeculateCounts){0};
    GenerateOptions options = talk->options;
    if (!options.max_new_tokens)
        options.max_new_tokens = generate_usual(talk->model, talk->g.decoding.sequences[0].count);
    generator_run(&talk->g, &options, result);
    sigaction(SIGINT, &old, NULL);
}

static void print_piece(void *user, const char *text, size_t bytes) {
    Talk *talk = user;
    terminal_write(talk->out, text, bytes);
    fflush(talk->out);
}

/* ---- settings ---- */

typedef struct Settings {
    Option rows[8];
} Settings;

static Settings settings_of(Talk *talk) {
    Sampling *s = &talk->options.sampling;
    int most = 1 << 24;
    return (Settings){{
        OPT_FLOAT("temp", 0, "", &s->temperature, 0, 100,
                  "temperature; 0: always the likeliest token"),
        OPT_INT("top-k", 0, "", &s->top_k, 0, most, "choose among the K likeliest; 0: all"),
        OPT_FLOAT("top-p", 0, "", &s->top_p, 0, 1,
                  "... among the likeliest that make up P; 1: all"),
        OPT_FLOAT("min-p", 0, "", &s->min_p, 0, 1,
                  "... among those at least P times as likely as the first; 0: all"),
        OPT_FLOAT("penalty", 0, "", &s->repetition_penalty, 0.01, 100,
                  "for tokens that are in the text already; 1: none"),
        OPT_INT("tokens", 0, "", &talk->options.max_new_tokens, 0, most,
                "an answer at most; 0: 200, within its training's length"),
        OPT_SEED("seed", &s->seed, "other random numbers"),
        OPT_END,
    }};
}

static void help(Talk *talk) {
    Settings settings = settings_of(talk);
    fprintf(talk->out, "Type a text, and the model continues it. Another line goes behind what "
                       "is there,\nan empty one just goes on.\n");
    for (const Option *row = settings.rows; row->kind != OPTION_END; row++)
        fprintf(talk->out, "  /%-8s %-6s %s\n", row->name, option_text(row).text, row->help);
    fprintf(talk->out, "  /clear           forget what was said, begin a new text\n"
                       "  /help, /quit     Ctrl-C ends an answer\n");
}

/* line: what stands behind the slash. */
static void command(Talk *talk, char *line) {
    char *name = strtok(line, " \t"), *value = strtok(NULL, " \t");
    Settings settings = settings_of(talk);
    Error err;
    if (!name || !strcmp(name, "help")) {
        help(talk);
        return;
    }
    if (!strcmp(name, "quit")) {
        talk->quit = true;
        return;
    }
    if (!strcmp(name, "clear")) {
        decoder_generator_truncate(&talk->g.decoding, -1, 0);
        return;
    }
    const Option *row = settings.rows;
    while (row->kind != OPTION_END && strcmp(name, row->name)) row++;
    if (row->kind == OPTION_END)
        fprintf(talk->out, "there is no /%s; /help lists what there is\n", name);
    else if (option_read(row, value ? value : "", &err))
        fprintf(talk->out, "/%s: %s\n", row->name, err.text);
    else if (talk->terminal)
        fprintf(talk->out, "[%s is %s]\n", row->name, option_text(row).text);
}

/* ---- a line ---- */

/* What the answer ended with, for somebody at a terminal. */
static void remark(const Talk *talk, const GenerateResult *result) {
    const DecoderGenerator *d = &talk->g.decoding;
    int count = d->sequences[0].count;
    const Speculator *guesses = talk->g.speculator;
    if (result->new_tokens)
        fprintf(talk->out, "[%d tokens, %.0f tokens/s]\n", result->new_tokens,
                result->new_tokens / result->seconds);
    if (result->new_tokens && guesses) speculate_print(talk->out, &guesses->counts);
    if (!result->new_tokens && count < d->capacity)
        fprintf(talk->out, "[the model has nothing to add]\n");
    if (count >= d->capacity)
        fprintf(talk->out, "[the context of %d tokens is full; /clear begins a new text]\n", count);
    else if (talk->trained && count > talk->trained)
        fprintf(talk->out,
                "[longer than the %d tokens of its training's texts: it may fall apart; /clear "
                "begins anew]\n",
                talk->trained);
    else if (count == talk->trained)
        fprintf(talk->out,
                "[as long as its training's texts; /clear begins anew, an empty line goes on]\n");
}

/* A line begins a text, or goes behind what is there. -1: the model cannot answer any more. */
static int answer(Talk *talk, const char *line, Error *err) {
    Generator *g = &talk->g;
    bool first = g->decoding.sequences[0].count == 0;
    if (*line || first) {
        char *text = must_alloc(strlen(line) + 2, 1);
        snprintf(text, strlen(line) + 2, "%s%s", first ? "" : "\n", line);
        int status = generator_prompt(g, 0, text, err);
        free(text);
        if (status) {
            fprintf(talk->out, "%s; /clear begins a new text\n", err->text);
            return 0;
        }
        terminal_print(talk->out, line);
    }
    GenerateResult result;
    run(talk, &result);
    fprintf(talk->out, "\n");
    if (talk->terminal && !result.broken) remark(talk, &result);
    return generator_check(g, talk->model, &result, err);
}

int interactive_run(Model *model, const Tokenizer *tokenizer, GenerateOptions options,
                    const GuessOptions *guess, FILE *in, FILE *out, Error *err) {
    Talk talk = {.model = model,
                 .options = options,
                 .out = out,
                 .trained = model->cfg.trained_context_length,
                 .terminal = isatty(fileno(in))};
    if (generator_init(&talk.g, model, tokenizer, 1, model->cfg.max_position_embeddings, err))
        return -1;
    if (generator_guess(&talk.g, model, guess, err)) {
        generator_free(&talk.g);
        return -1;
    }
    talk.options.emit = print_piece;
    talk.options.user = &talk;
    talk.options.cancelled = &answering_cancelled;
    if (talk.terminal) help(&talk);
    char *line = NULL;
    size_t size = 0;
    int status = 0;
    while (!talk.quit && !status) {
        if (talk.terminal) fprintf(out, "> ");
        fflush(out);
        ssize_t length = getline(&line, &size, in);
        if (length < 0) break;
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r'))
            line[--length] = 0;
        if (line[0] == '/')
            command(&talk, line + 1);
        else
            status = answer(&talk, line, err);
    }
    if (talk.terminal) fprintf(out, "\n");
    free(line);
    generator_free(&talk.g);
    if (fflush(out) || ferror(out))
        return error_set(err, "cannot write the text: %s", strerror(errno));
    return status;
}
