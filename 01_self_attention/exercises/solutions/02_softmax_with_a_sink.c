/*
 * Solution 01.2. The sink is a score like the others, so it takes part in the maximum, too. The
 * tempting wrong answer takes the maximum of the x alone: it passes as long as the sink is small,
 * and exp(sink - max) overflows when the sink is the largest. Starting the maximum at the sink
 * instead of at -infinity also spares the case that all x are -inf.
 */
#include <math.h>
#include <stdint.h>

void softmax_with_a_sink(float *y, const float *x, float sink, int64_t rows, int64_t cols);

void softmax_with_a_sink(float *y, const float *x, float sink, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++, x += cols, y += cols) {
        float max = sink;
        for (int64_t j = 0; j < cols; j++) max = fmaxf(max, x[j]);
        float sum = expf(sink - max);
        for (int64_t j = 0; j < cols; j++) {
            y[j] = expf(x[j] - max);
            sum += y[j];
        }
        for (int64_t j = 0; j < cols; j++) y[j] /= sum;
    }
}
