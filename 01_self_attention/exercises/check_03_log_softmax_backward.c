/* Checks exercise 01.3 by finite differences in double. */
#include "common/program/testing.h"

#include <math.h>

void log_softmax_backward(float *dx, int add, const float *dy, const float *y, int64_t rows,
                          int64_t cols);

enum { ROWS = 3, COLS = 9 };

static void log_softmax(double *y, const double *x) {
    double sum = 0;
    for (int j = 0; j < COLS; j++) sum += exp(x[j]);
    for (int j = 0; j < COLS; j++) y[j] = x[j] - log(sum);
}

static void compare(int add) {
    float dx[ROWS * COLS], dy[ROWS * COLS], y[ROWS * COLS], want[ROWS * COLS];
    for (int i = 0; i < ROWS; i++) {
        double x[COLS], z[COLS];
        for (int j = 0; j < COLS; j++) {
            x[j] = rng_normal(1, 1, (uint64_t)(i * COLS + j));
            dy[i * COLS + j] = rng_normal(1, 2, (uint64_t)(i * COLS + j));
        }
        log_softmax(z, x);
        for (int j = 0; j < COLS; j++) y[i * COLS + j] = (float)z[j];
        for (int k = 0; k < COLS; k++) {
            double h = 1e-4, loss[2], old = x[k];
            for (int side = 0; side < 2; side++) {
                x[k] = side ? old + h : old - h;
                log_softmax(z, x);
                loss[side] = 0;
                for (int j = 0; j < COLS; j++) loss[side] += dy[i * COLS + j] * z[j];
            }
            x[k] = old;
            want[i * COLS + k] = (float)((loss[1] - loss[0]) / (2 * h)) + (add ? 10 : 0);
            dx[i * COLS + k] = add ? 10 : NAN;
        }
    }
    log_softmax_backward(dx, add, dy, y, ROWS, COLS);
    check_close("dx", dx, want, ROWS * COLS, 1e-5); /* h^2 and the roundings of F32 */
}

Test(log_softmax_backward, overwrites) { compare(0); }
Test(log_softmax_backward, adds) { compare(1); }
