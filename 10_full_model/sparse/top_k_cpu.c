/*
 * The k largest of a row, without sorting it.
 *
 * Floats are compared as integers: with the sign bit turned for positive numbers and all bits for
 * negative ones, larger floats are larger integers. The k-th largest of these is found digit by
 * digit, from the highest: one pass counts how many keys have which digit among those that agree in
 * the digits before, and the digit in which the count from above reaches k is the k-th's own. After
 * three passes (11, 11 and 10 bits) it is known whole, and how many equal to it belong to the
 * chosen. A last pass, from the first position to the last, takes what is larger, and of what is
 * equal the first ones. Once the first digit is known, few positions are left as a rule, and the
 * other passes look at those alone.
 *
 * ReLU makes scores of exactly zero, often most of a row, so equal scores are the rule here: the
 * digits of a row of equals are counted into one bin, and nothing else happens to them.
 */
#include "10_full_model/sparse/index_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BINS = 2048, LISTED = 4096 };

/* [top_k] */
/* Larger for larger floats; -0 is 0, and NaN is below everything. */
static inline uint32_t ordered(float x) {
    uint32_t bits;
    float y = x + 0.0f; /* -0 + 0 is 0 */
    memcpy(&bits, &y, sizeof bits);
    bits ^= (uint32_t)((int32_t)bits >> 31) | 0x80000000u;
    return x == x ? bits : 0;
}
/* [/top_k] */

/* What is left of a row: the positions that may still be chosen, in order; list NULL: all. */
typedef struct Left {
    const int32_t *list;
    int count;
} Left;

static inline int position(Left left, int i) { return left.list ? left.list[i] : i; }

/* The digit of the k-th largest key among those whose higher digits are `prefix`. *k becomes its
 * place among the keys that have this digit too, *above how many are left that are not below. */
static uint32_t digit_of_kth(const float *scores, Left left, uint32_t prefix, uint32_t known,
                             int shift, uint32_t digits, int *k, int *above) {
    int counts[2][BINS] = {0}; /* two, so that equal neighbours do not wait for each other */
    uint32_t bin = digits;
    for (int i = 0; i < left.count; i++) {
        uint32_t key = ordered(scores[position(left, i)]);
        if ((key & known) == prefix) counts[i & 1][key >> shift & digits]++;
    }
    for (*above = 0;; bin--) {
        int here = counts[0][bin] + counts[1][bin];
        *above += here;
        if (here >= *k) return bin;
        *k -= here;
    }
}

void top_k_row_cpu(int32_t *selected, const float *scores, int n, int k) {
    int32_t list[LISTED + 1]; /* the last is written, never kept */
    Left left = {NULL, n};
    uint32_t kth = 0, known = 0; /* the digits found, and where they stand */
    int filled = 0, equal = k, above;
    static const int shifts[] = {21, 10, 0};
    for (int pass = 0; pass < 3 && n > k; pass++) {
        uint32_t digits = (pass < 2 ? 1u << 11 : 1u << 10) - 1;
        kth |= digit_of_kth(scores, left, kth, known, shifts[pass], digits, &equal, &above)
               << shifts[pass];
        known |= digits << shifts[pass];
        if (pass || above > LISTED) continue;
        for (int i = left.count = 0; i < n; i++) { /* written always, kept if not below */
            list[left.count] = i;
            left.count += ordered(scores[i]) >= kth && left.count < above;
        }
        left.list = list;
    }
    for (int i = 0; i < left.count && filled < k; i++) {
        int at = position(left, i);
        uint32_t key = ordered(scores[at]);
        if (n <= k || key > kth || (key == kth && equal-- > 0)) selected[filled++] = at;
    }
    while (filled < k) selected[filled++] = -1;
}

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
