/*
 * Solution 06.5. One draft makes 1 + a tokens for V + c: it pays when a > V + c - 1. The tempting
 * answer forgets V, as if looking at a second row were free: it says 0.58.
 */
extern const double even_full, even_small, perfect_full, two_small, third;

const double even_full = 1.16 + 0.58 - 1;
const double even_small = 1.16 + 0.16 - 1;
const double perfect_full = 2 / (1.16 + 0.58);
const double two_small = (1 + 0.8 + 0.8 * 0.7) / (1.29 + 2 * 0.16);
const double third = 0.8 * 0.7 * 0.6;
