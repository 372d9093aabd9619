/*
 * Tasks: what a line may be and what is said of one that is none; log-likelihoods, shares and their
 * errors against transformers and Python (tools/goldens/10_tasks.py); and that neither depends on
 * what is scored beside it.
 */
#include "10_full_model/checkpoint/checkpoint.h"
#include "10_full_model/evaluate/task_scores.h"
#include "10_full_model/generate/generate.h"
#include "common/files/files.h"
#include "common/program/testing.h"
#include "common/tests/test_scratch.h"

#include <math.h>
#include <stdio.h>

static Error err;

/* ---- lines ---- */

static int read_text(TaskSet *set, Scratch *w, const char *text, bool skip) {
    scratch_write(w, "some.jsonl", text, strlen(text));
    const char *path = scratch_path(w, "some.jsonl");
    return tasks_read(set, &path, 1, skip, &err);
}

#define FINE "{\"good\": \"a b\", \"bad\": \"b a\"}\n"

Test(tasks, three_kinds_of_lines) {
    Scratch w = scratch_open();
    TaskSet set;
    check_ok(read_text(&set, &w,
                       FINE "\n{\"context\": \"c \", \"choices\": [\"x\", \"y\", \"z\"], "
                            "\"answer\": 2, \"task\": \"t\", \"field\": \"f\", \"more\": [1]}\n"
                            "{\"text\": \"one two\\nthree \\n\", \"task\": \"t\"}\r\n" FINE,
                       false),
             &err);
    cr_assert(set.count == 4 && set.task_count == 3 && !set.bad_lines);
    const TaskItem *i = set.items;
    check_all(i[0].count == 2, i[0].line == 1, !strcmp(i[0].choices[1], "b a"), !*i[0].context);
    check_all(i[1].count == 3, i[1].line == 3, i[1].answer == 2, !strcmp(i[1].context, "c "));
    check_all(i[2].count == 1, !strcmp(i[2].context, "one two"), !strcmp(*i[2].choices, "three"));
    check_all(i[3].task == 0, i[1].task == 1, i[2].task == 2, i[3].line == 5);
    check_all(!strcmp(set.tasks[0].name, "some"), !strcmp(set.tasks[1].field, "f"),
              set.tasks[2].kind == TASK_WORDS, !*set.tasks[2].field);
    tasks_free(&set);
}

Test(tasks, what_is_no_item_is_named) {
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"{\"good\": \"a\"", "some.jsonl:2: the line: not JSON at byte 13"},
        {"{\"good\": \"\xFF\"}", "invalid UTF-8 at byte 11"},
        {"[1]", "not an object"},
        {"{}", "neither \"good\" and \"bad\", nor \"choices\", nor \"text\""},
        {"{\"good\": \"a\"}", "no field \"bad\""},
        {"{\"bad\": \"a\"}", "no field \"good\""},
        {"{\"good\": \"a\", \"bad\": 3}", "\"bad\" is not a string"},
        {"{\"good\": \"a\", \"bad\": \"\"}", "\"bad\" is empty"},
        {"{\"good\": \"a\", \"bad\": \"b\", \"bad\": \"c\"}", "\"bad\" is there twice"},
        {"{\"good\": \"a\", \"bad\": \"b\", \"task\": null}", "\"task\" is not a string"},
        {"{\"good\": \"a\", \"bad\": \"b\", \"field\": 1}", "\"field\" is not a string"},
        {"{\"choices\": []}", "\"choices\" has 0 texts"},
        {"{\"choices\": [\"a\"], \"answer\": 0}", "has 1 text; it takes 2"},
        {"{\"choices\": \"ab\", \"answer\": 0}", "not a list"},
        {"{\"choices\": [\"a\", 2], \"answer\": 0}", "choice 1 is not a string"},
        {"{\"choices\": [\"a\", \"\"], \"answer\": 0}", "a choice is empty"},
        {"{\"choices\": [\"a\", \"b\"]}", "no field \"answer\""},
        {"{\"choices\": [\"a\", \"b\"], \"answer\": 2}", "the number of a choice, 0 to 1"},
        {"{\"choices\": [\"a\", \"b\"], \"answer\": -1}", "the number of a choice, 0 to 1"},
        {"{\"choices\": [\"a\", \"b\"], \"answer\": 0.5}", "the number of a choice, 0 to 1"},
        {"{\"choices\": [\"a\", \"b\"], \"answer\": \"0\"}", "the number of a choice, 0 to 1"},
        {"{\"context\": 1, \"choices\": [\"a\", \"b\"], \"answer\": 0}", "\"context\" is not a"},
        {"{\"context\": \"a\"}", "neither"},
        {"{\"text\": \"word \"}", "fewer than two words"},
        {"{\"text\": \"\"}", "fewer than two words"},
    };
    Scratch w = scratch_open();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        TaskSet set;
        char text[400];
        snprintf(text, sizeof text, FINE "%s\n" FINE, cases[i].line);
        cr_assert(read_text(&set, &w, text, false) == -1, "%s", cases[i].line);
        cr_expect(strstr(err.text, "some.jsonl:2: ") && strstr(err.text, cases[i].says) &&
                      strstr(err.text, "--bad-lines skip"),
                  "%s: %s", cases[i].line, err.text);
        check_ok(read_text(&set, &w, text, true), &err);
        check_all(set.count == 2, set.bad_lines == 1,
                  strstr(set.first_bad_line, cases[i].says) != NULL);
        tasks_free(&set);
        cr_assert(read_text(&set, &w, cases[i].line, true) == -1 &&
                      strstr(err.text, "there is no item in it; the first bad line is"),
                  "%s", err.text);
    }
    const char *missing = "/nowhere/x.jsonl";
    TaskSet set;
    cr_assert(tasks_read(&set, &missing, 1, true, &err) == -1 && strstr(err.text, missing));
}

