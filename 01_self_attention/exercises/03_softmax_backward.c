/*
 * Exercise 01.3: the derivative of softmax.
 *
 * Given y = softmax(x) and dy = dloss/dy, row by row, compute dx = dloss/dx; overwrite dx when add
 * is 0, add to it when add is 1. Below, somebody took softmax for a function of one number, like
 * the logistic function, whose derivative is y (1 - y). But every y_j depends on every x_k, through
 * the sum.
 *
 * POINTS: 3
 * REPLACES: softmax_backward_cpu in 01_self_attention/softmax_cpu.c
 * TESTS: test_softmax:softmax test_attention:attention
 */
#include "01_self_attention/softmax.h"

void softmax_backward_cpu(float *dx, int add, const float *dy, const float *y, int64_t rows,
                          int64_t cols) {
    for (int64_t i = 0; i < rows; i++, dx += cols, dy += cols, y += cols)
        for (int64_t k = 0; k < cols; k++) {
            float g = dy[k] * y[k] * (1 - y[k]);
            dx[k] = add ? dx[k] + g : g;
        }
}
