/*
 * Rewards, the arithmetic beneath countdown, and the tasks: what is right, what only looks like it,
 * and that no problem is on both sides.
 */
#include "09_grpo/rewards/expression.h"
#include "09_grpo/rewards/rewards.h"
#include "09_grpo/rewards/tasks.h"

#include "common/program/testing.h"

#include <math.h>
#include <string.h>

typedef struct Row {
    const char *reward;
    Answer answer;
    float want;
} Row;

Test(rewards, each) {
    const Row rows[] = {
        {"accuracy", {.text = "112", .expected = "112", .ended = true}, 1},
        {"accuracy", {.text = "112", .expected = "112", .ended = false}, 0}, /* may go on: 1123 */
        {"accuracy", {.text = "1123", .expected = "112", .ended = true}, 0},
        {"accuracy", {.text = "", .expected = "112", .ended = true}, 0},
        {"accuracy", {.text = "112", .ended = true}, NAN},
        {"digits", {.text = "182", .expected = "112", .ended = true}, 2.0f / 3},
        {"digits", {.text = "1112", .expected = "112", .ended = true}, 0},
        {"format", {.text = "999", .expected = "112", .ended = true}, 1},
        {"format", {.text = "9+9", .expected = "112", .ended = true}, 0},
        {"format", {.text = "99", .expected = "112", .ended = true}, 0},
        {"length", {.text = "", .tokens = 8, .max_tokens = 10, .ended = true}, 0},
        {"length", {.text = "", .tokens = 9, .max_tokens = 10, .ended = true}, -0.5f},
        {"length", {.text = "", .tokens = 10, .max_tokens = 10, .ended = true}, -1},
        {"length", {.text = "", .tokens = 10, .max_tokens = 10, .ended = false}, -1},
        {"countdown", {.prompt = "3,7,25>46=", .text = "3*7+25", .ended = true}, 1},
        {"countdown", {.prompt = "3,7,25>46=", .text = "25+(7*3)", .ended = true}, 1},
        {"countdown", {.prompt = "3,7,25>46=", .text = "3*7+25", .ended = false}, 0},
        {"countdown", {.prompt = "3,7,25>46=", .text = "46", .ended = true}, 0},
        {"countdown", {.prompt = "3,7,25>21=", .text = "3*7", .ended = true}, 0},
        {"countdown", {.prompt = "3,7,25>46=", .text = "3*7+24+1", .ended = true}, 0},
        {"countdown", {.prompt = "3,3,4>10=", .text = "3+3+4", .ended = true}, 1},
        {"countdown", {.prompt = "3,3,4>11=", .text = "3+4+4", .ended = true}, 0},
        {"countdown", {.prompt = "27+85=", .text = "112", .ended = true}, NAN},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const Reward *r = reward_find(rows[i].reward, &err);
        float got = r->function(&rows[i].answer);
        cr_assert(isnan(rows[i].want) ? isnan(got) : fabsf(got - rows[i].want) < 1e-6f,
                  "%zu, %s of \"%s\": %g, not %g", i, r->name, rows[i].answer.text, got,
                  rows[i].want);
    }
}

