/* Checks exercise 01.1 by counting multiply-adds. */
#include <criterion/criterion.h>

extern const long bytes_x, bytes_weights, projections, products, t_equal;

enum { T = 2048, C = 512, D = 64 };

static long multiply_adds(long m, long k, long n) { return m * k * n; }

Test(predict_the_cost, bytes) {
    cr_assert(bytes_x == (long)sizeof(float) * T * C, "bytes_x is not %ld", bytes_x);
    cr_assert(bytes_weights == (long)sizeof(float) * T * T, "bytes_weights is not %ld",
              bytes_weights);
}

Test(predict_the_cost, work) {
    cr_assert(projections == 3 * multiply_adds(T, C, D), "projections is not %ld", projections);
    cr_assert(products == multiply_adds(T, D, T) + multiply_adds(T, T, D), "products is not %ld",
              products);
}

Test(predict_the_cost, break_even) {
    long t = 1;
    while (multiply_adds(t, D, t) + multiply_adds(t, t, D) < 3 * multiply_adds(t, C, D)) t++;
    cr_assert(t_equal == t, "t_equal is not %ld", t_equal);
}
