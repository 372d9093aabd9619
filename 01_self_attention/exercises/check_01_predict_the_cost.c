/* Checks exercise 01.1 by counting multiply-adds. */
#include <criterion/criterion.h>

extern const long bytes_texts, bytes_weights, projections, products, t_equal;

enum { T = 1536, S = 6000, C = 768, D = 96, BYTES = 2 };

static long multiply_adds(long m, long k, long n) { return m * k * n; }

static long of_projections(long t, long s) {
    return multiply_adds(t, C, D) + multiply_adds(s, C, D) + multiply_adds(s, C, D);
}

static long of_products(long t, long s) { return multiply_adds(t, D, s) + multiply_adds(t, s, D); }

Test(predict_the_cost, bytes) {
    cr_assert(bytes_texts == (long)BYTES * (T + S) * C, "bytes_texts is not %ld", bytes_texts);
    cr_assert(bytes_weights == (long)BYTES * T * S, "bytes_weights is not %ld", bytes_weights);
}

Test(predict_the_cost, work) {
    cr_assert(projections == of_projections(T, S), "projections is not %ld", projections);
    cr_assert(products == of_products(T, S), "products is not %ld", products);
}

Test(predict_the_cost, break_even) {
    long t = 1;
    while (of_products(t, t) < of_projections(t, t)) t++;
    cr_assert(t_equal == t, "t_equal is not %ld", t_equal);
}