/* ---- a model ---- */

typedef struct Judged {
    Context ctx;
    Model model;
    Tokenizer *tokenizer;
    TaskSet set;
} Judged;

static void judged_load(Judged *j, Device device, DType dtype) {
    static char tasks[400];
    const char *path = tasks;
    char folder[400];
    check_ok(project_path(folder, sizeof folder, "10_full_model/goldens/tasks", &err), &err);
    snprintf(tasks, sizeof tasks, "%s/tasks.jsonl", folder);
    *j = (Judged){.ctx = test_context(device, dtype)};
    check_ok(checkpoint_load(&j->model, &j->tokenizer, &j->ctx, folder, &err), &err);
    check_ok(tasks_read(&j->set, &path, 1, false, &err), &err);
}

static TaskOptions options_of(const Judged *j, int batch) {
    return (TaskOptions){.longest = j->model.cfg.max_position_embeddings,
                         .begin = generate_begin(&j->model, j->tokenizer),
                         .batch_tokens = batch,
                         .quiet = true};
}

static void expect_near(const char *what, int i, double value, double truth, double tolerance) {
    if (isnan(truth))
        cr_expect(isnan(value), "%s %d: %g, should be none", what, i, value);
    else
        cr_expect(fabs(value - truth) <= tolerance * (1 + fabs(truth)), "%s %d: %.7g, not %.7g",
                  what, i, value, truth);
}

/* F32: sums of a few dozen float32 log-probabilities (measured on a CPU: within 3e-7 of the sum).
 * BF16: 8 bits of each logit, of which a log-probability's error is a few; a share may then turn,
 * so only log-likelihoods are compared. */
DEVICE_TEST(tasks, agree_with_transformers) {
    Judged j;
    judged_load(&j, device, dtype);
    SafeTensors *expected = golden_open("10_full_model/goldens/tasks/expected.safetensors");
    const float *logprobs = golden_values(expected, "logprobs");
    const float *rows = golden_values(expected, "scores");
    TaskOptions options = options_of(&j, 100);
    TaskScores scores;
    check_ok(task_scores(&scores, &j.model, j.tokenizer, &j.set, &options, &err), &err);
    int64_t count = tensor_count(safetensors_find(expected, "logprobs"));
    for (int i = 0; i < count; i++)
        expect_near("log-likelihood", i, scores.logprobs[i], logprobs[i],
                    dtype == BF16 ? 0.05 : 1e-5);
    cr_assert_eq(tensor_dim(safetensors_find(expected, "scores"), 0), j.set.task_count);
    const int32_t *cut = safetensors_find(expected, "cut")->data;
    int64_t all_cut[20] = {0};
    for (size_t i = 0; i < j.set.count; i++) all_cut[j.set.items[i].task] += cut[i];
    for (int i = 0; i < j.set.task_count && dtype == F32; i++) {
        const TaskScore *s = &scores.rows[i];
        const Measured *of[] = {&s->acc, &s->acc_norm, &s->perplexity};
        cr_expect_eq(s->cut, all_cut[i]);
        for (int k = 0; k < 3; k++) {
            expect_near(s->name, k, of[k]->value, rows[6 * i + 2 * k], 1e-4);
            expect_near(s->name, k, of[k]->error, rows[6 * i + 2 * k + 1], 1e-4);
        }
    }
}

