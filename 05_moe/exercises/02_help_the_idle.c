/*
 * Exercise 05.2: help the idle.
 *
 * V3 keeps its experts busy without a loss: after each step
 *
 *     bias_e += gamma * sign(mean load - load_e)
 *
 * and counting begins anew (load = 0). bias may be NULL: a router without one. Whoever wrote this
 * moved the bias by the distance from the mean; then one crowded batch throws it far off.
 *
 * POINTS: 1
 *
 * REPLACES: balance_update_bias_cpu in 05_moe/balance_cpu.c
 *
 * TESTS: test_balance:balance/bias_update_by_hand_cpu test_moe:moe/an_expert*cpu
 */
#include "05_moe/balance.h"

void balance_update_bias_cpu(float *bias, int32_t *load, int experts, float gamma) {
    float mean = 0;
    for (int e = 0; e < experts; e++) mean += (float)load[e] / (float)experts;
    for (int e = 0; e < experts; e++) bias[e] += gamma * (mean - (float)load[e]);
}
