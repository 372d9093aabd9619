/*
 * Exercise 05.8: pull towards even.
 *
 * The balance loss of a sequence of T tokens is L = sum_e f_e P_e. Here f_e stands for the share of
 * choices that went to expert e, times E (and alpha): it is a count and has no derivative. P_e is
 * the mean over the tokens of the expert's share of a token's scores, s_e / S with S = sum_i s_i.
 * Derive dL/ds_e for each token, and write it: dscores [sequences * length, experts] is
 * overwritten, or added to when add is 1, and everything is multiplied by dloss[0]. f [sequences,
 * experts] is each sequence's own, sums [sequences * length] holds S.
 *
 * Whoever wrote this held S fast: then the loss wants all scores of a token to shrink, which
 * changes no share at all.
 *
 * POINTS: 3
 * REPLACES: balance_loss_backward_cpu in 05_moe/balance_cpu.c
 * TESTS: test_balance:balance/loss_by_its_formula_cpu test_balance:balance/gradients_add_cpu
 * test_balance:balance/gradients_agree_with_finite_differences
 */
#include "05_moe/balance.h"

void balance_loss_backward_cpu(float *dscores, int add, const float *dloss, const float *f,
                               const float *sums, const float *scores, int64_t sequences,
                               int64_t length, int experts) {
    for (int64_t n = 0; n < sequences * length; n++)
        for (int e = 0; e < experts; e++) {
            float g = dloss[0] * f[n / length * experts + e] / (sums[n] * (float)length);
            dscores[n * experts + e] = add ? dscores[n * experts + e] + g : g;
        }
}
