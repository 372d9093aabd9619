/*
 * Solution 09.1: the mean is 3/4, the squares 3/16 + 9/16 = 3/4 over 3 are 1/4, so the deviation is
 * 1/2: a right answer has 1/4 over 0.5001, the wrong one three times that, below 0. A completion
 * counts 1/4 in grpo, which the four tokens of the wrong one share; in dapo ten tokens count 1/10
 * each. With grpo the loss is minus the mean of the advantages, which is 0 whatever they are. With
 * dapo long answers count more: -(6 x 0.49990 - 4 x 1.49970) / 10. It says nothing about how good
 * the answers were, only that the wrong one was longer.
 */
extern const double best, worst, grpo_wrong, dapo_wrong, loss_grpo, loss_dapo;

const double best = 0.25 / 0.5001;
const double worst = -0.75 / 0.5001;
const double grpo_wrong = 1.0 / 16;
const double dapo_wrong = 1.0 / 10;
const double loss_grpo = 0;
const double loss_dapo = -(6 * 0.25 - 4 * 0.75) / 0.5001 / 10;
