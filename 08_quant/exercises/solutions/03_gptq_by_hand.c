/*
 * Solution 08.3: 0.7 becomes 1, e = -0.3, and half of it goes to the others: -1.55 and 126.85.
 * -1.55 becomes -2, e = 0.45, and the last is 127.075, which becomes 127. The outputs are off by 4
 * (0.3) = 1.2; 2 (0.3) + 4 (-0.6) = -1.8; 3 (0.3) + 2 (-0.6) = -0.3: 4.77. To nearest, (1, -1,
 * 127), it is 1.2, 2.2 and 1.7: 9.17.
 *
 * Shorter: 16 (0.3^2 + 0.45^2 + 0.075^2): what is left is each column's own error, for all the
 * rest has been made up for. (Tempting: to carry w' - w, which is -e: then errors are doubled. And
 * to forget the last column's own error: 127.075 is no whole number.)
 */
extern const double nearest[3], gptq_says[3], lost_nearest, lost_gptq;

const double nearest[3] = {1, -1, 127};
const double gptq_says[3] = {1, -2, 127};
const double lost_nearest = 9.17;
const double lost_gptq = 4.77;
