/*
 * The k largest of a row, without sorting it.
 *
 * Floats are compared as integers: with the sign bit turned for positive numbers and all bits for
 * negative ones, larger floats are larger integers. The k-th largest of these is found digit by
 * digit, from the highest: one pass counts how many keys have which digit among those that agree in
 * the digits before, and the digit in which the count from above reaches k is the k-th's own. After
 * three passes (11, 11 and 10 bits) it is known whole, and how many equal to it belong to the
 * chosen. A last pass, from the first position to the last, takes what is larger, and of what is
 * equal the first ones.
 *
 * ReLU makes scores of exactly zero, often most of a row, so equal scores are the rule here: the
 * digits of a row of equals are counted into one bin, and nothing else happens to them.
 */
#include "10_full_model/sparse/index_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BINS = 2048 };

/* [top_k] */
/* Larger for larger floats; -0 is 0, and NaN is below everything. */
static uint32_t ordered(float x) {
    uint32_t bits;
    x += 0.0f; /* -0 + 0 is 0 */
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The k-th largest key of n, and into *equal how many that are equal to it are among the k. */
static uint32_t kth_largest(const float *scores, int n, int k, int *equal) {
    static const int shifts[] = {21, 10, 0};
    uint32_t prefix = 0, known = 0; /* the digits found, and where they stand */
    for (int pass = 0; pass < 3; pass++) {
        int counts[BINS] = {0}, bin = (pass < 2 ? 1 << 11 : 1 << 10) - 1;
        uint32_t digits = (uint32_t)bin;
        for (int i = 0; i < n; i++) {
            uint32_t key = ordered(scores[i]);
            if ((key & known) == prefix) counts[key >> shifts[pass] & digits]++;
        }
        for (; counts[bin] < k; bin--) k -= counts[bin];
        prefix |= (uint32_t)bin << shifts[pass];
        known |= digits << shifts[pass];
    }
    *equal = k;
    return prefix;
}

void top_k_row_cpu(int32_t *selected, const float *scores, int n, int k) {
    int filled = 0, equal = 0;
    uint32_t kth = n > k ? kth_largest(scores, n, k, &equal) : 0;
    for (int i = 0; i < n && n <= k; i++) selected[filled++] = i;
    for (int i = 0; i < n && n > k && filled < k; i++) {
        uint32_t key = ordered(scores[i]);
        if (key > kth || (key == kth && equal-- > 0)) selected[filled++] = i;
    }
    while (filled < k) selected[filled++] = -1;
}
/* [/top_k] */

void top_k_reference_cpu(int32_t *selected, const float *scores, int n, int k) {
    bool *taken = must_alloc((size_t)n, sizeof *taken);
    for (int round = 0; round < k && round < n; round++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (!taken[i] && (best < 0 || scores[i] > scores[best] ||
                              (isnan(scores[best]) && !isnan(scores[i]))))
                best = i;
        taken[best] = true;
    }
    int filled = 0;
    for (int i = 0; i < n; i++)
        if (taken[i]) selected[filled++] = i;
    while (filled < k) selected[filled++] = -1;
    free(taken);
}

void top_k_cpu(int32_t *selected, const float *scores, int k, IndexShape s) {
#pragma omp parallel for schedule(dynamic) if ((int64_t)s.batch * s.count * s.kv_len > 1 << 15)
    for (int64_t row = 0; row < (int64_t)s.batch * s.count; row++) {
        int b = (int)(row / s.count), t = s.first + (int)(row % s.count);
        int seen = index_keys_seen(&s, b, t);
        top_k_row_cpu(selected + ((int64_t)b * s.q_len + t) * k, scores + row * s.kv_len,
                      seen > 0 ? seen : 0, k);
    }
}
