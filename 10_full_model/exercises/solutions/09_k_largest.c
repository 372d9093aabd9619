/*
 * Solution 10.9. As integers, floats keep their order if the sign bit is turned, and of negative
 * ones all other bits too. Then the k-th largest can be found bit by bit, from the highest: set the
 * bit, and keep it if at least k keys are not smaller. 32 passes that only count; the program does
 * it in three, by digits of 11 bits. Tempting, and wrong: to take all keys that are not below the
 * k-th. With many equal to it that is more than k.
 */
#include "10_full_model/sparse/index_kernels.h"

#include <math.h>
#include <string.h>

static uint32_t key_of(float x) {
    uint32_t bits;
    if (isnan(x)) return 0;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

void top_k_row_cpu(int32_t *selected, const float *scores, int n, int k) {
    uint32_t kth = 0;
    int filled = 0, equal = k;
    for (int bit = 31; bit >= 0 && n > k; bit--) {
        uint32_t with = kth | 1u << bit;
        int count = 0;
        for (int i = 0; i < n; i++) count += key_of(scores[i]) >= with;
        if (count >= k) kth = with;
    }
    for (int i = 0; i < n; i++) equal -= key_of(scores[i]) > kth;
    for (int i = 0; i < n && filled < k; i++) {
        uint32_t key = key_of(scores[i]);
        if (n <= k || key > kth || (key == kth && equal-- > 0)) selected[filled++] = i;
    }
    while (filled < k) selected[filled++] = -1;
}
