/*
 * Exercise 09.1: four answers, with a pencil.
 *
 * One question, four answers; their rewards are 1, 0, 1/2, 0, and they have 2, 4, 2 and 2 tokens.
 * The advantage is (R - mean) / (std + 1e-4), with n - 1 beneath the deviation. Three digits:
 *
 *   best, worst       the advantage of the first answer, and of the second
 *   grpo_wrong        what each token of the second answer counts with loss grpo (every completion
 *                     counts alike): its weight, of all four completions
 *   dapo_wrong        the same with loss dapo (every token counts alike)
 *   loss_grpo         the loss before the first update, where all ratios are 1: the sum of weight
 *                     times -A over all tokens
 *   loss_dapo         the same with dapo's weights
 *
 * POINTS: 2
 */
extern const double best, worst, grpo_wrong, dapo_wrong, loss_grpo, loss_dapo;

const double best = 1;
const double worst = 1;
const double grpo_wrong = 1;
const double dapo_wrong = 1;
const double loss_grpo = 1;
const double loss_dapo = 1;
