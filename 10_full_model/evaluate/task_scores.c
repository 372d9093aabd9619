/*
 * Every choice of every item is one text to be scored, all of them in one list; then the numbers
 * go back to their items, the items' to their tasks, the tasks' to their fields.
 */
#include "10_full_model/evaluate/task_scores.h"

#include "common/core/memory.h"
#include "common/core/utf8.h"
#include "common/program/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- from items to log-likelihoods ---- */

static bool ends_in_space(const char *text) {
    size_t bytes = strlen(text);
    return !bytes || strchr(" \t\r\n", text[bytes - 1]);
}

static int encode_item(ScoredText *texts, const TaskItem *item, const Tokenizer *tokenizer,
                       const TaskOptions *o, Error *err) {
    const char *space = ends_in_space(item->context) ? "" : " ";
    for (int i = 0; i < item->count; i++) {
        size_t bytes = strlen(item->choices[i]) + 2;
        char *text = must_alloc(bytes, 1);
        snprintf(text, bytes, "%s%s", space, item->choices[i]);
        int status =
            score_encode(&texts[i], tokenizer, o->begin, item->context, text, o->longest, err);
        free(text);
        if (status) return error_prefix(err, "%s:%lld: ", item->path, (long long)item->line);
    }
    return 0;
}

static void show_progress(void *progress, size_t done) {
    progress_update(progress, (int64_t)done, "texts");
}

/* Tokens of all choices of all items, then their numbers. */
static int score_items(ScoredText *texts, size_t count, Model *model, const Tokenizer *tokenizer,
                       const TaskSet *set, const TaskOptions *o, Error *err) {
    size_t at = 0;
    bool words = false;
    for (size_t i = 0; i < set->count; at += (size_t)set->items[i].count, i++) {
        if (encode_item(texts + at, &set->items[i], tokenizer, o, err)) return -1;
        words = words || set->tasks[set->items[i].task].kind == TASK_WORDS;
    }
    Progress progress = progress_start("scoring", (int64_t)count);
    const ScoreOptions options = {.batch_tokens =
                                      o->batch_tokens ? o->batch_tokens : score_batch_tokens(model),
                                  .greedy = words,
                                  .progress = o->quiet ? NULL : show_progress,
                                  .user = &progress};
    if (score_texts(model, texts, count, &options, err)) return -1;
    if (!o->quiet) progress_finish(&progress, "%zu texts", count);
    return 0;
}

/* ---- from log-likelihoods to shares ---- */

typedef struct Sums {
    int64_t items, cut;
    double right, right_norm, ll, ll_squares;
} Sums;

static int64_t characters(const char *text) {
    int64_t count = 0;
    for (; *text; text++) count += ((unsigned char)*text & 0xC0) != 0x80;
    return count;
}

static void add_item(Sums *s, const TaskItem *item, TaskKind kind, const ScoredText *texts) {
    int best = 0, best_norm = 0;
    double norm[2] = {0, 0}; /* the best one's, and this one's */
    bool cut = false;
    for (int i = 0; i < item->count; i++) {
        norm[1] = texts[i].logprob / (double)characters(item->choices[i]);
        if (texts[i].logprob > texts[best].logprob) best = i;
        if (i == 0 || norm[1] > norm[0]) best_norm = i, norm[0] = norm[1];
        cut = cut || texts[i].cut;
    }
    s->items++;
    s->cut += cut;
    s->right += kind == TASK_WORDS ? texts[0].greedy : best == item->answer;
    s->right_norm += best_norm == item->answer;
    s->ll += texts[0].logprob;
    s->ll_squares += texts[0].logprob * texts[0].logprob;
}

/* Of n numbers with these sums. */
static Measured mean_of(double sum, double squares, double n) {
    double mean = sum / n, rest = squares - n * mean * mean;
    return (Measured){mean, n > 1 ? sqrt((rest > 0 ? rest : 0) / (n * (n - 1))) : NAN};
}

static const Measured none = {NAN, NAN};