Test(rewards, together) {
    WeightedReward list[REWARDS_MAX];
    float each[REWARDS_MAX];
    cr_assert_eq(rewards_parse(list, "digits=0.5,countdown,length=-2", &err), 3);
    Answer a = {.prompt = "1+2=", .text = "03", .expected = "13", .tokens = 10, .max_tokens = 10};
    a.ended = true;
    float total = rewards_total(list, 3, &a, each); /* countdown has nothing to say */
    cr_assert(each[0] == 0.5f && isnan(each[1]) && each[2] == -1 && total == 2.25f, "%g", total);
    cr_assert(isnan(rewards_total(list + 1, 1, &a, each)));

    const struct {
        const char *text, *part;
    } wrong[] = {
        {"accuracy,", "give names"},
        {"acuracy", "there is no reward \"acuracy\"; there are accuracy, digits, countdown"},
        {"accuracy=x", "is \"x\", which is no number"},
        {"length=1e999", "no number"},
        {"format,format,format,format,format,format,format,format,format", "at most 8"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_assert_eq(rewards_parse(list, wrong[i].text, &err), -1, "%s", wrong[i].text);
        cr_assert(strstr(err.text, wrong[i].part), "%s", err.text);
    }
}

Test(expression, values) {
    const struct {
        const char *text;
        int64_t value;
        bool wrong;
        int numbers;
    } rows[] = {
        {"7", 7, false, 1},
        {"2+3*4", 14, false, 3},
        {"(2+3)*4", 20, false, 3},
        {"10-2-3", 5, false, 3},
        {"24/4/2", 3, false, 3},
        {"2-(3-4)", 3, false, 3},
        {"7/2", 0, true, 0},
        {"1/0", 0, true, 0},
        {"1/(2-2)", 0, true, 0},
        {"", 0, true, 0},
        {"2+", 0, true, 0},
        {"+2", 0, true, 0},
        {"(2", 0, true, 0},
        {"2)", 0, true, 0},
        {"2 3", 0, true, 0},
        {"1+2+3+4+5+6+7+8+9", 0, true, 0},
        {"99999999999999999999", 0, true, 0},
        {"9999999999*9999999999", 0, true, 0},
        {"((((((((((((((((((((((((((((((((((((((((1", 0, true, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t value, numbers[EXPRESSION_NUMBERS];
        int count, status = expression_value(rows[i].text, &value, numbers, &count);
        cr_assert_eq(status, rows[i].wrong ? -1 : 0, "\"%s\"", rows[i].text);
        cr_assert(status || (value == rows[i].value && count == rows[i].numbers), "\"%s\": %lld",
                  rows[i].text, (long long)value);
    }
}

/* ---- tasks ---- */

static TaskConfig config(const char *name, int digits) {
    return (TaskConfig){.task = task_find(name, &err), .digits = digits, .seed = 5};
}

/* The answer that a task teaches earns its reward, and prompt and answer can be written as tokens.
 * */
Test(tasks, answers_are_right) {
    for (int k = 0; task_names[k]; k++)
        for (int digits = 2; digits <= 5; digits++) {
            TaskConfig cfg = config(task_names[k], digits);
            const Reward *reward = reward_find(task_reward(cfg.task), &err);
            for (uint64_t i = 0; i < 200; i++) {
                Problem p;
                int32_t ids[PROBLEM_TEXT];
                task_problem(&cfg, i % 2, i, &p);
                Answer a = {
                    .prompt = p.prompt, .text = p.answer, .expected = p.answer, .ended = true};
                cr_assert_eq(reward->function(&a), 1, "%s %s", p.prompt, p.answer);
                int n = task_encode(p.prompt, ids, PROBLEM_TEXT);
                cr_assert_eq(n, (int)strlen(p.prompt), "%s", p.prompt);
                for (int j = 0; j < n; j++)
                    cr_assert(task_character(ids[j]) == p.prompt[j] && ids[j] < task_vocab_size() &&
                              ids[j] != TASK_END);
                cr_assert(task_encode(p.answer, ids, PROBLEM_TEXT) > 0);
            }
        }
    int32_t ids[2];
    cr_assert(task_encode("x", ids, 2) == -1 && task_encode("123", ids, 2) == -1);
}

/* "=" of the prompt holds: computed here in another way, and backwards when reversed. */
Test(tasks, arithmetic) {
    static const char *const names[] = {"addition", "subtraction", "multiplication"};
    for (int k = 0; k < 3; k++)
        for (int reversed = 0; reversed < 2; reversed++) {
            TaskConfig cfg = config(names[k], 3);
            cfg.reversed = reversed;
            for (uint64_t i = 0; i < 100; i++) {
                Problem p;
                char left[PROBLEM_TEXT], right[PROBLEM_TEXT] = "";
                int64_t value, want, numbers[EXPRESSION_NUMBERS];
                int count;
                task_problem(&cfg, false, i, &p);
                strcpy(left, p.prompt), left[strlen(left) - 1] = 0;
                size_t n = strlen(p.answer);
                for (size_t j = 0; j < n; j++) right[j] = p.answer[reversed ? n - 1 - j : j];
                cr_assert_eq(expression_value(left, &value, numbers, &count), 0, "%s", left);
                cr_assert_eq(expression_value(right, &want, numbers, &count), 0, "%s", right);
                cr_assert_eq(value, want, "%s %s", p.prompt, p.answer);
            }
        }
}

/* A problem is the same whenever it is asked for, others are others; and none is on both sides,
 * whatever the seeds are. */
Test(tasks, held_out) {
    enum { N = 300 };
    TaskConfig cfg = config("addition", 2), other = cfg;
    static Problem train[N], held[N];
    other.seed = 77;
    int new_ones = 0;
    for (uint64_t i = 0; i < N; i++) {
        Problem again;
        task_problem(&cfg, false, i, &train[i]), task_problem(&other, true, i, &held[i]);
        task_problem(&cfg, false, i, &again);
        cr_assert_str_eq(again.prompt, train[i].prompt);
        new_ones += i && strcmp(train[i].prompt, train[i - 1].prompt) != 0;
    }
    cr_assert(new_ones > N - 10);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) cr_assert_str_neq(train[i].prompt, held[j].prompt);
}

Test(tasks, refusals) {
    cr_assert(!task_find("division", &err) && strstr(err.text, "there are addition"), "%s",
              err.text);
    TaskConfig cfg = config("countdown", 7);
    cr_assert(task_check(&cfg, &err) == -1);
    cr_assert(strstr(err.text, "2 to 6"), "%s", err.text);
}
