/*
 * The tasks' table. A problem takes its random numbers from a stream of its own (the seed's and the
 * index'), and draws again until it is of the part that was asked for.
 */
#include "09_grpo/rewards/tasks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers of one problem ---- */

typedef struct Draws {
    uint64_t seed, stream, count;
} Draws;

/* Uniform in 0 .. n - 1. */
static int64_t draw(Draws *d, int64_t n) {
    Philox p = philox(d->seed, d->stream, d->count++);
    uint64_t wide = (uint64_t)p.word[0] << 32 | p.word[1];
    return (int64_t)(wide % (uint64_t)n); /* n is far below 2^64: as good as even */
}

static int64_t power_of_10(int digits) {
    int64_t n = 1;
    while (digits-- > 0) n *= 10;
    return n;
}

/* ---- the tasks ---- */

static void addition(Draws *d, int digits, Problem *p) {
    int64_t a = draw(d, power_of_10(digits)), b = draw(d, power_of_10(digits));
    snprintf(p->prompt, sizeof p->prompt, "%0*lld+%0*lld=", digits, (long long)a, digits,
             (long long)b);
    snprintf(p->answer, sizeof p->answer, "%0*lld", digits + 1, (long long)(a + b));
}

static void subtraction(Draws *d, int digits, Problem *p) {
    int64_t a = draw(d, power_of_10(digits)), b = draw(d, power_of_10(digits));
    int64_t most = a > b ? a : b, least = a > b ? b : a;
    snprintf(p->prompt, sizeof p->prompt, "%0*lld-%0*lld=", digits, (long long)most, digits,
             (long long)least);
    snprintf(p->answer, sizeof p->answer, "%0*lld", digits, (long long)(most - least));
}

static void multiplication(Draws *d, int digits, Problem *p) {
    int64_t a = draw(d, 10), b = draw(d, power_of_10(digits));
    snprintf(p->prompt, sizeof p->prompt, "%lld*%0*lld=", (long long)a, digits, (long long)b);
    snprintf(p->answer, sizeof p->answer, "%0*lld", digits + 1, (long long)(a * b));
}

static void sort(Draws *d, int digits, Problem *p) {
    int counts[10] = {0}, at = 0;
    for (int i = 0; i < digits; i++) {
        int digit = (int)draw(d, 10);
        p->prompt[i] = (char)('0' + digit);
        counts[digit]++;
    }
    strcpy(p->prompt + digits, ">");
    for (int digit = 0; digit < 10; digit++)
        while (counts[digit]-- > 0) p->answer[at++] = (char)('0' + digit);
    p->answer[at] = 0;
}

/* Numbers are joined from left to right by operations that keep the value whole and not below 0; a
 * sum that a product follows goes into parentheses. So there is a solution. */
static void countdown(Draws *d, int digits, Problem *p) {
    char text[PROBLEM_TEXT], joined[PROBLEM_TEXT];
    int64_t value = 1 + draw(d, 20);
    int used = snprintf(p->prompt, sizeof p->prompt, "%lld", (long long)value);
    snprintf(text, sizeof text, "%lld", (long long)value);
    bool is_sum = false;
    for (int i = 1; i < digits; i++) {
        int64_t n = 1 + draw(d, 20);
        char operation = "+-*"[draw(d, 3)];
        if (operation == '-' && n > value) operation = '+';
        if (operation == '*' && value * n > 999) operation = '+';
        bool around = operation == '*' && is_sum;
        snprintf(joined, sizeof joined, "%s%.40s%s%c%lld", around ? "(" : "", text,
                 around ? ")" : "", operation, (long long)n);
        strcpy(text, joined);
        value = operation == '+' ? value + n : operation == '-' ? value - n : value * n;
        is_sum = operation != '*';
        used += snprintf(p->prompt + used, sizeof p->prompt - (size_t)used, ",%lld", (long long)n);
    }
    snprintf(p->prompt + used, sizeof p->prompt - (size_t)used, ">%lld=", (long long)value);
    strcpy(p->answer, text);
}

struct Task {
    const char *name;
    void (*make)(Draws *d, int digits, Problem *p);
    const char *reward;
    int least, most; /* digits */
};

static const Task tasks[] = {
    {"addition", addition, "accuracy", 1, 12},
    {"subtraction", subtraction, "accuracy", 1, 12},
    {"multiplication", multiplication, "accuracy", 1, 12},
    {"sort", sort, "accuracy", 2, 32},
    {"countdown", countdown, "countdown", 2, 6},
};
enum { TASKS = sizeof tasks / sizeof *tasks };

const char *const task_names[] = {"addition", "subtraction", "multiplication",
                                  "sort",     "countdown",   NULL};

const Task *task_find(const char *name, Error *err) {
    for (int i = 0; i < TASKS; i++)
        if (strcmp(tasks[i].name, name) == 0) return &tasks[i];
    error_set(err,
              "there is no task \"%s\"; there are addition, subtraction, multiplication, sort, "
              "countdown",
              name);
    return NULL;
}

const char *task_reward(const Task *task) { return task->reward; }

int task_check(const TaskConfig *cfg, Error *err) {
    const Task *t = cfg->task;
    if (cfg->digits < t->least || cfg->digits > t->most)
        return error_set(err, "%s of %d: it must be %d to %d", t->name, cfg->digits, t->least,
                         t->most);
    return 0;
}

static void reverse(char *text) {
    for (size_t i = 0, j = strlen(text); i + 1 < j; i++) {
        char c = text[i];
        text[i] = text[--j], text[j] = c;
    }
}

/* FNV-1a, 64 bits: every character moves every bit. */
static uint64_t hash(const char *text) {
    uint64_t h = 14695981039346656037u;
    for (; *text; text++) h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h ^ h >> 32;
}

void task_problem(const TaskConfig *cfg, bool held_out, uint64_t index, Problem *problem) {
    Draws d = {cfg->seed, index, held_out ? (uint64_t)1 << 32 : 0};
    do cfg->task->make(&d, cfg->digits, problem);
    while ((hash(problem->prompt) % 10 == 0) != held_out);
    if (cfg->reversed && cfg->task->make != countdown) reverse(problem->answer);
}

/* ---- characters ---- */

static const char characters[] = "\n0123456789+-*/()=>,";

int task_vocab_size(void) { return sizeof characters - 1; }

int task_encode(const char *text, int32_t *ids, int most) {
    int count = 0;
    for (; *text; text++) {
        const char *at = strchr(characters, *text);
        if (!at || count == most) return -1;
        ids[count++] = (int32_t)(at - characters);
    }
    return count;
}

char task_character(int32_t id) { return characters[id]; }
