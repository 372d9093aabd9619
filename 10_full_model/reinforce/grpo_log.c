/*
 * A row is put together cell by cell. In tables a prompt that is too long shows its end, for there
 * the question stands, and an answer its beginning.
 */
#include "10_full_model/reinforce/grpo_log.h"

#include "common/core/utf8.h"
#include "common/files/machine.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows ---- */

typedef struct Line {
    char text[4096];
    size_t used;
} Line;

static void put(Line *line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(line->text + line->used, sizeof line->text - line->used, format, args);
    va_end(args);
    line->used += (size_t)length;
    CHECK(line->used < sizeof line->text, "a row of more than %zu characters", sizeof line->text);
}

static void cell(Line *line, double value) {
    if (isfinite(value))
        put(line, ",%.6g", value);
    else
        put(line, ",");
}

int grpo_log_open(GrpoLog *log, const char *path, const Context *ctx, const GrpoRunOptions *o,
                  int64_t after, Error *err) {
    *log = (GrpoLog){.cfg = &o->grpo};
    if (!path) return 0;
    Line names = {.used = 0};
    put(&names, "step,learning_rate,num_tokens,step_time");
    for (const GrpoColumn *c = grpo_columns; c->name; c++) put(&names, ",%s", c->name);
    for (int i = 0; i < o->grpo.reward_count; i++)
        put(&names, ",rewards/%s/mean", o->grpo.rewards[i].reward->name);
    put(&names, ",replaced_groups,rollout_time,update_time");
    put(&names, ",eval_reward,eval_pass@1,eval_pass@%d,eval_greedy", o->num_generations_eval);
    const char *device = device_describe(ctx).text;
    char text[200];
    snprintf(text, sizeof text, "%s", device);
    return after < 0
               ? csv_open(&log->csv, path, names.text, text, ctx->rng.seed, err)
               : csv_continue(&log->csv, path, names.text, (double)after, text, ctx->rng.seed, err);
}

/* Is it a number of the updates, which a step without any does not have? */
static bool of_updates(const GrpoColumn *c) {
    return strncmp(c->name, "reward", 6) && strncmp(c->name, "completions/", 12) &&
           strcmp(c->name, "frac_reward_zero_std");
}

void grpo_log_row(GrpoLog *log, const GrpoRow *row) {
    if (!log->csv.stream) return;
    const GrpoReport *r = row->report;
    Line line = {.used = 0};
    put(&line, "%lld", (long long)row->step);
    cell(&line, row->learning_rate);
    put(&line, ",%lld", (long long)row->num_tokens);
    cell(&line, row->step_time);
    for (const GrpoColumn *c = grpo_columns; c->name; c++) {
        bool there = r && (r->updates || !of_updates(c));
        cell(&line, there ? *(const double *)((const char *)r + c->offset) : NAN);
    }
    for (int i = 0; i < log->cfg->reward_count; i++) cell(&line, r ? r->rewards[i] : NAN);
    cell(&line, r ? r->replaced_groups : NAN);
    cell(&line, r ? r->rollout_seconds : NAN);
    cell(&line, r ? r->update_seconds : NAN);
    const GrpoScores *s = &row->scores;
    cell(&line, s->reward), cell(&line, s->pass_1), cell(&line, s->pass_k), cell(&line, s->greedy);
    csv_row(&log->csv, "%s", line.text);
}

int grpo_log_close(GrpoLog *log, Error *err) {
    return log->csv.stream ? csv_close(&log->csv, err) : 0;
}

/* ---- samples ---- */

enum { PROMPT_WIDTH = 25, ANSWER_WIDTH = 32 };

static int characters_of(const char *text) {
    int count = 0;
    for (; *text; text++) count += ((unsigned char)*text & 0xC0) != 0x80;
    return count;
}

/* The text in one line of `width` characters: what would command a terminal is shown, and what is
 * too long is cut, in the front or behind. */
static void print_cell(FILE *out, const char *text, int width, bool keep_end) {
    char *safe = terminal_text(text, strlen(text)), *line = must_alloc(2 * strlen(safe) + 1, 1);
    size_t used = 0;
    for (const char *c = safe; *c; c++) {
        if (*c == '\n' || *c == '\t') line[used++] = '\\';
        line[used++] = *c == '\n' ? 'n' : *c == '\t' ? 't' : *c;
    }
    int count = characters_of(line);
    const char *from = line;
    if (count > width && keep_end)
        for (int skip = count - width + 1; skip > 0 || ((unsigned char)*from & 0xC0) == 0x80;
             from++)
            skip -= ((unsigned char)*from & 0xC0) != 0x80;
    bool cut = count > width;
    int shown = cut ? width - 1 : count;
    size_t bytes = 0;
    for (int seen = 0; from[bytes]; bytes++) {
        bool begins = ((unsigned char)from[bytes] & 0xC0) != 0x80;
        if (begins && seen == shown) break;
        seen += begins;
    }
    fprintf(out, "%s%.*s%s%*s", cut && keep_end ? "…" : "", (int)bytes, from,
            cut && !keep_end ? "…" : "", width - shown - cut, "");
    free(safe), free(line);
}

static void print_sample(FILE *out, const GrpoSample *s) {
    fprintf(out, "  ");
    print_cell(out, s->prompt, PROMPT_WIDTH, true);
    fprintf(out, " ");
    print_cell(out, s->text, ANSWER_WIDTH, false);
    if (isnan(s->reward))
        fprintf(out, " %8s %9s\n", "none", "");
    else
        fprintf(out, " %8.2f %9.2f\n", s->reward, s->advantage);
}

void grpo_print_samples(FILE *out, const Grpo *g, int64_t step, int count) {
    GrpoSample s;
    int group = g->cfg.rollout.group, first = 0, better = 0, others = 0;
    for (int i = 0; grpo_sample(g, i, &s) == 0; i++)
        if (s.advantage != 0) {
            first = i / group * group;
            break;
        }
    fprintf(out, "step %-8lld prompt        completion %31s %9s\n", (long long)step, "reward",
            "advantage");
    for (int i = first; i < first + group && grpo_sample(g, i, &s) == 0; i++) {
        int *kind = s.advantage > 0 ? &better : &others, most = (count + (s.advantage > 0)) / 2;
        if (*kind == most) continue;
        ++*kind;
        print_sample(out, &s);
    }
    fflush(out);
}
