/*
 * Exercise 07.1: predict the hands of another clock.
 *
 * A model turns 128 numbers of a head, in 64 pairs, with theta = 500000. It was trained on texts
 * of 16,384 tokens. Predict, with a pencil and a pocket calculator:
 *
 *   slowest_round    tokens until the last pair, number 63, has come round once; 1 % off is right
 *   come_round       how many of the 64 pairs come round at least once within 16,384 tokens
 *   alias_of_one     one pair that makes two fifths of a turn per token: the smallest distance
 *                    above 0 that it cannot tell from 0
 *   alias_of_two     two pairs, two fifths and a sixth of a turn per token: the same for both
 *                    together
 *
 * POINTS: 2
 */
extern const double slowest_round;
extern const int come_round, alias_of_one, alias_of_two;

const double slowest_round = 0;
const int come_round = 0;
const int alias_of_one = 0;
const int alias_of_two = 0;
