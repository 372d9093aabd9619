/*
 * Solution 06.5. One draft makes 1 + a tokens for V + c: it pays when a > V + c - 1. The tempting
 * answer forgets V, as if looking at a second row were free: it says 0.40.
 */
extern const double even_full, even_small, perfect_full, two_small, third;

const double even_full = 1.1 + 0.4 - 1;
const double even_small = 1.1 + 0.1 - 1;
const double perfect_full = 2 / (1.1 + 0.4);
const double two_small = (1 + 0.9 + 0.9 * 0.8) / (1.25 + 2 * 0.1);
const double third = 0.9 * 0.8 * 0.5;
