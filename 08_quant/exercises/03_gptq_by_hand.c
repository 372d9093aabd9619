/*
 * Exercise 08.3: GPTQ by hand.
 *
 * The lesson's three tokens, (4, 0, 0), (2, 4, 0) and (3, 2, 4), and its INT8 with a scale of 1. A
 * third row of weights is
 *
 *     w = (0.7, -1.4, 127)
 *
 *   nearest[3]     rounded to nearest
 *   gptq_says[3]   by GPTQ, without damping: as the lesson has it, half of each error is carried to
 *                  every later column
 *   lost_nearest   ||X (w' - w)||^2 over the three tokens, rounded to nearest
 *   lost_gptq      and by GPTQ
 *
 * POINTS: 2
 */
extern const double nearest[3], gptq_says[3], lost_nearest, lost_gptq;

const double nearest[3] = {0};
const double gptq_says[3] = {0};
const double lost_nearest = 0;
const double lost_gptq = 0;
