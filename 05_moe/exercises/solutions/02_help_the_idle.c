/*
 * Solution 05.2: only the sign counts, so a crowded batch moves the bias no further than a mild
 * one.
 */
#include "05_moe/balance.h"

void balance_update_bias_cpu(float *bias, int32_t *load, int experts, float gamma) {
    int64_t total = 0;
    for (int e = 0; e < experts; e++) total += load[e];
    for (int e = 0; e < experts; e++) {
        int64_t mine = (int64_t)load[e] * experts;
        if (bias && mine < total) bias[e] += gamma;
        if (bias && mine > total) bias[e] -= gamma;
        load[e] = 0;
    }
}
