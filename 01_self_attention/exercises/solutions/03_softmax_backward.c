/*
 * Solution 01.3.  dx_k = sum_j dy_j y_j (delta_jk - y_k) = y_k (dy_k - sum_j dy_j y_j): one number
 * for each row, then one multiplication for each element. In words: what counts is how much better
 * dy_k is than the row's mean.
 */
#include "01_self_attention/softmax.h"

void softmax_backward_cpu(float *dx, int add, const float *dy, const float *y, int64_t rows,
                          int64_t cols) {
    for (int64_t i = 0; i < rows; i++, dx += cols, dy += cols, y += cols) {
        float mean = 0;
        for (int64_t j = 0; j < cols; j++) mean += dy[j] * y[j];
        for (int64_t k = 0; k < cols; k++) {
            float g = y[k] * (dy[k] - mean);
            dx[k] = add ? dx[k] + g : g;
        }
    }
}
