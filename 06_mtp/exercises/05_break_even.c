/*
 * Exercise 06.5: predict the break-even.
 *
 * Another model than the lesson's, wider and with fewer experts, in plain steps of 1: looking at
 * two rows costs 1.1, at three 1.25. A draft over all tokens costs 0.4, over the most frequent 8192
 * of them 0.1. Predict, to two places, with a pencil:
 *
 *   even_full       the acceptance above which one draft pays, with the full vocabulary
 *   even_small      the same with 8192 tokens
 *   perfect_full    the speed-up if every single draft is right, one draft, the full vocabulary
 *   two_small       the speed-up of two drafts, 8192 tokens, when the first is right in 0.9 of all
 *                   cases and the second, after a right one, in 0.8
 *   third           by how much a third draft that is right in 0.5 of all cases (after two right
 *                   ones) raises the tokens of a step
 *
 * POINTS: 2
 */
extern const double even_full, even_small, perfect_full, two_small, third;

const double even_full = 0;
const double even_small = 0;
const double perfect_full = 0;
const double two_small = 0;
const double third = 0;
