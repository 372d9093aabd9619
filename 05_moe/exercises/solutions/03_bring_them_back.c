/*
 * Solution 05.3. Each token collects, so no two threads write to one place and the sum has one
 * order. The tempting wrong way goes through the rows and adds each to its token: that is right on
 * one thread, and in another order in every run on many. And a token all of whose choices were
 * dropped is base, not rubbish.
 */
#include "05_moe/dispatch.h"

void dispatch_combine_cpu(float *y, const float *base, const float *yp, const float *weights,
                          const int32_t *row_of_slot, int64_t tokens, int top_k, int64_t d) {
    for (int64_t n = 0; n < tokens; n++) {
        for (int64_t i = 0; i < d; i++) y[n * d + i] = base ? base[n * d + i] : 0;
        for (int j = 0; j < top_k; j++) {
            int32_t row = row_of_slot[n * top_k + j];
            if (row < 0) continue;
            for (int64_t i = 0; i < d; i++)
                y[n * d + i] += weights[n * top_k + j] * yp[row * d + i];
        }
    }
}
