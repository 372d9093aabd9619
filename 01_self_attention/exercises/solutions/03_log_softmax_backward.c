/*
 * Solution 01.3.  y_j = x_j - log Z with Z = sum exp(x_k), and d log Z / dx_k = exp(x_k) / Z, which
 * is exp(y_k). So dy_j/dx_k = (j == k) - exp(y_k), and
 *
 *     dx_k = dy_k - exp(y_k) sum_j dy_j
 *
 * The tempting wrong answer weighs the sum, sum_j dy_j exp(y_j), as softmax itself does: there y_k
 * is a factor of every term, here it is not. For a loss that wants one token t (dy_t = -1, all
 * others 0) it becomes dx_k = p_k - (k == t): what the model said minus what it should have said.
 */
#include <math.h>
#include <stdint.h>

void log_softmax_backward(float *dx, int add, const float *dy, const float *y, int64_t rows,
                          int64_t cols);

void log_softmax_backward(float *dx, int add, const float *dy, const float *y, int64_t rows,
                          int64_t cols) {
    for (int64_t i = 0; i < rows; i++, dx += cols, dy += cols, y += cols) {
        float sum = 0;
        for (int64_t j = 0; j < cols; j++) sum += dy[j];
        for (int64_t k = 0; k < cols; k++) {
            float g = dy[k] - expf(y[k]) * sum;
            dx[k] = add ? dx[k] + g : g;
        }
    }
}
