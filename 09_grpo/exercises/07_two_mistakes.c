/*
 * Exercise 09.7: find the two mistakes.
 *
 * gspo_loss() is the loss with one ratio for a whole completion (GSPO; Zheng et al. 2025):
 *
 *     r = exp(mean over its actions of log pi - log pi_old)
 *     loss = mean over completions of -min(r A, clip(r, 1 - epsilon, 1 + epsilon) A)
 *
 * logp, old, mask [B, T]; mask is 1 where an action is. Tried with completions of equal length and
 * advantages above 0 it agreed with policy_loss(). Two lines are wrong. Mend both.
 *
 * POINTS: 3
 */
#include <math.h>

double gspo_loss(const float *logp, const float *old, const int *mask, const float *advantages,
                 int B, int T, double epsilon);

double gspo_loss(const float *logp, const float *old, const int *mask, const float *advantages,
                 int B, int T, double epsilon) {
    double loss = 0;
    for (int b = 0; b < B; b++) {
        double moved = 0, a = advantages[b];
        int actions = 0;
        for (int t = 0; t < T; t++) {
            if (mask[b * T + t]) moved += (double)logp[b * T + t] - (double)old[b * T + t];
            actions++;
        }
        double r = exp(moved / actions);
        double clipped = fmin(fmax(r, 1 - epsilon), 1 + epsilon);
        loss -= fmin(r, clipped) * a / B;
    }
    return loss;
}