/* A text alone, with one neighbour, with all: the same number, but for the order of sums. */
DEVICE_TEST(tasks, neighbours_change_nothing) {
    Judged j;
    judged_load(&j, device, dtype);
    TaskOptions alone = options_of(&j, 1);
    TaskScores first, other;
    check_ok(task_scores(&first, &j.model, j.tokenizer, &j.set, &alone, &err), &err);
    const int batches[] = {70, 10000, 0};
    for (int b = 0; b < 3; b++) {
        TaskOptions options = options_of(&j, batches[b]);
        check_ok(task_scores(&other, &j.model, j.tokenizer, &j.set, &options, &err), &err);
        for (int i = 0; i < 41; i++)
            expect_near("text", i, other.logprobs[i], first.logprobs[i],
                        dtype == BF16 ? 0.02 : 1e-5);
        task_scores_free(&other);
    }
}

/* Field's means and the mean of all: of tasks, not of items. */
Test(tasks, means_are_of_tasks) {
    Judged j;
    judged_load(&j, CPU, F32);
    TaskOptions options = options_of(&j, 0);
    TaskScores s;
    check_ok(task_scores(&s, &j.model, j.tokenizer, &j.set, &options, &err), &err);
    cr_assert_eq(s.count, 8);
    const TaskScore *field = &s.rows[6], *all = &s.rows[7];
    check_all(field->mean, all->mean, !strcmp(field->field, "morphology"), !*all->field,
              field->items == 5, all->items == 9, !strcmp(all->name, "mean of 4"));
    double a = s.rows[0].acc.value, b = s.rows[1].acc.value, e = s.rows[0].acc.error,
           f = s.rows[1].acc.error;
    expect_near("field", 0, field->acc.value, (a + b) / 2, 1e-12);
    expect_near("field", 1, field->acc.error, sqrt(e * e + f * f) / 2, 1e-12);
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += s.rows[i].acc_norm.value / 4;
    expect_near("all", 0, all->acc_norm.value, sum, 1e-12);
}

Test(tasks, tokens_of_context_and_continuation) {
    Judged j;
    judged_load(&j, CPU, F32);
    int begin = generate_begin(&j.model, j.tokenizer);
    ScoredText spaces, plain, none, cut;
    cr_assert(begin >= 0);
    check_ok(score_encode(&plain, j.tokenizer, begin, "the cat", " sat", 32, &err), &err);
    check_ok(score_encode(&spaces, j.tokenizer, begin, "the cat ", "sat", 32, &err), &err);
    cr_assert(plain.count == spaces.count && plain.asked == spaces.asked &&
              !memcmp(plain.ids, spaces.ids, (size_t)plain.count * sizeof *plain.ids));
    check_ok(score_encode(&none, j.tokenizer, begin, "", "the cat sat", 32, &err), &err);
    check_all(none.ids[0] == begin, none.asked == none.count - 1, none.asked == plain.count);
    check_ok(score_encode(&cut, j.tokenizer, begin, "the cat", " sat", plain.asked, &err), &err);
    check_all(cut.cut, !plain.cut, cut.count == plain.asked + 1,
              cut.ids[cut.count - 1] == plain.ids[plain.count - 1]);
    cr_assert(score_encode(&none, j.tokenizer, -1, " ", "the", 32, &err) == -1 &&
              strstr(err.text, "no token to begin with"));
    cr_assert(score_encode(&none, j.tokenizer, begin, "", "the cat sat", 1, &err) == -1 &&
              strstr(err.text, "this model takes 1"));
}

/* What does not fit, or is no number, is said by place. */
Test(tasks, what_cannot_be_scored_is_named) {
    Judged j;
    judged_load(&j, CPU, F32);
    TaskOptions options = options_of(&j, 0);
    TaskScores s;
    options.longest = 3;
    cr_assert(task_scores(&s, &j.model, j.tokenizer, &j.set, &options, &err) == -1 &&
                  strstr(err.text, "tasks.jsonl:1: what is to be judged has"),
              "%s", err.text);
    options = options_of(&j, 0);
    ((float *)j.model.decoder.norm->data)[1] = NAN;
    cr_assert(task_scores(&s, &j.model, j.tokenizer, &j.set, &options, &err) == -1 &&
                  strstr(err.text, "not finite: number 1 of 'model.norm.weight'"),
              "%s", err.text);
}