static TaskScore score_of(const TaskGroup *task, const Sums *s) {
    TaskScore score = {.name = task->name,
                       .field = task->field,
                       .kind = task->kind,
                       .items = s->items,
                       .cut = s->cut,
                       .acc = mean_of(s->right, s->right, (double)s->items),
                       .acc_norm = none,
                       .perplexity = none};
    if (task->kind != TASK_WORDS) {
        score.acc_norm = mean_of(s->right_norm, s->right_norm, (double)s->items);
    } else {
        Measured ll = mean_of(s->ll, s->ll_squares, (double)s->items);
        score.perplexity = (Measured){exp(-ll.value), exp(-ll.value) * ll.error};
    }
    return score;
}

/* The mean over the tasks of this kind, and of this field (NULL: of any), if there are several. */
static void add_mean(TaskScores *scores, int tasks, TaskKind kind, const char *field) {
    TaskScore mean = {.kind = kind, .field = field ? field : "", .mean = true};
    Measured *sums[] = {&mean.acc, &mean.acc_norm, &mean.perplexity};
    int count = 0;
    for (int i = 0; i < tasks; i++) {
        const TaskScore *t = &scores->rows[i];
        if (t->kind != kind || (field && strcmp(t->field, field))) continue;
        const Measured *from[] = {&t->acc, &t->acc_norm, &t->perplexity};
        for (int j = 0; j < 3; j++) {
            sums[j]->value += from[j]->value;
            sums[j]->error += from[j]->error * from[j]->error;
        }
        mean.items += t->items, mean.cut += t->cut;
        count++;
    }
    if (count < 2) return;
    for (int j = 0; j < 3; j++) {
        sums[j]->value /= count;
        sums[j]->error = sqrt(sums[j]->error) / count;
    }
    snprintf(mean.text, sizeof mean.text, "mean of %d", count);
    TaskScore *row = &scores->rows[scores->count++];
    *row = mean;
    row->name = row->text;
}

static void add_means(TaskScores *scores, const TaskSet *set) {
    for (int kind = 0; kind < TASK_KINDS; kind++) {
        int fields = 0;
        for (int i = 0; i < set->task_count; i++) {
            const TaskGroup *t = &set->tasks[i];
            bool first = (int)t->kind == kind && *t->field;
            for (int j = 0; j < i && first; j++)
                first = (int)set->tasks[j].kind != kind || strcmp(set->tasks[j].field, t->field);
            if (!first) continue;
            add_mean(scores, set->task_count, (TaskKind)kind, t->field);
            fields++;
        }
        /* Of one field alone it would be the same once more, unless some tasks have none. */
        int before = scores->count;
        add_mean(scores, set->task_count, (TaskKind)kind, NULL);
        if (fields == 1 && scores->count > before && before > set->task_count &&
            scores->rows[before].items == scores->rows[before - 1].items)
            scores->count--;
    }
}

int task_scores(TaskScores *scores, Model *model, const Tokenizer *tokenizer, const TaskSet *set,
                const TaskOptions *options, Error *err) {
    size_t count = 0, at = 0;
    for (size_t i = 0; i < set->count; i++) count += (size_t)set->items[i].count;
    ScoredText *texts = must_alloc(count, sizeof *texts);
    int status = score_items(texts, count, model, tokenizer, set, options, err);
    *scores = (TaskScores){0};
    if (!status) {
        Sums *sums = must_alloc((size_t)set->task_count, sizeof *sums);
        for (size_t i = 0; i < set->count; at += (size_t)set->items[i].count, i++) {
            const TaskItem *item = &set->items[i];
            add_item(&sums[item->task], item, set->tasks[item->task].kind, texts + at);
        }
        /* a row for each task, at most one for each field, and one for each kind */
        scores->rows = must_alloc(2 * (size_t)set->task_count + TASK_KINDS, sizeof *scores->rows);
        for (int i = 0; i < set->task_count; i++)
            scores->rows[scores->count++] = score_of(&set->tasks[i], &sums[i]);
        add_means(scores, set);
        free(sums);
        scores->logprobs = must_alloc(count, sizeof *scores->logprobs);
        for (size_t i = 0; i < count; i++) {
            scores->logprobs[i] = texts[i].logprob;
            if (texts[i].count - 1 > scores->longest) scores->longest = texts[i].count - 1;
        }
    }
    for (size_t i = 0; i < count; i++) free(texts[i].ids);
    free(texts);
    return status;
}

void task_scores_free(TaskScores *scores) {
    free(scores->rows);
    free(scores->logprobs);
    *scores = (TaskScores){0};
}
