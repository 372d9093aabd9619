/*
 * Solution 09.7: actions were counted outside of the mask, so padding made every ratio smaller than
 * it is; and the minimum was taken of the ratios instead of the products, which for A < 0 is the
 * larger product: then a bad answer that has become likelier counts no more than the clip allows,
 * and one that has become much less likely is pushed on for ever. (Tempting: to suspect the mean of
 * log-ratios. GSPO's ratio is the geometric mean, and that is right.)
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
            actions += mask[b * T + t];
        }
        double r = exp(moved / actions);
        double clipped = fmin(fmax(r, 1 - epsilon), 1 + epsilon);
        loss -= fmin(r * a, clipped * a) / B;
    }
    return loss;
}
