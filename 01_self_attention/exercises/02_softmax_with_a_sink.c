/*
 * Exercise 01.2: a softmax with a sink.
 *
 * A token that finds nothing must still give its whole attention away, for the weights sum to 1.
 * Some models therefore add a sink: one more score, learned, whose share goes nowhere.
 *
 *     y_j = exp(x_j) / (exp(sink) + sum_k exp(x_k))
 *
 * Below is the formula as one first writes it down. Make it right for scores and sinks of any size,
 * -inf included, as long as one of a row's numbers, the sink among them, is finite. y may be the
 * same memory as x.
 *
 * POINTS: 2
 */
#include <math.h>
#include <stdint.h>

void softmax_with_a_sink(float *y, const float *x, float sink, int64_t rows, int64_t cols);

void softmax_with_a_sink(float *y, const float *x, float sink, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++, x += cols, y += cols) {
        float sum = expf(sink);
        for (int64_t j = 0; j < cols; j++) sum += expf(x[j]);
        for (int64_t j = 0; j < cols; j++) y[j] = expf(x[j]) / sum;
    }
}
