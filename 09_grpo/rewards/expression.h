/*
 * Arithmetic in text, and the countdown game: make a target from some numbers.
 *
 *     expression = product { (+ | -) product }       whole numbers only, and a quotient must be
 *     product    = factor { (* | /) factor }         one: nothing is rounded, so nothing is nearly
 *     factor     = number | ( expression )           right
 */
#ifndef EXPRESSION_H
#define EXPRESSION_H

#include <stdint.h>

enum { EXPRESSION_NUMBERS = 8 };

/* The value of the whole text, and the numbers in it in their order: 0; or -1 when it is no
 * expression, divides without a whole result, leaves 64 bits, or has more than EXPRESSION_NUMBERS
 * numbers. */
int expression_value(const char *text, int64_t *value, int64_t *numbers, int *count);

typedef struct Countdown {
    int64_t numbers[EXPRESSION_NUMBERS], target;
    int count;
} Countdown;

/* "3,7,25>46=": 0, or -1 when the text is no such question. */
int countdown_read(Countdown *game, const char *prompt);

/* Has the text the target's value, and each of the numbers in it as often as it was given? */
int countdown_solved(const Countdown *game, const char *text);

#endif
