/*
 * The scores for people and for programs. Names come out of files: what a terminal would obey is
 * shown instead (utf8.h), and a CSV field with a comma or a quotation mark is quoted.
 */
#include "10_full_model/evaluate/task_scores.h"

#include "common/core/memory.h"
#include "common/core/utf8.h"
#include "common/files/csv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kinds[TASK_KINDS] = {"pairs", "choices", "words"};

enum { NAME_WIDTH = 40 };

/* At most so many characters, and spaces behind them. */
static void print_name(FILE *out, const char *name, int width) {
    int used = 0;
    size_t bytes = 0, all = strlen(name);
    while (bytes < all && used < width) {
        int length = utf8_character(name + bytes, all - bytes);
        bytes += (size_t)(length < 0 ? -length : length);
        used++;
    }
    char *text = terminal_text(name, bytes);
    fprintf(out, "%s%*s", text, width - used, "");
    free(text);
}

/* A perplexity may be anything: it gets so many figures, not places behind the point. */
static void print_measured(FILE *out, Measured m, int width, bool share) {
    const char *value = share ? " %*.4f" : " %*.5g", *error = share ? " %6.4f" : " %6.3g";
    if (isnan(m.value))
        fprintf(out, "%*s", width + 1, "");
    else
        fprintf(out, value, width, m.value);
    if (isnan(m.error))
        fprintf(out, "%7s", "");
    else
        fprintf(out, error, m.error);
}

static void print_row(FILE *out, const TaskScore *s) {
    if (s->mean && *s->field) {
        char name[200];
        snprintf(name, sizeof name, "= %.100s, %s", s->field, s->name);
        print_name(out, name, NAME_WIDTH);
    } else if (s->mean) {
        fprintf(out, "= %-*s", NAME_WIDTH - 2, s->name);
    } else {
        print_name(out, s->name, NAME_WIDTH);
    }
    fprintf(out, " %6lld", (long long)s->items);
    print_measured(out, s->acc, 6, true);
    if (s->kind == TASK_WORDS)
        print_measured(out, s->perplexity, 10, false);
    else
        print_measured(out, s->acc_norm, 10, true);
    fputc('\n', out);
}

void task_scores_print(const TaskScores *scores, FILE *out) {
    for (int kind = 0, printed = 0; kind < TASK_KINDS; kind++) {
        int64_t rows = 0, cut = 0;
        for (const TaskScore *s = scores->rows; s < scores->rows + scores->count; s++) {
            if ((int)s->kind != kind) continue;
            if (!rows++)
                fprintf(out, "%s%-*s %6s %6s %6s %10s %6s\n", printed ? "\n" : "", NAME_WIDTH,
                        kinds[kind], "items", "acc", "+-",
                        kind == TASK_WORDS ? "perplexity" : "acc_norm", "+-");
            print_row(out, s);
            printed++;
            if (!s->mean) cut += s->cut;
        }
        if (cut)
            fprintf(out, "(too long for the model, which saw the end only: %lld context%s)\n",
                    (long long)cut, cut == 1 ? "" : "s");
    }
}

/* ---- CSV ---- */

/* As a field: in quotation marks where it has to be; without control characters. free() it. */
static char *csv_field(const char *text) {
    char *field = must_alloc(2 * strlen(text) + 3, 1), *end = field;
    bool quoted = strpbrk(text, ",\"#") != NULL;
    if (quoted) *end++ = '"';
    for (; *text; text++) {
        if (*text == '"') *end++ = '"';
        *end++ = (char)((unsigned char)*text < 0x20 ? '?' : *text);
    }
    if (quoted) *end++ = '"';
    return field;
}

typedef struct NumberText {
    char text[32];
} NumberText;

/* Nothing where there is no number. */
static NumberText number(double value) {
    NumberText n = {""};
    if (!isnan(value)) snprintf(n.text, sizeof n.text, "%.6g", value);
    return n;
}

int task_scores_csv(const TaskScores *scores, const char *path, const char *device, Error *err) {
    Csv csv;
    if (csv_open(&csv, path, TASK_COLUMNS, device, 0, err)) return -1;
    for (const TaskScore *s = scores->rows; s < scores->rows + scores->count; s++) {
        char *name = csv_field(s->mean ? "" : s->name), *field = csv_field(s->field);
        csv_row(&csv, "%s,%s,%s,%d,%lld,%lld,%s,%s,%s,%s,%s,%s", kinds[s->kind], name, field,
                s->mean, (long long)s->items, (long long)s->cut, number(s->acc.value).text,
                number(s->acc.error).text, number(s->acc_norm.value).text,
                number(s->acc_norm.error).text, number(s->perplexity.value).text,
                number(s->perplexity.error).text);
        free(name), free(field);
    }
    return csv_close(&csv, err);
}
