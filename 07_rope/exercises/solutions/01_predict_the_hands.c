/*
 * Solution 07.1: a pair comes round when p f = 2 pi, so pair i needs 2 pi theta^(2i / 128) tokens.
 * For the last one that is 2 pi 500000^(126 / 128). Within 16,384 tokens come those with
 * i <= 64 ln(16384 / 2 pi) / ln 500000 = 38.4, that is 0 .. 38. (Tempting: 38, for pairs count
 * from 0; and theta = 2 pi 500000, as if the last exponent were 1.)
 *
 * Two fifths of a turn: after 5 tokens it has made 2 turns, and after no fewer a whole number.
 * (Tempting: 2.5, which is no distance.) Both hands are back at the least common multiple of 5 and
 * 6.
 */
extern const double slowest_round;
extern const int come_round, alias_of_one, alias_of_two;

const double slowest_round = 2557000;
const int come_round = 39;
const int alias_of_one = 5;
const int alias_of_two = 30;
