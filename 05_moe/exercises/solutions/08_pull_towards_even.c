/*
 * Solution 05.8. d(s_e / S) / ds_i = ((e == i) - s_e / S) / S, so
 *
 *     dL/ds_i = (f_i - sum_e f_e s_e / S) / (S T)
 *
 * which is the softmax's derivative in other clothes: an expert's score falls when its load is
 * above the token's own mean of loads. Multiplied by s_i and summed over i it is 0. The tempting
 * wrong answer leaves the mean out; a gradient that points the same way for all experts cannot even
 * anything out.
 */
#include "05_moe/balance.h"

void balance_loss_backward_cpu(float *dscores, int add, const float *dloss, const float *f,
                               const float *sums, const float *scores, int64_t sequences,
                               int64_t length, int experts) {
    for (int64_t n = 0; n < sequences * length; n++) {
        const float *load = f + n / length * experts, *s = scores + n * experts;
        float mean = 0;
        for (int e = 0; e < experts; e++) mean += load[e] * s[e] / sums[n];
        for (int e = 0; e < experts; e++) {
            float g = dloss[0] * (load[e] - mean) / (sums[n] * (float)length);
            dscores[n * experts + e] = add ? dscores[n * experts + e] + g : g;
        }
    }
}
