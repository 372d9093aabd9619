/* Checks exercise 01.2 against the same sums in double, taken far from any limit. */
#include "common/program/testing.h"

#include <math.h>

void softmax_with_a_sink(float *y, const float *x, float sink, int64_t rows, int64_t cols);

enum { ROWS = 7, COLS = 33 };

/* Scores of about `size` around `middle`. */
static void compare(float middle, float size, float sink) {
    float x[ROWS * COLS], y[ROWS * COLS], want[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++) {
        x[i] = middle + size * rng_normal(1, 1, (uint64_t)i);
        y[i] = NAN;
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLS; j++) { /* every exponential relative to the one asked for */
            double sum = exp((double)sink - x[i * COLS + j]);
            for (int k = 0; k < COLS; k++) sum += exp((double)x[i * COLS + k] - x[i * COLS + j]);
            want[i * COLS + j] = (float)(1 / sum);
        }
    softmax_with_a_sink(y, x, sink, ROWS, COLS);
    check_close("the weights", y, want, ROWS * COLS, 1e-5); /* F32, sums of 34 */
    softmax_with_a_sink(x, x, sink, ROWS, COLS);
    check_close("the weights, in place", x, want, ROWS * COLS, 1e-5);
}

Test(sink, small_scores) { compare(0, 1, 0.5f); }
Test(sink, no_sink) { compare(0, 1, -INFINITY); }
Test(sink, scores_far_above) { compare(500, 3, 499); }
Test(sink, scores_far_below) { compare(-500, 3, -499); }
Test(sink, a_sink_far_below) { compare(0, 1, -2000); }

Test(sink, a_sink_far_above_takes_everything) {
    float x[3] = {-5, 0, 5}, y[3] = {NAN, NAN, NAN};
    softmax_with_a_sink(y, x, 2000, 1, 3);
    for (int j = 0; j < 3; j++) cr_assert(y[j] == 0, "weight %d is %g, not 0", j, y[j]);
}

Test(sink, scores_of_minus_infinity) {
    float x[3] = {-INFINITY, -INFINITY, -INFINITY}, y[3] = {NAN, NAN, NAN};
    softmax_with_a_sink(y, x, -3, 1, 3);
    for (int j = 0; j < 3; j++)
        cr_assert(y[j] == 0, "all goes to the sink, but weight %d is %g", j, y[j]);
}
