/*
 * One function for each line of the grammar. The text comes from a model: it may hold anything, so
 * depth is bounded, and sums and products are checked before they overflow.
 */
#include "09_grpo/rewards/expression.h"

#include <stdbool.h>
#include <stdlib.h>

enum { DEEPEST = 32 };

typedef struct Reader {
    const char *at;
    int64_t *numbers;
    int count, depth;
    bool wrong;
} Reader;

static int64_t expression(Reader *r);

static int64_t fail(Reader *r) {
    r->wrong = true;
    return 0;
}

static bool next_is(Reader *r, char c) {
    bool is = !r->wrong && *r->at == c;
    r->at += is;
    return is;
}

static int64_t number(Reader *r) {
    int64_t value = 0;
    if (*r->at < '0' || *r->at > '9' || r->count == EXPRESSION_NUMBERS) return fail(r);
    while (*r->at >= '0' && *r->at <= '9')
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, *r->at++ - '0', &value))
            return fail(r);
    r->numbers[r->count++] = value;
    return value;
}

static int64_t factor(Reader *r) {
    if (!next_is(r, '(')) return r->wrong ? 0 : number(r);
    if (++r->depth > DEEPEST) return fail(r);
    int64_t value = expression(r);
    r->depth--;
    return next_is(r, ')') ? value : fail(r);
}

static int64_t product(Reader *r) {
    int64_t value = factor(r);
    for (;;) {
        if (next_is(r, '*')) {
            if (__builtin_mul_overflow(value, factor(r), &value)) return fail(r);
        } else if (next_is(r, '/')) {
            int64_t divisor = factor(r);
            if (divisor == 0 || (divisor == -1 && value == INT64_MIN) || value % divisor)
                return fail(r);
            value /= divisor;
        } else {
            return value;
        }
    }
}

static int64_t expression(Reader *r) {
    int64_t value = product(r);
    for (;;) {
        if (next_is(r, '+')) {
            if (__builtin_add_overflow(value, product(r), &value)) return fail(r);
        } else if (next_is(r, '-')) {
            if (__builtin_sub_overflow(value, product(r), &value)) return fail(r);
        } else {
            return value;
        }
    }
}

int expression_value(const char *text, int64_t *value, int64_t *numbers, int *count) {
    Reader r = {text, numbers, 0, 0, false};
    *value = expression(&r);
    *count = r.count;
    return r.wrong || *r.at ? -1 : 0;
}

/* ---- countdown ---- */

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int countdown_read(Countdown *game, const char *prompt) {
    Reader r = {prompt, game->numbers, 0, 0, false};
    do number(&r);
    while (next_is(&r, ','));
    game->count = r.count;
    if (!next_is(&r, '>')) return -1;
    int64_t target[EXPRESSION_NUMBERS];
    r.numbers = target, r.count = 0;
    game->target = number(&r);
    return next_is(&r, '=') && !*r.at ? 0 : -1;
}

int countdown_solved(const Countdown *game, const char *text) {
    int64_t value, used[EXPRESSION_NUMBERS], given[EXPRESSION_NUMBERS];
    int count;
    if (expression_value(text, &value, used, &count) || count != game->count) return 0;
    for (int i = 0; i < count; i++) given[i] = game->numbers[i];
    qsort(used, (size_t)count, sizeof *used, by_size);
    qsort(given, (size_t)count, sizeof *given, by_size);
    for (int i = 0; i < count; i++)
        if (used[i] != given[i]) return 0;
    return value == game->target;
}
