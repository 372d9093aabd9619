/*
 * Solution 09.1: the mean is 3/8; the squares 25, 1, 9 and 9 of 64ths are 11/16 together, over 3
 * they are 0.229, and the deviation is 0.4787. (Tempting: over 4; and to take 0 for the worst,
 * which only an answer of the mean's reward has.) A completion counts 1/4 in grpo, which the four
 * tokens of the second one share; in dapo ten tokens count 1/10 each. With grpo the loss is minus
 * the mean of the advantages, which is 0 whatever they are. With dapo long answers count more: two
 * tokens of the first, third and fourth, four of the second. So it says nothing about how good the
 * answers were, only that a bad one was longer.
 */
extern const double best, worst, grpo_wrong, dapo_wrong, loss_grpo, loss_dapo;

const double best = 0.625 / 0.4788;
const double worst = -0.375 / 0.4788;
const double grpo_wrong = 1.0 / 16;
const double dapo_wrong = 1.0 / 10;
const double loss_grpo = 0;
const double loss_dapo = -(2 * 0.625 - 4 * 0.375 + 2 * 0.125 - 2 * 0.375) / 0.4788 / 10;
