/*
 * Exercise 07.1: predict the hands of the clock.
 *
 * DeepSeek-V3 turns 64 numbers of a head, in 32 pairs, with theta = 10000. It was trained on texts
 * of 4096 tokens at first. Predict, with a pencil or a pocket calculator:
 *
 *   slowest_round    tokens until the last pair, number 31, has come round once (to the nearest 1)
 *   come_round       how many of the 32 pairs come round at least once within 4096 tokens
 *   alias_of_one     one pair that makes a quarter turn per token: the smallest distance above 0
 *                    that it cannot tell from 0
 *   alias_of_two     two pairs, a quarter turn and a tenth of a turn per token: the same for both
 *                    together
 *
 * POINTS: 2
 */
extern const int slowest_round, come_round, alias_of_one, alias_of_two;

const int slowest_round = 47117; /* 2 pi 10000^(62/64) */
const int come_round = 23;       /* 2 pi 10000^(2i/64) <= 4096: i <= 22.5, so 0 .. 22 */
const int alias_of_one = 4;
const int alias_of_two = 20; /* the least common multiple of 4 and 10 */
