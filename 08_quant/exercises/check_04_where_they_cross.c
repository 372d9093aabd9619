/* The formulas against rounding many numbers. */
#include "08_quant/formats.h"
#include "common/core/rng.h"

#include <criterion/criterion.h>
#include <math.h>

double error_whole(double outlier, int largest);
double error_float(int fraction);
double crossing(int largest, int fraction);
extern const int bits_more;

enum { IN = 1 << 16 };
static float w[IN], back[IN];

static double measured(DType dtype, double outlier) {
    for (int i = 0; i < IN; i++) w[i] = i ? rng_normal(1, 1, (uint64_t)i) : (float)outlier;
    quant_round_trip(back, NULL, w, 1, IN, &(QuantFormat){dtype, 1, 0, false}, NULL);
    return quant_error(back + 1, w + 1, IN - 1);
}

/* Given, and left as it was. */
Test(where_they_cross, whole_numbers) {
    for (double outlier = 6; outlier < 200; outlier *= 2)
        cr_assert(fabs(error_whole(outlier, 127) / measured(U8, outlier) - 1) < 0.03,
                  "an outlier of %g: not %g", outlier, error_whole(outlier, 127));
}

/* Normal numbers are not quite equally likely within their powers of two. */
Test(where_they_cross, floats) {
    cr_assert(fabs(error_float(3) / measured(F8_E4M3, 100) - 1) < 0.12, "E4M3: not %g",
              error_float(3));
    cr_assert(fabs(error_float(2) / measured(F8_E5M2, 100) - 1) < 0.12, "E5M2: not %g",
              error_float(2));
    for (int fraction = 1; fraction < 8; fraction++) {
        double share = sqrt(1.0 / 12) * pow(2, -fraction) / sqrt(7.0 / 3);
        cr_assert(fabs(error_float(fraction) / share - 1) < 0.01, "%d bits: not %g", fraction,
                  error_float(fraction));
    }
}

Test(where_they_cross, both) {
    for (int fraction = 1; fraction < 8; fraction++)
        for (int largest = 7; largest < 128; largest = 2 * largest + 1) {
            double x = crossing(largest, fraction);
            cr_assert(fabs(error_whole(x, largest) / error_float(fraction) - 1) < 0.01,
                      "at %g they are %g and %g", x, error_whole(x, largest),
                      error_float(fraction));
        }
    cr_assert(fabs(crossing(127, 3 + bits_more) / crossing(127, 3) - 0.25) < 1e-6,
              "with %d bits more it lies at %g of where it was", bits_more,
              crossing(127, 3 + bits_more) / crossing(127, 3));
}
