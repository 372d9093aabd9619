/* Checks exercise 01.11 by counting what a block fetches and does. */
#include <criterion/criterion.h>
#include <math.h>

extern const double balance, of_192_by_128, reached;
extern const int smallest_square, twice_the_units, softmax;

static const double PEAK = 800e12, MEMORY = 4e12;

/* For a k of 1: both grow with k alike. */
static double intensity(int rows, int columns) {
    double bytes = 0, operations = 0;
    for (int i = 0; i < rows; i++) bytes += 2;
    for (int j = 0; j < columns; j++) bytes += 2;
    for (int i = 0; i < rows; i++) operations += 2.0 * columns;
    return operations / bytes;
}

static int close_to(double a, double b) { return fabs(a - b) <= 0.005 * b; }

Test(roofline, numbers) {
    double most = fmin(PEAK, MEMORY * intensity(192, 128)) / 1e12;
    cr_assert(close_to(balance, PEAK / MEMORY), "balance is not %g", balance);
    cr_assert(close_to(of_192_by_128, intensity(192, 128)), "of_192_by_128 is not %g",
              of_192_by_128);
    cr_assert(close_to(reached, most), "reached is not %g TFLOP/s", reached);
}

Test(roofline, tile) {
    int side = 64;
    while (intensity(side, side) < PEAK / MEMORY) side += 64;
    cr_assert(smallest_square == side, "smallest_square is not %d", smallest_square);
}

/* The answers' hash, so that they are not read here by accident. */
Test(roofline, choices) {
    cr_assert(twice_the_units * 31 % 97 == 62, "twice_the_units is not '%c'", twice_the_units);
    cr_assert(softmax * 31 % 97 == 62, "softmax is not '%c'", softmax);
}
