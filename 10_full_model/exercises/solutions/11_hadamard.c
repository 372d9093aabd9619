/*
 * Solution 10.11. [H H; H -H] (a, b) is (H (a + b), H (a - b)): sums and differences of the two
 * halves, and then the same on each half. The order of the passes does not matter. Tempting, and
 * wrong: to overwrite a before b needs it.
 */
#include "10_full_model/sparse/index_kernels.h"

#include <math.h>

void hadamard_cpu(float *x, int64_t rows, int64_t d) {
    for (int64_t half = d / 2; half > 0; half /= 2)
        for (int64_t i = 0; i < rows * d; i++)
            if (!(i & half)) { /* rows begin at multiples of 2 half */
                float a = x[i], b = x[i + half];
                x[i] = a + b, x[i + half] = a - b;
            }
    for (int64_t i = 0; i < rows * d; i++) x[i] /= sqrtf((float)d);
}
