/*
 * Exercise 06.2: look ahead.
 *
 * What module k is given, and what it is asked for. For ids and targets [batch, tokens], with
 * targets[i] = ids[i + 1] in every window:
 *
 *     ids_k[i]      token i + k of the same window; where there is none, the window's last token
 *     targets_k[i]  token i + k + 1; IGNORE_TARGET where token i + k is not in the window, or where
 *                   one of the tokens i + 1 .. i + k is `end`: what follows is another document
 *
 * Whoever wrote this shifted the whole batch as one long text.
 *
 * POINTS: 2
 *
 * REPLACES: mtp_shift_cpu in 06_mtp/mtp_cpu.c
 *
 * TESTS: test_mtp:mtp/ids*cpu test_golden:golden
 */
#include "06_mtp/mtp.h"

void mtp_shift_cpu(int32_t *ids_k, int32_t *targets_k, const int32_t *ids, const int32_t *targets,
                   int64_t batch, int64_t tokens, int k, int32_t end) {
    int64_t count = batch * tokens;
    for (int64_t i = 0; i < count; i++) {
        ids_k[i] = i + k < count ? ids[i + k] : ids[count - 1];
        targets_k[i] = i + k < count ? targets[i + k] : IGNORE_TARGET;
    }
}
