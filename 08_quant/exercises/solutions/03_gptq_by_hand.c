/*
 * Solution 08.3: -1.6 becomes -2, e = 0.4, and the others are 0.6 and 127.2. 0.6 becomes 1, e =
 * -0.4, and the last is 127.0. The outputs are off by 4 (-0.4) = -1.6; 2 (-0.4) + 4 (0.6) = 1.6; 3
 * (-0.4) + 2 (0.6) = 0: 5.12. To nearest it is (-0.4, -0.4, 0): -1.6, -2.4 and -2: 12.32.
 *
 * Shorter: 16 (0.4^2 + 0.4^2 + 0): what is left is each column's own error, for all the rest has
 * been made up for. (Tempting: to carry w' - w, which is -e: then errors are doubled.)
 */
extern const double nearest[3], gptq_says[3], lost_nearest, lost_gptq;

const double nearest[3] = {-2, 0, 127};
const double gptq_says[3] = {-2, 1, 127};
const double lost_nearest = 12.32;
const double lost_gptq = 5.12;
