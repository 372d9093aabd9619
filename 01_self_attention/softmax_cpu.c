/*
 * Softmax on the CPU. A row is read, turned and written while it sits in the cache, so the work is
 * one exp per element; the fast version does that 8 or 16 at a time.
 */
#include "01_self_attention/softmax.h"

#include "common/core/fastmath.h"

#include <math.h>

/* ---- the reference ---- */

void softmax_reference_forward_cpu(float *y, const float *x, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++, x += cols, y += cols) {
        float max = -INFINITY;
        for (int64_t j = 0; j < cols; j++) max = fmaxf(max, x[j]);
        double sum = 0;
        for (int64_t j = 0; j < cols; j++) sum += exp((double)x[j] - max);
        for (int64_t j = 0; j < cols; j++) y[j] = (float)(exp((double)x[j] - max) / sum);
    }
}

/* dx_k = y_k (dy_k - sum_j dy_j y_j) */
void softmax_reference_backward_cpu(float *dx, int add, const float *dy, const float *y,
                                    int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++, dx += cols, dy += cols, y += cols) {
        double dot = 0;
        for (int64_t j = 0; j < cols; j++) dot += (double)dy[j] * y[j];
        for (int64_t j = 0; j < cols; j++) {
            float g = (float)(y[j] * (dy[j] - dot));
            dx[j] = add ? dx[j] + g : g;
        }
    }
}

/* ---- in use ---- */

/* Below this many elements the threads would take longer to wake up than to work. */
enum { PARALLEL_ELEMENTS = 1 << 14 };

/*
 * Three passes over one row, each a loop that gcc turns into SIMD. The order of the sum depends on
 * the width of the vectors, not on the threads: each row belongs to one thread.
 */
static void forward_row(float *y, const float *x, int64_t cols) {
    float max = -INFINITY, sum = 0;
#pragma omp simd reduction(max : max)
    for (int64_t j = 0; j < cols; j++) max = x[j] > max ? x[j] : max;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < cols; j++) {
        /* a NaN among the x passes the maximum by, and is caught here */
        float e = fast_exp(x[j] - max);
        y[j] = e;
        sum += e;
    }
    float scale = 1.0f / sum; /* one division for each row, not for each element */
#pragma omp simd
    for (int64_t j = 0; j < cols; j++) y[j] *= scale;
}

void softmax_forward_cpu(float *y, const float *x, int64_t rows, int64_t cols) {
#pragma omp parallel for schedule(static) if (rows * cols >= PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < rows; i++) forward_row(y + i * cols, x + i * cols, cols);
}

static void backward_row(float *dx, int add, const float *dy, const float *y, int64_t cols) {
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < cols; j++) dot += dy[j] * y[j];
    if (add) {
#pragma omp simd
        for (int64_t j = 0; j < cols; j++) dx[j] += y[j] * (dy[j] - dot);
    } else {
#pragma omp simd
        for (int64_t j = 0; j < cols; j++) dx[j] = y[j] * (dy[j] - dot);
    }
}

void softmax_backward_cpu(float *dx, int add, const float *dy, const float *y, int64_t rows,
                          int64_t cols) {
#pragma omp parallel for schedule(static) if (rows * cols >= PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < rows; i++)
        backward_row(dx + i * cols, add, dy + i * cols, y + i * cols, cols);
}
